// Reading the caller's mappings or lists: names paired with parameters and gradients.
#pragma once
#include <utility>
#include <vector>

#include "plan.hpp"

namespace schuss {

// Tells of the class of gradients by rows, once.
void learn_rows(const py::object& type);

// Tells of the functions that tell whether a value holds parameters itself, and that name all below it by their paths.
void learn_nested(const py::object& is_nest, const py::object& flatten);

// Tells of the functions that show the memory of another library's gradient, or parameter, as an array, or return None.
void learn_views(const py::object& of_gradient, const py::object& of_parameter);
py::object array_of_parameter(const py::object& value, bool tensors);  // or the value itself

// Pairs each parameter with its gradient in `entries`; leaves out those whose gradient is None. True if there is a
// plan that knows them, and no others; else all are looked at.
// Tensors are taken where that is said. Nested ones are, where there is a place for them by their paths: parameters and
// gradients, which are then what is stepped.
using ByPath = std::pair<py::object, py::object>;
bool collect(const py::object& params, const py::object& grads, const Plan* plan, bool tensors,
             std::vector<Entry>& entries, ByPath* by_path = nullptr);

// The new values of floats, which are put where the old ones were. Unless they are kept the old ones come back: where
// the caller's mapping refuses one of them, or the step ends in an error.
class Rebound {
 public:
  explicit Rebound(const py::object& params) : params_(params) {}
  ~Rebound();
  Rebound(const Rebound&) = delete;
  Rebound& operator=(const Rebound&) = delete;
  void set(const Entry& entry, const py::object& value);
  void keep() { old_.clear(); }

 private:
  const py::object& params_;
  std::vector<std::pair<py::object, py::object>> old_;  // key, value
};

}  // namespace schuss
