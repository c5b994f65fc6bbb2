// The way of an update: scalars, entries, plan, run, and back to the caller.
#include "engine.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "entries.hpp"
#include "isa.hpp"
#include "without_gil.hpp"

namespace schuss {

// Below, the work is done in a microsecond or two, and letting go of the GIL would cost a tenth of that.
constexpr size_t worth_releasing_the_gil = size_t{64} << 10;

using Clock = std::chrono::steady_clock;

namespace {

const Kernels& kernels() {
  static const isa::Choice choice = isa::choose();
  return *choice.kernels;
}

const Kernel& find_kernel(const std::string& rule) {
  for (const Kernel* kernel = kernels().rules; kernel->rule; ++kernel)
    if (rule == kernel->rule) return *kernel;
  throw py::value_error("no kernel is called " + rule);
}

py::object checked(PyObject* result) {
  if (!result) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

py::object interned(const char* name) { return checked(PyUnicode_InternFromString(name)); }

// The work of a microsecond or two keeps the GIL; all other work lets go of it.
template <class Work>
void work_on(size_t traffic, Work work) {
  if (traffic < worth_releasing_the_gil) return work();
  const WithoutGil released;
  work();
}

}  // namespace

Engine::Engine(const std::string& rule, const py::tuple& slots, bool averaged)
    : kernel_(find_kernel(rule)),
      slots_(slots),
      last_nonfinite_(1),
      lr_name_(interned("lr")),
      lr_at_name_(interned("_lr_at")),
      scalars_name_(interned("_scalars")),
      plan_(kernels(), kernel_, averaged) {
  last_nonfinite_[0] = py::none();
  const size_t wanted = static_cast<size_t>(kernel_.slots) + averaged;
  if (slots.size() != wanted)
    throw py::value_error(rule + " has " + std::to_string(wanted) + " state slots, got names for " +
                          std::to_string(slots.size()));
}

// Another thread is waited for without the GIL, which that one needs. In a forked child it does not exist.
void Engine::enter(const char* purpose) {
  if (!mutex_.try_lock()) {
    if (forks_ != team::forks())
      throw std::runtime_error(
          "an update() of this optimizer was under way in another thread when this process was forked, and will not "
          "end here; load a checkpoint, or make a new optimizer");
    const WithoutGil released;
    mutex_.lock();
  }
  if (updating_) {
    mutex_.unlock();
    throw std::runtime_error(std::string(purpose) + " from within an update() of the same optimizer");
  }
  forks_.store(team::forks(), std::memory_order_relaxed);
}

void Engine::leave() { mutex_.unlock(); }

py::object Engine::last_grad_norm() const {
  const double norm = last_grad_norm_;
  return norm < 0 ? py::none() : py::object(py::float_(norm));
}

std::vector<py::object> Engine::state_of(const py::object& optimizer, const Entry& entry, py::dict& fresh) const {
  if (!state_.contains(entry.key)) fresh[entry.key] = optimizer.attr("_new_state")(entry.key, entry.p);
  const py::dict mine = state_.contains(entry.key) ? state_[entry.key] : fresh[entry.key];
  std::vector<py::object> arrays;
  for (const py::handle slot : slots_) arrays.push_back(mine[slot]);
  return arrays;
}

namespace {

void read_scalars(const Kernel& kernel, py::handle given, std::array<double, max_scalars>& scalars) {
  const int wanted = kernel.scalars - (kernel.measure_f32 != nullptr);
  if (!PyTuple_Check(given.ptr()) || PyTuple_GET_SIZE(given.ptr()) != wanted)
    throw py::value_error(std::string(kernel.rule) + " takes a tuple of " + std::to_string(wanted) + " scalars, got " +
                          py::repr(given).cast<std::string>());
  for (int i = 0; i < wanted; ++i) {
    scalars[static_cast<size_t>(i)] = PyFloat_AsDouble(PyTuple_GET_ITEM(given.ptr(), i));
    if (PyErr_Occurred()) throw py::error_already_set();
  }
}

}  // namespace

// Through the C API, and with names made beforehand: this is a good part of what a small update costs.
void Engine::ask_scalars(const py::object& optimizer, std::array<double, max_scalars>& scalars) const {
  const py::object t = checked(PyLong_FromLongLong(t_ + 1));
  py::object lr = checked(PyObject_GetAttr(optimizer.ptr(), lr_name_.ptr()));
  if (!PyFloat_CheckExact(lr.ptr()))
    lr = checked(PyObject_CallMethodOneArg(optimizer.ptr(), lr_at_name_.ptr(), t.ptr()));
  PyObject* const arguments[] = {optimizer.ptr(), lr.ptr(), t.ptr()};
  read_scalars(kernel_, checked(PyObject_VectorcallMethod(scalars_name_.ptr(), arguments, 3, nullptr)), scalars);
}

// The optimizer answers with (clip_norm, on_nonfinite, average, flush, [(scalars, l2, clip_value, sign), ...]).
Engine::Caution Engine::ask_orders(const py::object& optimizer) {
  const py::tuple answer = optimizer.attr("_orders")(t_ + 1);
  Caution caution{answer[0].cast<double>(), static_cast<OnNonfinite>(answer[1].cast<int>())};
  orders_.average = answer[2].cast<double>();
  orders_.groups.clear();
  orders_.flush = answer[3].cast<bool>();
  for (const py::handle each : answer[4]) {
    const py::tuple given = py::reinterpret_borrow<py::tuple>(each);
    Group group;
    read_scalars(kernel_, given[0], group.scalars);
    group.l2 = given[1].cast<double>();
    group.clip_value = given[2].cast<double>();
    group.sign = given[3].cast<double>();
    orders_.groups.push_back(group);
  }
  return caution;
}

void Engine::restore(int64_t t, int64_t skipped_before, const py::dict& state) {
  plan_.forget();
  state_.attr("clear")();
  state_.attr("update")(state);
  t_ = t;
  skipped_ = skipped_before;
}

void Engine::set_plain(bool plain) {
  plain_ = plain;
  orders_ = Orders{};
}

py::object Engine::make_plan(const py::object& optimizer, const py::object& params) {
  py::dict fresh;
  std::vector<std::vector<py::object>> states;
  std::vector<size_t> groups;
  for (const Entry& entry : entries_) states.push_back(state_of(optimizer, entry, fresh));
  if (!plain_) {
    py::list names;
    for (const Entry& entry : entries_) names.append(entry.key);
    groups = optimizer.attr("_groups_of")(names, params).cast<std::vector<size_t>>();
  }
  plan_.make(entries_, states, groups);
  return fresh.empty() ? py::object() : std::move(fresh);
}

// Looks at all gradients before anything is written. False: this step is to be skipped.
bool Engine::heed(const Caution& caution, int threads) {
  Plan::Survey found{};
  work_on(plan_.traffic(), [&] { found = plan_.survey(orders_, threads); });
  last_grad_norm_ = found.norm;
  if (caution.on_nonfinite != OnNonfinite::propagate && found.first_not_finite != Plan::none) {
    const py::object& key = entries_[found.first_not_finite].key;
    if (caution.on_nonfinite == OnNonfinite::raise) {
      PyErr_SetString(
          PyExc_FloatingPointError,
          (name_of(Role::gradient, key) + " has an element that is NaN or infinite; nothing was updated").c_str());
      throw py::error_already_set();
    }
    last_nonfinite_[0] = key;
    ++skipped_;
    return false;
  }
  // A NaN norm makes every gradient NaN, as in PyTorch; what is added keeps a norm of zero from dividing.
  const double shrink = caution.clip_norm > 0 ? caution.clip_norm / (found.norm + 1e-6) : 1;
  orders_.shrink = shrink >= 1 ? 1 : shrink;
  return true;
}

void Engine::set_ratios(const py::object& optimizer, const std::vector<Plan::Norms>& norms, const py::object& fresh) {
  for (size_t i = 0; i < norms.size(); ++i) {
    const auto& scalars = orders_.groups[plan_.group_of(i)].scalars;
    if (kernel_.ratio) {
      plan_.set_ratio(i, kernel_.ratio(scalars.data(), norms[i].p, norms[i].u));
      continue;
    }
    const py::object& key = entries_[i].key;
    const py::object state = state_.contains(key) ? state_[key] : fresh[key];
    py::tuple given(static_cast<size_t>(kernel_.scalars) - 1);
    for (size_t k = 0; k < given.size(); ++k) given[k] = scalars[k];
    plan_.set_ratio(i, optimizer.attr("_ratio")(key, state, norms[i].p, given).cast<double>());
  }
}

template <class Lap>
void Engine::step(const py::object& optimizer, const py::object& params, const py::object& grads, double grad_scale,
                  Lap lap) {
  enter("update() was called");
  updating_ = true;
  struct Turn {
    Engine& engine;
    ~Turn() {
      engine.updating_ = false;
      engine.leave();
    }
  } const turn{*this};
  Caution caution;
  if (plain_)
    ask_scalars(optimizer, orders_.groups[0].scalars);
  else
    caution = ask_orders(optimizer);
  if (!std::isfinite(grad_scale))
    throw py::value_error("grad_scale must be finite, got " + py::repr(py::float_(grad_scale)).cast<std::string>());
  orders_.scale = grad_scale;
  orders_.shrink = 1;
  lap("scalars");

  // The vector is kept for its memory; the arrays are held for the time of this call alone.
  struct Held {
    std::vector<Entry>& entries;
    ~Held() { entries.clear(); }
  } const held{entries_};
  collect(params, grads, entries_);
  lap("checks");

  // State that the plan is the first to need is kept once it is certain that the step is taken.
  struct Fresh {
    Plan& plan;
    py::object state;
    ~Fresh() {
      if (state) plan.forget();
    }
  } fresh{plan_, {}};
  if (!plan_.follow(entries_)) fresh.state = make_plan(optimizer, params);
  plan_.load_floats(entries_);
  lap("plan");

  const size_t traffic = plan_.traffic();
  const int threads = pace_.size_for(traffic);
  const bool timed = traffic >= worth_releasing_the_gil;
  const auto begin = timed ? Clock::now() : Clock::time_point();
  if (caution.survey() && !heed(caution, threads)) return;
  if (kernel_.measure_f32) {
    std::vector<Plan::Norms> norms;
    work_on(traffic, [&] { norms = plan_.measure(orders_, threads); });
    set_ratios(optimizer, norms, fresh.state);
  }
  if (fresh.state) state_.attr("update")(std::exchange(fresh.state, {}));
  work_on(traffic, [&] { plan_.run(orders_, threads); });
  t_.store(t_ + 1, std::memory_order_release);
  if (kernel_.measure_f32 && !kernel_.ratio) optimizer.attr("_commit")();
  if (timed) pace_.took(std::chrono::nanoseconds(Clock::now() - begin).count());
  lap("region and kernel");

  for (size_t i = 0; i < entries_.size(); ++i)
    if (entries_[i].p_view.kind != Kind::array)
      rebind(params, entries_[i].key, float_like(entries_[i].p_view.kind, plan_.float_result(i)));
  lap("floats");
}

void Engine::update(const py::object& optimizer, const py::object& params, const py::object& grads, double grad_scale) {
  step(optimizer, params, grads, grad_scale, [](const char*) {});
}

void step_once(const std::string& rule, const py::tuple& scalars, const py::object& p, const py::object& g,
               const py::tuple& slots, const py::object& ratio) {
  const Kernel& kernel = find_kernel(rule);
  if (slots.size() != static_cast<size_t>(kernel.slots))
    throw py::value_error(rule + " has " + std::to_string(kernel.slots) + " state arrays, got " +
                          std::to_string(slots.size()));
  const py::str name("p");
  std::vector<Entry> entries{{name, p, g, look(p, Role::parameter, name), look(g, Role::gradient, name)}};
  if (entries[0].p_view.kind != Kind::array)
    throw py::type_error("p: a float cannot change in place; wrap it in numpy.array(...)");
  Orders orders;
  std::array<double, max_scalars>& given = orders.groups[0].scalars;
  read_scalars(kernel, scalars, given);
  Plan plan(kernels(), kernel, false);
  std::vector<py::object> state;
  for (const py::handle slot : slots) state.push_back(py::reinterpret_borrow<py::object>(slot));
  plan.make(entries, {state}, {});
  plan.load_floats(entries);
  const size_t traffic = plan.traffic();
  const int threads = team::Pace{}.size_for(traffic);
  if (kernel.measure_f32) {
    Plan::Norms norms{};
    work_on(traffic, [&] { norms = plan.measure(orders, threads)[0]; });
    plan.set_ratio(0, kernel.ratio ? kernel.ratio(given.data(), norms.p, norms.u) : ratio(norms.p).cast<double>());
  }
  work_on(traffic, [&] { plan.run(orders, threads); });
}

std::map<std::string, int64_t> Engine::profile(const py::object& optimizer, const py::object& params,
                                               const py::object& grads) {
  std::map<std::string, int64_t> times;
  Clock::time_point last = Clock::now();
  const auto lap = [&](const char* part) {
    const Clock::time_point now = Clock::now();
    times[part] = std::chrono::nanoseconds(now - last).count();
    last = Clock::now();
  };
  step(optimizer, params, grads, 1, lap);
  // A region in which there is nothing to do, of as many threads as the one that was timed.
  team::run(pace_.last_size(), [](void*, int, int) {}, nullptr);
  lap("region");
  times["kernel"] = std::max<int64_t>(0, times["region and kernel"] - times["region"]);
  times.erase("region and kernel");
  return times;
}

}  // namespace schuss
