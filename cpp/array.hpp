// One array as NumPy's C API shows it, and the checks that concern it alone.
#pragma once
#include <pybind11/numpy.h>

#include <string>
#include <vector>

#include "format.hpp"

namespace schuss {

namespace py = pybind11;

// How a value came: a float cannot change in place, so its entry in the caller's mapping is rebound.
enum class Kind : char { array, tensor, python_float, numpy_scalar };

// Shape and strides (in bytes), as they were when an array was looked at: NumPy frees its own when another thread
// assigns to `shape`, so they are copied. Few axes take no memory of their own.
class Layout {
 public:
  Layout() = default;
  Layout(int ndim, const py::ssize_t* shape, const py::ssize_t* strides);
  int ndim() const { return ndim_; }
  const py::ssize_t* shape() const { return ndim_ <= few ? few_ : many_.data(); }
  const py::ssize_t* strides() const { return shape() + ndim_; }
  bool same(int ndim, const py::ssize_t* shape, const py::ssize_t* strides) const;
  bool same_shape(const Layout& other) const;
  bool empty() const;

 private:
  static constexpr int few = 4;
  int ndim_ = 0;
  py::ssize_t few_[2 * few];
  std::vector<py::ssize_t> many_;
};

// What must be the same for an earlier check of an array to hold for it again.
struct View {
  char* data = nullptr;
  Format format = Format::float32;
  Kind kind = Kind::array;
  Layout layout;

  size_t itemsize() const { return about(format).itemsize; }
  const char* dtype() const { return about(format).name; }
  bool in_memory() const { return kind == Kind::array || kind == Kind::tensor; }
  size_t size() const;
  bool same_layout(const View& other) const;
  // Where a value lies that would look the same otherwise, and be it read-only; nullptr if it would not.
  char* place_of(py::handle value) const;
};

enum class Role : char { parameter, gradient, state };

// Whose array it is. It becomes text where there is an error to be told.
struct Name {
  Role role;
  py::handle key;              // of the caller's mapping; none where a function is given arrays by themselves
  const char* slot = nullptr;  // of the state; or, without a key, the argument

  bool written() const { return role != Role::gradient; }
  std::string text() const;  // "params['W1']", "grads['W1']", "the state 'm' of params['W1']", or "m"
};

// To be called once, when the module is loaded: learns the types that NumPy's arrays and scalars have.
void learn_types();

// Whether a value is an array, and of no subclass that may mean more than its numbers.
bool is_array(py::handle value);

// Whether a value is a number: a Python float, or one of NumPy's floats of 32 and 64 bits.
bool is_number(py::handle value);

// The view of a value that is fit for its role; py::type_error or py::value_error otherwise.
// A float has no memory of its own to show: its view's data is nullptr. State is never a float. Tensors are taken where
// that is said.
View look(py::handle value, const Name& name, bool tensors = false);

// The same for a function on plain memory: a contiguous array of these lengths, of which -1 is any.
View look_contiguous(py::handle value, const Name& name, const std::vector<py::ssize_t>& shape);
View look_contiguous(py::handle value, const Name& name, const std::vector<py::ssize_t>& shape, Format format);

// Whether an array can be written: now.
bool is_writeable(py::handle array);

// What an array that is a view has its memory from; no object where it owns it.
py::object owner_of(py::handle value);

// A float of the kind and format that a view has seen.
py::object float_like(const View& view, double value);

std::string shape_text(const View& view);

// Copies all of one array into another of the same shape. No Python code runs meanwhile.
void copy_into(py::handle to, py::handle from);

// Memory from the lowest to one past the highest byte of any element; empty for an empty array.
struct Extent {
  const char *low, *high;
};
Extent extent_of(const View& view);

}  // namespace schuss
