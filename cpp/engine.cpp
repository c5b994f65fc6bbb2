// The way of an update: scalars, entries, plan, run, and back to the caller.
#include "engine.hpp"

#include <chrono>

#include "entries.hpp"
#include "isa.hpp"

namespace schuss {

const Kernel& find_kernel(const std::string& rule) {
  static const isa::Choice choice = isa::choose();
  for (const Kernel* kernel = choice.kernels; kernel->rule; ++kernel)
    if (rule == kernel->rule) return *kernel;
  throw py::value_error("no kernel is called " + rule);
}

Engine::Engine(const std::string& rule, const py::tuple& slots)
    : kernel_(find_kernel(rule)), slots_(slots), plan_(kernel_) {
  if (slots.size() != static_cast<size_t>(kernel_.slots))
    throw py::value_error(rule + " has " + std::to_string(kernel_.slots) + " state slots, got names for " +
                          std::to_string(slots.size()));
}

Engine::Turn::Turn(Engine& engine) : engine_(engine) {
  if (engine.owner_ == std::this_thread::get_id())
    throw std::runtime_error("update() was called from within an update() of the same optimizer");
  if (!engine.mutex_.try_lock()) {
    py::gil_scoped_release release;
    engine.mutex_.lock();
  }
  engine.owner_ = std::this_thread::get_id();
}

Engine::Turn::~Turn() {
  engine_.owner_ = std::thread::id{};
  engine_.mutex_.unlock();
}

std::vector<py::object> Engine::state_of(const py::object& optimizer, const Entry& entry, py::dict& fresh) const {
  if (!state_.contains(entry.key)) fresh[entry.key] = optimizer.attr("_new_state")(entry.p);
  const py::dict mine = state_.contains(entry.key) ? state_[entry.key] : fresh[entry.key];
  std::vector<py::object> arrays;
  for (const py::handle slot : slots_) arrays.push_back(mine[slot]);
  return arrays;
}

void Engine::update(const py::object& optimizer, const py::object& params, const py::object& grads) {
  const Turn turn(*this);
  const py::tuple given = optimizer.attr("_scalars")(t_ + 1);
  std::vector<double> scalars;
  for (const py::handle scalar : given) scalars.push_back(scalar.cast<double>());
  if (scalars.size() != static_cast<size_t>(kernel_.scalars))
    throw py::value_error(std::string(kernel_.rule) + " takes " + std::to_string(kernel_.scalars) + " scalars, got " +
                          std::to_string(scalars.size()));

  const std::vector<Entry> entries = collect(params, grads);
  if (!plan_.follow(entries)) {
    py::dict fresh;
    std::vector<std::vector<py::object>> states;
    for (const Entry& entry : entries) states.push_back(state_of(optimizer, entry, fresh));
    plan_.make(entries, states);
    for (const auto& [key, arrays] : fresh) state_[key] = arrays;
  }
  plan_.load_floats(entries);
  {
    py::gil_scoped_release release;
    const auto begin = std::chrono::steady_clock::now();
    plan_.run(scalars.data(), pace_.size_for(plan_.traffic()));
    pace_.took(std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count());
    ++t_;
  }
  for (size_t i = 0; i < entries.size(); ++i)
    if (!entries[i].p_view.data && entries[i].p_view.kind != Kind::array)
      rebind(params, entries[i].key, float_like(entries[i].p_view.kind, plan_.float_result(i)));
}

}  // namespace schuss
