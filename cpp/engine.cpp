// The way of an update: scalars, entries, plan, run, and back to the caller.
#include "engine.hpp"

#include <algorithm>
#include <chrono>

#include "entries.hpp"
#include "isa.hpp"

namespace schuss {

// Below, the work is done in a microsecond or two, and letting go of the GIL would cost a tenth of that.
constexpr size_t worth_releasing_the_gil = size_t{64} << 10;

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

// Through the C API and with names made once: this is a good part of what a small update costs.
void Engine::ask_scalars(const py::object& optimizer, std::array<double, max_scalars>& scalars) const {
  static PyObject* const lr_name = PyUnicode_InternFromString("lr");
  static PyObject* const lr_at_name = PyUnicode_InternFromString("_lr_at");
  static PyObject* const scalars_name = PyUnicode_InternFromString("_scalars");
  const auto checked = [](PyObject* result) {
    if (!result) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(result);
  };
  const py::object t = checked(PyLong_FromLongLong(t_ + 1));
  py::object lr = checked(PyObject_GetAttr(optimizer.ptr(), lr_name));
  if (!PyFloat_CheckExact(lr.ptr())) lr = checked(PyObject_CallMethodOneArg(optimizer.ptr(), lr_at_name, t.ptr()));
  PyObject* const arguments[] = {optimizer.ptr(), lr.ptr(), t.ptr()};
  const py::object given = checked(PyObject_VectorcallMethod(scalars_name, arguments, 3, nullptr));
  if (!PyTuple_Check(given.ptr()) || PyTuple_GET_SIZE(given.ptr()) != kernel_.scalars)
    throw py::value_error(std::string(kernel_.rule) + " takes a tuple of " + std::to_string(kernel_.scalars) +
                          " scalars, got " + py::repr(given).cast<std::string>());
  for (int i = 0; i < kernel_.scalars; ++i) {
    scalars[static_cast<size_t>(i)] = PyFloat_AsDouble(PyTuple_GET_ITEM(given.ptr(), i));
    if (PyErr_Occurred()) throw py::error_already_set();
  }
}

template <class Lap>
void Engine::step(const py::object& optimizer, const py::object& params, const py::object& grads, Lap lap) {
  const Turn turn(*this);
  std::array<double, max_scalars> scalars;
  ask_scalars(optimizer, scalars);
  lap("scalars");

  // The vector is kept for its memory; the arrays are held for the time of this call alone.
  struct Held {
    std::vector<Entry>& entries;
    ~Held() { entries.clear(); }
  } const held{entries_};
  const std::vector<Entry>& entries = entries_;
  collect(params, grads, entries_);
  lap("checks");

  if (!plan_.follow(entries)) {
    py::dict fresh;
    std::vector<std::vector<py::object>> states;
    for (const Entry& entry : entries) states.push_back(state_of(optimizer, entry, fresh));
    plan_.make(entries, states);
    for (const auto& [key, arrays] : fresh) state_[key] = arrays;
  }
  plan_.load_floats(entries);
  lap("plan");

  const size_t traffic = plan_.traffic();
  const int threads = pace_.size_for(traffic);
  if (traffic < worth_releasing_the_gil) {
    plan_.run(scalars.data(), threads);
  } else {
    const py::gil_scoped_release release;
    const auto begin = std::chrono::steady_clock::now();
    plan_.run(scalars.data(), threads);
    pace_.took(std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count());
  }
  ++t_;
  lap("region and kernel");

  for (size_t i = 0; i < entries.size(); ++i)
    if (entries[i].p_view.kind != Kind::array)
      rebind(params, entries[i].key, float_like(entries[i].p_view.kind, plan_.float_result(i)));
  lap("floats");
}

void Engine::update(const py::object& optimizer, const py::object& params, const py::object& grads) {
  step(optimizer, params, grads, [](const char*) {});
}

std::map<std::string, int64_t> Engine::profile(const py::object& optimizer, const py::object& params,
                                               const py::object& grads) {
  using Clock = std::chrono::steady_clock;
  std::map<std::string, int64_t> times;
  Clock::time_point last = Clock::now();
  const auto lap = [&](const char* part) {
    const Clock::time_point now = Clock::now();
    times[part] = std::chrono::nanoseconds(now - last).count();
    last = Clock::now();
  };
  step(optimizer, params, grads, lap);
  // A region in which there is nothing to do, of as many threads as the one that was timed.
  team::run(pace_.last_size(), [](void*, int, int) {}, nullptr);
  lap("region");
  times["kernel"] = std::max<int64_t>(0, times["region and kernel"] - times["region"]);
  times.erase("region and kernel");
  return times;
}

}  // namespace schuss
