// The numbers of a step as arrays of Python's, and back.
#include "ranks.hpp"

#include <pybind11/stl.h>

namespace schuss {
namespace {

py::array_t<double> by_blocks(const Tensor& tensor, const double* sums) {
  return py::array_t<double>(static_cast<py::ssize_t>(tensor.blocks()), sums);
}

}  // namespace

std::pair<double, py::object> Ranks::survey(const Plan& plan, const Passes& passes) const {
  py::list finite, sums;
  for (size_t i = 0; i < plan.tensors().size(); ++i) {
    finite.append(passes.all_finite(i));
    sums.append(by_blocks(plan.tensors()[i], passes.u_sums(i)));
  }
  auto [norm, name] = given_.attr("survey")(finite, sums).cast<std::pair<double, std::optional<py::object>>>();
  return {norm, name ? *name : py::object()};
}

void Ranks::ready(const Orders& orders) const {
  if (!given_) return;
  py::list scalars;
  for (const Group& group : orders.groups) scalars.append(py::cast(group.scalars));
  given_.attr("ready")(scalars);
}

std::vector<Norms> Ranks::norms(const Plan& plan, const Passes& passes) const {
  py::list p, u;
  for (size_t i = 0; i < plan.tensors().size(); ++i) {
    p.append(by_blocks(plan.tensors()[i], passes.p_sums(i)));
    u.append(by_blocks(plan.tensors()[i], passes.u_sums(i)));
  }
  std::vector<Norms> found;
  for (const auto& [of_p, of_u] : given_.attr("norms")(p, u).cast<std::vector<std::pair<double, double>>>())
    found.push_back({of_p, of_u});
  if (found.size() != plan.tensors().size()) throw py::value_error("norms: expected a pair for each parameter");
  return found;
}

}  // namespace schuss
