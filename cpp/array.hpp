// One array as NumPy's C API shows it, and the checks that concern it alone.
#pragma once
#include <pybind11/numpy.h>

#include <string>
#include <vector>

namespace schuss {

namespace py = pybind11;

// How a value came: a float cannot change in place, so its entry in the caller's mapping is rebound.
enum class Kind : char { array, python_float, numpy_float64, numpy_float32 };

// What must be the same for an earlier check of an array to hold for it again.
struct View {
  char* data = nullptr;
  int ndim = 0;
  bool is_double = false;
  bool writeable = false;
  Kind kind = Kind::array;
  const py::ssize_t* shape = nullptr;    // borrowed from the array
  const py::ssize_t* strides = nullptr;  // in bytes

  size_t itemsize() const { return is_double ? sizeof(double) : sizeof(float); }
  size_t size() const;
};

enum class Role { parameter, gradient, state };

// To be called once, when the module is loaded: learns the types that NumPy's arrays and scalars have.
void learn_types();

// "params['W1']", for error messages.
std::string name_of(Role role, py::handle key);

// The view of a value that is fit for its role; py::type_error or py::value_error otherwise.
// A float has no memory of its own to show: its view's data is nullptr.
View look(py::handle value, Role role, py::handle key);

double float_value(py::handle value);
py::object float_like(Kind kind, double value);

std::string shape_text(const View& view);
const char* dtype_text(const View& view);

// Memory from the lowest to one past the highest byte of any element; empty for an empty array.
struct Extent {
  const char *low, *high;
};
Extent extent_of(const View& view);

}  // namespace schuss
