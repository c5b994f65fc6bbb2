// Reading the caller's mappings or lists: names paired with parameters and gradients.
#pragma once
#include <vector>

#include "plan.hpp"

namespace schuss {

// Pairs each parameter with its gradient, both looked at, in `entries`; leaves out those whose gradient is None.
void collect(const py::object& params, const py::object& grads, std::vector<Entry>& entries);

// Puts the new value of a float where the old one was.
void rebind(const py::object& params, const py::object& key, const py::object& value);

}  // namespace schuss
