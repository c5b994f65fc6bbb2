// What the processes that share an optimizer ask each other within a step, through an object of Python's.
#pragma once
#include <utility>
#include <vector>

#include "passes.hpp"

namespace schuss {

// Of a parameter and its direction.
struct Norms {
  double p, u;
};

// Engine::update_share tells of its methods. Without an object a step is one process's alone, and nothing is asked.
class Ranks {
 public:
  Ranks() = default;
  explicit Ranks(py::object given) : given_(std::move(given)) {}
  explicit operator bool() const { return static_cast<bool>(given_); }

  // The norm over all gradients, and the name of the first that is not finite; no object where all are.
  std::pair<double, py::object> survey(const Plan& plan, const Passes& passes) const;
  void ready(const Orders& orders) const;
  std::vector<Norms> norms(const Plan& plan, const Passes& passes) const;

  // step(low, high) for each stretch of the row.
  template <class Step>
  void each_window(size_t bytes, Step step) const {
    const auto ends = given_.attr("windows").cast<std::vector<size_t>>();
    if (!ends.empty() && ends.back() != bytes) throw py::value_error("windows: the last must end where the row does");
    size_t low = 0;
    for (size_t i = 0; i < ends.size(); ++i) {
      given_.attr("before")(i);
      if (ends[i] > low) step(low, ends[i]);
      low = ends[i];
      given_.attr("after")(i);
    }
  }

 private:
  py::object given_;
};

}  // namespace schuss
