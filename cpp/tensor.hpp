// Tensors of another library, looked at through the functions that it offers in C: no Python object is made.
#pragma once
#include <cstdint>
#include <optional>

#include "array.hpp"

namespace schuss {

// Tells of a class whose objects are tensors, by the table that it has as `__dlpack_c_exchange_api__`.
void learn_tensors(const py::object& type);

// Whether a value is of such a class itself, not of one that inherits from it.
bool is_tensor(py::handle value);

// A tensor's memory as it is now. Shape and strides, which are in elements, are lent until the tensor changes.
struct Shown {
  char* data;
  int ndim;
  const int64_t *shape, *strides;
  std::optional<Format> format;  // of those that may be a parameter's
  bool on_cpu, aligned;
};
std::optional<Shown> show(py::handle value);  // of what is a tensor

// What View::place_of() is for tensors.
char* place_of_tensor(const View& view, py::handle value);

}  // namespace schuss
