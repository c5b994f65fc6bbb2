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

using isa::kernels;

// A rule of the user's, whose step is NumPy's: it has a rate, and no loop.
const Kernel numpy_kernel = {"NumPy", 1, 0, {}, false, nullptr, nullptr, nullptr, -1};

const Kernel& find_kernel(const std::string& rule) {
  if (rule == numpy_kernel.rule) return numpy_kernel;
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

Engine::Laid::Laid(Plan made, const team::Pace& learned)
    : plan(std::move(made)), passes(kernels(), plan), pace(learned) {}

Engine::Engine(bool tensors)
    : tensors_(tensors),
      last_nonfinite_(1),
      state_(1),
      lr_name_(interned("lr")),
      lr_at_name_(interned("_lr_at")),
      scalars_name_(interned("_scalars")),
      members_name_(interned("_members")) {
  last_nonfinite_[0] = py::none();
  state_[0] = py::dict();
}

// What changes afterwards of the rules concerns no parameter that has state.
void Engine::ask_structures(const py::object& optimizer) {
  Rules rules;
  bool averages = false;
  for (const auto& [rule, slots, averaged] : optimizer.attr("_structures")().cast<std::vector<Structure>>()) {
    const Kernel& kernel = find_kernel(rule);
    const size_t wanted = static_cast<size_t>(kernel.named()) + averaged;
    if (slots.size() != wanted)
      throw py::value_error(rule + " has " + std::to_string(wanted) + " state slots, got names for " +
                            std::to_string(slots.size()));
    rules.kernels.push_back(&kernel);
    rules.slots.push_back(slots);
    averages = averaged;
  }
  averaged_ = averages;
  in_numpy_ = rules.kernels.front() == &numpy_kernel;
  std::swap(rules_, rules);
  if (!row_passes_) row_passes_.emplace(kernels());
  made_ = true;
}

// Another thread is waited for without the GIL, which that one needs. In a forked child it does not exist.
void Engine::enter(const char* purpose) {
  const std::thread::id self = std::this_thread::get_id();
  if (owner_.load(std::memory_order_relaxed) == self)
    throw std::runtime_error(std::string(purpose) + " from within " +
                             (updating_ ? "an update() of the same optimizer"
                                        : "a change, a save or a copy of the same optimizer, by a signal handler"));
  if (!mutex_.try_lock()) {
    if (forks_ != team::forks())
      throw std::runtime_error(
          "an update() of this optimizer was under way in another thread when this process was forked, and will not "
          "end here; load a checkpoint, or make a new optimizer");
    const WithoutGil released;
    mutex_.lock();
  }
  owner_.store(self, std::memory_order_relaxed);  // which concerns none but this thread
  forks_.store(team::forks(), std::memory_order_relaxed);
}

void Engine::leave() {
  owner_.store(std::thread::id(), std::memory_order_relaxed);
  mutex_.unlock();
}

py::object Engine::last_grad_norm() const {
  const double norm = last_grad_norm_;
  return norm < 0 ? py::none() : py::object(py::float_(norm));
}

int Engine::visit_all(visitproc visit, void* arg) const {
  for (const py::tuple& slots : rules_.slots) Py_VISIT(slots.ptr());
  Py_VISIT(state_.ptr());
  Py_VISIT(last_nonfinite_.ptr());
  Py_VISIT(lag_numbers_.ptr());
  for (const auto& laid : plans_)
    if (const int stop = laid->plan.visit_all(visit, arg)) return stop;
  for (const auto& lag : lags_)
    if (const int stop = lag->visit_all(visit, arg)) return stop;
  return 0;
}

void Engine::clear() {
  forget_plans();
  forget_lags();
  state_[0] = py::dict();
  last_nonfinite_[0] = py::none();
}

namespace {

const char* slot_text(py::handle slot) {
  if (!PyUnicode_Check(slot.ptr()))
    throw py::type_error("a slot of state must be a string, got " + py::repr(slot).cast<std::string>());
  const char* const text = PyUnicode_AsUTF8(slot.ptr());
  if (!text) throw py::error_already_set();
  return text;
}

// The slot of a rule with factors, of which a matrix has a row and a column instead.
constexpr const char* whole_slot = "v";

bool is_whole_slot(const Kernel& kernel, const std::string& slot) { return kernel.factors && slot == whole_slot; }

}  // namespace

State Engine::state_of(const py::object& optimizer, const Entry& entry, size_t group, py::dict& fresh) const {
  const Kernel& kernel = *rules_.kernels[group];
  const py::tuple& slots = rules_.slots[group];
  const py::dict known = state_[0];
  if (!known.contains(entry.key)) fresh[entry.key] = optimizer.attr("_make_state")(entry.key, entry.p);
  const py::dict mine = known.contains(entry.key) ? known[entry.key] : fresh[entry.key];
  State state;
  const size_t own = static_cast<size_t>(kernel.named());
  for (size_t i = 0; i <= slots.size(); ++i) {
    if (i == own && kernel.workspace) state.operands.push_back({"u", optimizer.attr("_workspace")(entry.key, entry.p)});
    if (i == own && kernel.factors)
      state.operands.push_back({whole_slot, mine.contains(whole_slot) ? py::object(mine[whole_slot]) : py::object()});
    if (i == slots.size()) break;
    const py::object slot = slots[i];
    state.operands.push_back({slot_text(slot), mine[slot]});
  }
  for (const auto& [slot, array] : mine)
    if (!slots.contains(slot) && !is_whole_slot(kernel, slot_text(slot)))
      state.others.push_back({slot_text(slot), py::reinterpret_borrow<py::object>(array)});
  return state;
}

namespace {

void read_scalars(const Kernel& kernel, py::handle given, std::array<double, max_scalars>& scalars) {
  const int wanted = kernel.scalars - kernel.halves();
  if (!PyTuple_Check(given.ptr()) || PyTuple_GET_SIZE(given.ptr()) != wanted)
    throw py::value_error(std::string(kernel.rule) + " takes a tuple of " + std::to_string(wanted) + " scalars, got " +
                          py::repr(given).cast<std::string>());
  for (int i = 0; i < wanted; ++i) {
    scalars[static_cast<size_t>(i)] = PyFloat_AsDouble(PyTuple_GET_ITEM(given.ptr(), i));
    if (PyErr_Occurred()) throw py::error_already_set();
  }
}

}  // namespace

// The optimizer answers with (clip_norm, clip_eps, on_nonfinite, average, flush, touched, clears, [(l2, clip_value,
// sign), ...]).
void Engine::ask_orders(const py::object& optimizer) {
  const py::tuple answer = optimizer.attr("_orders")();
  Orders orders;
  orders.average = answer[3].cast<double>();
  orders.flush = answer[4].cast<bool>();
  orders.clears = answer[6].cast<bool>();
  orders.groups.clear();
  for (const py::handle each : answer[7]) {
    const py::tuple given = py::reinterpret_borrow<py::tuple>(each);
    Group& group = orders.groups.emplace_back();
    group.l2 = given[0].cast<double>();
    group.clip_value = given[1].cast<double>();
    group.sign = given[2].cast<double>();
  }
  caution_ = {answer[0].cast<double>(), answer[1].cast<double>(), static_cast<OnNonfinite>(answer[2].cast<int>())};
  touched_ = answer[5].cast<bool>();
  orders_ = std::move(orders);
  orders_known_ = true;
}

// Through the C API, and with names made beforehand: this is a good part of what a small update costs.
void Engine::ask_scalars(const py::object& optimizer) {
  const py::object t = checked(PyLong_FromLongLong(t_ + 1));
  const auto rate_of = [&](const py::object& from, const py::object& lr) {
    if (PyFloat_CheckExact(lr.ptr())) return lr;
    return checked(PyObject_CallMethodOneArg(from.ptr(), lr_at_name_.ptr(), t.ptr()));
  };
  const auto ask = [&](const py::object& from, const py::object& rate, size_t i) {
    PyObject* const arguments[] = {from.ptr(), rate.ptr(), t.ptr()};
    read_scalars(*rules_.kernels[i], checked(PyObject_VectorcallMethod(scalars_name_.ptr(), arguments, 3, nullptr)),
                 orders_.groups[i].scalars);
  };
  const py::object lr = checked(PyObject_GetAttr(optimizer.ptr(), lr_name_.ptr()));
  const py::object rate = rate_of(optimizer, lr);
  ask(optimizer, rate, 0);
  if (orders_.groups.size() == 1) return;
  const py::tuple members = checked(PyObject_GetAttr(optimizer.ptr(), members_name_.ptr()));
  for (size_t i = 1; i < orders_.groups.size(); ++i) {
    const py::object member = members[i - 1];
    const py::object own = checked(PyObject_GetAttr(member.ptr(), lr_name_.ptr()));
    ask(member, own.is(lr) ? rate : rate_of(member, own), i);
  }
}

namespace {

// Sets attributes, and returns what they were: that may run code when it is let go of.
py::list replace_attributes(const py::object& object, const py::dict& attributes) {
  py::list replaced;
  for (const auto& [name, value] : attributes)
    if (PyObject* const old = PyObject_GenericGetAttr(object.ptr(), name.ptr()))
      replaced.append(py::reinterpret_steal<py::object>(old));
    else
      PyErr_Clear();
  for (const auto& [name, value] : attributes)
    if (PyObject_GenericSetAttr(object.ptr(), name.ptr(), value.ptr()) != 0) throw py::error_already_set();
  return replaced;
}

}  // namespace

void Engine::change(const py::object& optimizer, const py::dict& attributes) {
  orders_known_ = false;
  const py::list replaced = replace_attributes(optimizer, attributes);
}

void Engine::restore(const py::object& optimizer, const py::dict& attributes, int64_t t, int64_t skipped_before,
                     const py::dict& state) {
  catch_up_all();
  forget_lags();
  const auto gone = std::exchange(plans_, {});
  const py::object old_state = state_[0];
  orders_known_ = false;
  made_ = true;
  const py::list replaced = replace_attributes(optimizer, attributes);
  state_[0] = state;
  t_ = t;
  skipped_ = skipped_before;
}

void Engine::forget_lags() {
  const auto gone = std::exchange(lags_, {});
  const py::dict names = std::exchange(lag_numbers_, py::dict());
}

// Names are let go of when nothing leads to the plans any more: that may run code, and the garbage collector.
void Engine::forget_plans() { const auto gone = std::exchange(plans_, {}); }

std::pair<Plan, py::object> Engine::make_plan(const py::object& optimizer, const py::object& params) const {
  py::dict fresh;
  std::vector<State> states;
  std::vector<size_t> groups;
  if (orders_.groups.size() > 1) {
    py::list names;
    for (const Entry& entry : entries_) names.append(entry.key);
    groups = optimizer.attr("_groups").attr("numbers_of")(names, params).cast<std::vector<size_t>>();
  } else {
    groups.resize(entries_.size(), 0);
  }
  for (size_t i = 0; i < entries_.size(); ++i) states.push_back(state_of(optimizer, entries_[i], groups[i], fresh));
  const auto place_of = [&](size_t i) {
    const auto [number, first, mastered] =
        optimizer.attr("_place_of")(entries_[i].key).cast<std::tuple<uint32_t, uint64_t, bool>>();
    return Place{number, first, mastered};
  };
  Plan plan(rules_.kernels, averaged_, entries_, states, groups, place_of);
  py::object all;
  if (!fresh.empty()) {
    all = state_[0].attr("copy")();
    all.attr("update")(fresh);
  }
  return {std::move(plan), std::move(all)};
}

namespace {

[[noreturn]] void refuse_another(const Name& name) {
  throw py::value_error(name.text() +
                        ", or its state, is another array than the one that has rows behind, or cannot be written any "
                        "more; call catch_up() before that");
}

}  // namespace

Lag* Engine::lag_of(const py::object& key) const {
  if (lags_.empty() || !lag_numbers_.contains(key)) return nullptr;
  return lags_[lag_numbers_[key].cast<size_t>()].get();
}

bool Engine::behind() const {
  return std::any_of(lags_.begin(), lags_.end(), [](const auto& lag) { return lag->any_behind(); });
}

// What lacks steps in the same memory as a parameter, under another name than its own.
void Engine::add_others(const View& p, const Lag* own, std::vector<Arrears>& arrears) const {
  for (const auto& other : lags_)
    if (other.get() != own && other->meets(extent_of(p)) && other->any_behind() && other->intact())
      arrears.emplace_back(*other, other->all_behind());
}

void Engine::catch_up(Arrears& arrears) {
  const size_t traffic = arrears.traffic();
  work_on(traffic, [&] { row_passes_->catch_up(arrears, team::Pace{}.size_for(traffic)); });
}

// From within or not.
class Engine::Visit {
 public:
  explicit Visit(Engine& engine)
      : engine_(engine), within_(engine.owner_.load(std::memory_order_relaxed) == std::this_thread::get_id()) {
    if (!within_) engine_.enter("rows were to be caught up");
  }
  ~Visit() {
    if (!within_) engine_.leave();
  }
  Visit(const Visit&) = delete;
  Visit& operator=(const Visit&) = delete;

 private:
  Engine& engine_;
  const bool within_;
};

void Engine::catch_up_all() {
  const Visit visit(*this);
  if (lags_.empty()) return;
  row_passes_->provide(team::threads());
  std::vector<Arrears> arrears;
  for (const auto& [key, number] : lag_numbers_) {
    Lag& lag = *lags_[number.cast<size_t>()];
    if (!lag.any_behind()) continue;
    if (!lag.intact()) refuse_another({Role::parameter, key, "p"});
    arrears.emplace_back(lag, lag.all_behind());
  }
  for (Arrears& each : arrears) catch_up(each);
}

void Engine::catch_up(const py::object& params, const py::object& rows) {
  const Visit visit(*this);
  if (!lags_.empty()) row_passes_->provide(team::threads());
  std::vector<Arrears> arrears;
  const auto add = [&](py::handle key, Lag* lag, const py::object& given, py::handle indices) {
    const py::object p = array_of_parameter(given, tensors_);
    const Name name{Role::parameter, key, "p"};
    const View view = look(p, name, tensors_);
    const bool behind = lag && lag->any_behind();
    if (behind && (!lag->lies_in(view) || !lag->intact())) refuse_another(name);
    if (!indices.is_none()) {
      const size_t n = view.layout.ndim() > 0 ? static_cast<size_t>(view.layout.shape()[0]) : 0;
      Named named = name_rows(indices, py::len(indices), n, name);
      if (behind) arrears.emplace_back(*lag, std::move(named.rows));
    } else if (behind) {
      arrears.emplace_back(*lag, lag->all_behind());
    }
    add_others(view, lag, arrears);
  };
  if (rows.is_none()) {
    // Of those that are in `params`: an optimizer may serve several networks.
    std::string behind;
    bool found = false;
    for (const auto& [key, number] : py::dict(lag_numbers_.attr("copy")())) {
      if (lags_[number.cast<size_t>()]->any_behind())
        behind += (behind.empty() ? "" : ", ") + py::repr(key).cast<std::string>();
      const py::object p = py::reinterpret_steal<py::object>(PyObject_GetItem(params.ptr(), key.ptr()));
      if (!p && !PyErr_ExceptionMatches(PyExc_LookupError)) throw py::error_already_set();
      if (!p) PyErr_Clear();
      if (!p) continue;
      found = true;
      add(key, lags_[number.cast<size_t>()].get(), p, py::none());
    }
    if (!found && !behind.empty()) throw py::key_error("params has none of the names with rows behind: " + behind);
  } else {
    for (const py::handle pair : rows) {
      const auto [key, indices] = pair.cast<std::pair<py::object, py::object>>();
      add(key, lag_of(key), params[key], indices);
    }
  }
  for (Arrears& each : arrears) catch_up(each);
}

namespace {

// Whether the step leaves rows of zero gradients as they are, bit for bit: also -0 in the parameter.
bool rests(const Step& step, const Table& table) {
  const Around& a = step.around;
  const auto positive = [&](double factor) {  // as the type has it
    const double rounded =
        with_type_of(table.format, [&](auto number) { return double{static_cast<decltype(number)>(factor)}; });
    return std::isfinite(rounded) && !std::signbit(rounded);
  };
  return table.kernel->rests && table.kernel->rests(step.scalars.data()) && positive(step.scalars[0]) &&
         positive(a.scale) && positive(a.shrink) && positive(a.sign) && a.l2 == 0 && a.average < 0 && !step.flush;
}

}  // namespace

// The part of a step whose gradient comes by rows.
struct Engine::ByRows {
  ByRows(size_t i_, const Table& table_, const char* values_, Named named_)
      : i(i_), table(table_), values(values_), named(std::move(named_)) {}

  size_t i;  // which of the entries
  const Table& table;
  const char* values;
  Named named;
  Lag* lag = nullptr;  // where there is one
  Step step;
  std::optional<Arrears> next;  // the rows whose turn it is to catch up, if others are left behind
};

// What rows lack though they will not be asked for: a dense gradient comes for them, or one that lets the others rest.
std::vector<Arrears> Engine::due(const Plan& plan) {
  std::vector<Arrears> found;
  row_passes_->provide(team::threads());
  for (size_t i = 0; i < entries_.size(); ++i) {
    Lag* const lag = lag_of(entries_[i].key);
    add_others(entries_[i].p_view, lag, found);
    if (plan.tensors()[i].table && !touched_) continue;
    if (!lag || !lag->any_behind()) continue;
    if (!lag->lies_in(entries_[i].p_view)) refuse_another(entries_[i].p_name());
    found.emplace_back(*lag, lag->all_behind());
  }
  return found;
}

// What the step is is known once the gradients have been surveyed; and so is whether it leaves rows behind.
void Engine::settle(const Plan& plan, ByRows& each) {
  each.step = step_of(plan.tensors()[each.i].group);
  if (touched_ || each.table.width == 0 || rests(each.step, each.table)) return;
  each.step.moves_zero = RowPasses::moves_zero(each.step, each.table);
  if (!each.lag) {
    const Entry& entry = entries_[each.i];
    auto lag = std::make_unique<Lag>(each.table, plan.held_with(each.i, entry.p));
    each.lag = lag.get();
    if (lag_numbers_.contains(entry.key)) {
      lags_[lag_numbers_[entry.key].cast<size_t>()] = std::move(lag);
    } else {
      lags_.push_back(std::move(lag));
      lag_numbers_[entry.key] = lags_.size() - 1;
    }
  }
  each.next.emplace(*each.lag, each.lag->next_in_turn());
}

// From here on nothing can fail.
void Engine::step_rows(ByRows& each) {
  const size_t traffic = each.named.rows.size() * each.table.step_bytes();
  work_on(traffic,
          [&] { row_passes_->step(each.table, each.named, each.values, each.step, team::Pace{}.size_for(traffic)); });
  if (!each.next) return;
  each.lag->add(each.step);
  each.lag->has_made_all(each.named.rows);
  catch_up(*each.next);
  each.lag->end_turn(each.next->size());
}

Step Engine::step_of(size_t i) const {
  const Group& group = orders_.groups[i];
  return {group.scalars, orders_.around(group), orders_.plain(group), orders_.flush};
}

void Engine::refuse_rows(const Entry& entry, const Kernel& kernel) {
  if (kernel.halves() || &kernel == &numpy_kernel)
    throw py::type_error(entry.g_name().text() + " is by rows, which " +
                         (kernel.halves() ? std::string(kernel.rule) + " cannot take: its step needs all of an array"
                                          : std::string("a rule of your own cannot take")) +
                         "; give it Rows.dense(n), or another rule for this parameter");
}

// Gradients that are to be zeros after the step are written, too.
void Engine::refuse_to_clear() const {
  for (const Entry& entry : entries_)
    if (entry.by_rows() || !is_array(entry.g) || !is_writeable(entry.g))
      throw py::value_error(entry.g_name().text() +
                            " is to be zeros after the step, and must be a numpy.ndarray that can be written");
}

// Of gradients by rows for what has fewer bits: they are filled in block by block, and all rows make the step.
std::vector<std::pair<size_t, Named>> Engine::prepare_filled(const Plan& plan) const {
  std::vector<std::pair<size_t, Named>> found;
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (!plan.tensors()[i].filled) continue;
    const Entry& entry = entries_[i];
    refuse_rows(entry, *plan.tensors()[i].kernel);
    if (touched_)
      throw py::value_error(entry.g_name().text() +
                            " is by rows, and sparse=\"touched\" lets the other rows rest, which " +
                            entry.p_name().text() +
                            " cannot with a dtype or state of fewer than 32 bits; use float32 for both: "
                            "groups={name: {\"state_dtype\": \"float32\"}}");
    const size_t rows = static_cast<size_t>(entry.p_view.layout.shape()[0]);
    found.emplace_back(
        i, name_rows(entry.indices, static_cast<size_t>(entry.g_view.layout.shape()[0]), rows, entry.g_name()));
  }
  return found;
}

std::vector<Engine::ByRows> Engine::prepare_rows(const Plan& plan) {
  std::vector<ByRows> found;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Tensor& tensor = plan.tensors()[i];
    if (!tensor.table) continue;
    const Entry& entry = entries_[i];
    refuse_rows(entry, *tensor.kernel);
    const size_t k = static_cast<size_t>(entry.g_view.layout.shape()[0]);
    Named named = name_rows(entry.indices, k, tensor.table->rows, entry.g_name());
    ByRows& each = found.emplace_back(i, *tensor.table, entry.g_view.data, std::move(named));
    if (touched_) continue;
    each.lag = lag_of(entry.key);
    if (each.lag && !each.lag->is_of(*tensor.table)) {
      if (each.lag->any_behind()) refuse_another(entry.p_name());
      each.lag = nullptr;
    }
    if (!each.lag || each.lag->none_behind()) continue;
    for (const size_t row : each.named.rows)
      if (each.lag->behind(row))
        throw py::value_error(
            entry.g_name().text() + " names row " + std::to_string(row) +
            ", which is behind: it was read without the steps that it lacks. Call catch_up(params, {" +
            py::repr(entry.key).cast<std::string>() + ": indices}) before the forward pass");
  }
  return found;
}

// What was found in the gradients, before anything is written: their norm, and the name of the first that is not
// finite. False: this step is to be skipped.
bool Engine::heed(double norm, const py::object* not_finite) {
  if (caution_.on_nonfinite != OnNonfinite::propagate && not_finite) {
    if (caution_.on_nonfinite == OnNonfinite::raise) {
      const std::string text = Name{Role::gradient, *not_finite, "g"}.text() +
                               " has an element that is NaN or infinite; nothing was updated";
      PyErr_SetString(PyExc_FloatingPointError, text.c_str());
      throw py::error_already_set();
    }
    last_nonfinite_[0] = *not_finite;
    last_grad_norm_ = norm;
    ++skipped_;
    return false;
  }
  // A NaN norm makes every gradient NaN, as in PyTorch.
  const double shrink = caution_.clip_norm >= 0 ? caution_.clip_norm / (norm + caution_.clip_eps) : 1;
  orders_.shrink = shrink >= 1 ? 1 : shrink;
  return true;
}

namespace {

// What is copied when the step is taken: pairs of arrays (kept, new), of the same shape.
void check_pending(const py::object& pending) {
  const Name kept{Role::state, {}, "kept"}, fresh{Role::state, {}, "new"};
  const auto text = [](const View& view) { return about(view.format).name + (" of shape " + shape_text(view)); };
  for (const py::handle pair : pending) {
    if (!PyTuple_Check(pair.ptr()) || PyTuple_GET_SIZE(pair.ptr()) != 2)
      throw py::type_error("pending: expected pairs of arrays, got " + py::repr(pair).cast<std::string>());
    const View to = look(PyTuple_GET_ITEM(pair.ptr(), 0), kept), from = look(PyTuple_GET_ITEM(pair.ptr(), 1), fresh);
    if (to.format != from.format || !to.layout.same_shape(from.layout))
      throw py::value_error("state of " + text(to) + " cannot become " + text(from));
  }
}

void copy_pending(const py::object& pending) {
  if (!pending) return;
  for (const py::handle pair : pending) copy_into(PyTuple_GET_ITEM(pair.ptr(), 0), PyTuple_GET_ITEM(pair.ptr(), 1));
}

// Of the rules whose second half needs Python: ratios_of(group) is asked, as cpp/engine.hpp has it. Nothing but their
// workspaces has been written before.
template <class RatiosOf>
void ask_ratios(const Plan& plan, Passes& passes, const Orders& orders, int threads, const RatiosOf& ratios_of) {
  work_on(plan.traffic(), [&] { passes.measure(Part::arrays, with_python, orders, threads); });
  for (size_t group = 0; group < orders.groups.size(); ++group) {
    py::list workspaces;
    std::vector<size_t> whose;
    for (size_t i = 0; i < plan.tensors().size(); ++i) {
      if (plan.tensors()[i].group != group || plan.tensors()[i].course != with_python) continue;
      workspaces.append(plan.workspace(i));
      whose.push_back(i);
    }
    if (whose.empty()) continue;
    py::tuple scalars(static_cast<size_t>(plan.tensors()[whose[0]].kernel->scalars) - 1);
    for (size_t k = 0; k < scalars.size(); ++k) scalars[k] = orders.groups[group].scalars[k];
    const auto ratios = ratios_of(group)(scalars, workspaces).template cast<std::vector<double>>();
    if (ratios.size() != whose.size()) throw py::value_error("_ratios: expected one for each workspace");
    for (size_t k = 0; k < whose.size(); ++k) passes.set_ratio(whose[k], ratios[k]);
  }
}

// The step of a part of the parameters, whose ratios from Python are known. `asks` tells whether any rank has norms to
// be added up: all of them ask then, or none does.
void advance(const Plan& plan, Passes& passes, Part part, const Orders& orders, int threads, const Ranks& ranks,
             bool asks) {
  const size_t traffic = plan.traffic();
  // A rule with factors has the whole of each array, also among ranks.
  const unsigned in_turns = ranks ? with_factors : with_factors | with_norms;
  if (plan.takes(in_turns)) work_on(traffic, [&] { passes.halves(part, in_turns, orders, threads); });
  if (asks) {
    work_on(traffic, [&] { passes.measure(part, with_norms, orders, threads); });
    const std::vector<Norms> norms = ranks.norms(plan, passes);
    for (size_t i = 0; i < norms.size(); ++i) {
      const Tensor& tensor = plan.tensors()[i];
      if (tensor.course != with_norms) continue;
      passes.set_ratio(i, tensor.kernel->ratio(orders.groups[tensor.group].scalars.data(), norms[i].p, norms[i].u,
                                               static_cast<double>(tensor.size)));
    }
  }
  const auto step = [&](size_t low, size_t high) {
    if (plan.takes(~in_turns)) work_on(traffic, [&] { passes.step(part, ~in_turns, orders, threads, low, high); });
  };
  if (!ranks) return step(0, plan.bytes());
  ranks.each_window(plan.bytes(), step);
}

}  // namespace

void Engine::step_in_numpy(const Plan& plan, const py::object& optimizer, const py::object& state, Rebound& rebound,
                           const py::list& pending) const {
  std::vector<py::object> results;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    const size_t group = plan.tensors()[i].group;
    results.push_back(optimizer.attr("_step_in_numpy")(entry.p, entry.g, state[entry.key], group,
                                                       orders_.groups[group].scalars[0], orders_.scale, orders_.shrink,
                                                       pending));
  }
  check_pending(pending);
  for (size_t i = 0; i < entries_.size(); ++i)
    if (plan.tensors()[i].part == Part::floats) rebound.set(entries_[i], results[i]);
}

template <class Lap>
void Engine::step(const py::object& optimizer, const py::object& given_params, const py::object& given_grads,
                  double grad_scale, const Ranks& ranks, Lap lap) {
  enter("update() was called");
  updating_ = true;
  struct Turn {
    Engine& engine;
    ~Turn() {
      engine.updating_ = false;
      engine.leave();
    }
  } const turn{*this};
  if (!orders_known_) {
    ask_structures(optimizer);
    ask_orders(optimizer);
  }
  ask_scalars(optimizer);
  orders_.scale = grad_scale;
  orders_.shrink = 1;
  orders_.t = t_ + 1;
  lap("scalars");

  // The vector is kept for its memory; the arrays are held for the time of this call alone.
  struct Held {
    std::vector<Entry>& entries;
    ~Held() { entries.clear(); }
  } const held{entries_};
  ByPath by_path;  // where they are nested
  const Plan* const last = plans_.empty() ? nullptr : &plans_.front()->plan;
  const bool known = collect(given_params, given_grads, last, tensors_, entries_, &by_path);
  const py::object& params = by_path.first ? by_path.first : given_params;
  stepped_.store(entries_.size(), std::memory_order_relaxed);
  lap("checks");

  // State that a plan is the first to need is kept once it is certain that the step is taken; until then so is the
  // plan.
  struct Fresh {
    std::vector<std::unique_ptr<Laid>>& plans;
    bool made = false;
    py::object state;
    ~Fresh() {
      if (!made) return;
      const auto gone = std::move(plans.front());
      plans.erase(plans.begin());
    }
  } fresh{plans_, false, {}};
  const auto serves = [&](const std::unique_ptr<Laid>& laid) { return laid->plan.serves(entries_); };
  const auto serving = known ? plans_.begin() : std::find_if(plans_.begin(), plans_.end(), serves);
  if (serving != plans_.end()) {
    std::rotate(plans_.begin(), serving, serving + 1);
    plans_.front()->plan.follow(entries_);
  } else {
    // Where arrays are new at each step, what was learned of the threads goes on.
    const team::Pace learned = plans_.empty() ? team::Pace{} : plans_.front()->pace;
    if (plans_.size() == most_plans) {
      const auto gone = std::move(plans_.back());
      plans_.pop_back();
    }
    auto [plan, state] = make_plan(optimizer, params);
    plans_.insert(plans_.begin(), std::make_unique<Laid>(std::move(plan), learned));
    fresh.made = true;
    fresh.state = std::move(state);
  }
  Plan& plan = plans_.front()->plan;
  Passes& passes = plans_.front()->passes;
  team::Pace& pace = plans_.front()->pace;
  if (plan.has_cells()) plan.load_floats(entries_);
  lap("plan");

  if (orders_.clears) refuse_to_clear();
  std::vector<ByRows> by_rows;
  std::vector<std::pair<size_t, Named>> filled;
  if (plan.has_tables()) {
    by_rows = prepare_rows(plan);
    filled = prepare_filled(plan);
    for (const auto& [i, named] : filled)
      passes.fill_from(i, named, static_cast<size_t>(row_bytes(entries_[i].p_view)) / entries_[i].p_view.itemsize(),
                       entries_[i].g_view.data);
    row_passes_->provide(team::threads());
  }
  std::vector<Arrears> arrears;
  if (!lags_.empty()) arrears = due(plan);

  const size_t traffic = plan.traffic();
  const int threads = pace.size_for(traffic);
  const bool timed = traffic >= worth_releasing_the_gil && !ranks;
  const auto begin = timed ? Clock::now() : Clock::time_point();
  const auto has_norms = [](const Kernel* kernel) { return kernel->course() == with_norms; };
  const bool asks = ranks && std::any_of(rules_.kernels.begin(), rules_.kernels.end(), has_norms);
  passes.provide(threads, caution_.survey() || asks);
  double norm = 0;
  if (caution_.survey()) {
    work_on(traffic, [&] { passes.survey(orders_, threads); });
    for (const ByRows& each : by_rows) {
      const auto [sums, finite] = passes.blank_survey(each.i);
      row_passes_->survey(each.table, each.named, each.values, orders_.scale, orders_.flush, sums, finite);
    }
    py::object not_finite;
    if (ranks) {
      std::tie(norm, not_finite) = ranks.survey(plan, passes);
    } else {
      const Passes::Survey found = passes.surveyed();
      norm = found.norm;
      if (found.first_not_finite) not_finite = entries_[*found.first_not_finite].key;
    }
    if (!heed(norm, not_finite ? &not_finite : nullptr)) return;
  }
  for (ByRows& each : by_rows) settle(plan, each);
  moved_others_ = std::any_of(by_rows.begin(), by_rows.end(), [](const ByRows& each) { return each.next.has_value(); });
  if (plan.takes(with_python)) {
    const py::tuple members = optimizer.attr(members_name_);
    ask_ratios(plan, passes, orders_, threads,
               [&](size_t group) { return (group == 0 ? optimizer : py::object(members[group - 1])).attr("_ratios"); });
  }
  Rebound rebound(params);
  const py::object pending = in_numpy_ ? py::list() : py::object();
  if (in_numpy_) {
    const py::object state = fresh.state ? fresh.state : py::object(state_[0]);
    step_in_numpy(plan, optimizer, state, rebound, pending);
  } else if (plan.has_floats()) {
    advance(plan, passes, Part::floats, orders_, 1, Ranks(), false);
    for (size_t i = 0; i < entries_.size(); ++i)
      if (plan.tensors()[i].part == Part::floats)
        rebound.set(entries_[i], float_like(entries_[i].p_view, plan.float_result(i)));
  }
  lap("floats");
  ranks.ready(orders_);
  for (Arrears& each : arrears) catch_up(each);
  for (ByRows& each : by_rows) step_rows(each);
  if ((plan.has_arrays() || ranks) && !in_numpy_) advance(plan, passes, Part::arrays, orders_, threads, ranks, asks);
  // From the first write on no Python code has run, which could raise, and none runs until all is done.
  copy_pending(pending);
  if (plan.has_floats() && !in_numpy_) plan.store_float_state();
  fresh.made = false;
  if (fresh.state) state_[0] = std::exchange(fresh.state, {});
  if (caution_.survey()) last_grad_norm_ = norm;
  t_.store(t_ + 1, std::memory_order_release);
  rebound.keep();
  if (timed) pace.took(std::chrono::nanoseconds(Clock::now() - begin).count());
  lap("region and kernel");
}

namespace {

double checked_scale(const py::object& grad_scale) {
  const double scale = PyBool_Check(grad_scale.ptr()) ? NAN : PyFloat_AsDouble(grad_scale.ptr());
  // That it is no number, or one beyond all floats, is told below; anything else, as Ctrl-C, is not the argument's
  // doing.
  if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_TypeError) && !PyErr_ExceptionMatches(PyExc_OverflowError))
    throw py::error_already_set();
  if (PyErr_Occurred() || !std::isfinite(scale)) {
    PyErr_Clear();
    const std::string text = "grad_scale must be a finite number, got " + py::repr(grad_scale).cast<std::string>();
    if (PyFloat_Check(grad_scale.ptr())) throw py::value_error(text);
    throw py::type_error(text);
  }
  return scale;
}

}  // namespace

void Engine::update(const py::object& optimizer, const py::object& params, const py::object& grads,
                    const py::object& grad_scale) {
  step(optimizer, params, grads, checked_scale(grad_scale), Ranks(), [](const char*) {});
}

void Engine::update_share(const py::object& optimizer, const py::object& params, const py::object& grads,
                          const py::object& grad_scale, const py::object& ranks) {
  step(optimizer, params, grads, checked_scale(grad_scale), Ranks(ranks), [](const char*) {});
}

void check(const py::object& params, const py::object& grads) {
  std::vector<Entry> entries;
  collect(params, grads, nullptr, false, entries);
  std::vector<Claim> claims;
  for (const Entry& entry : entries) {
    refuse_mismatch(entry);
    claims.push_back({entry.p_name(), &entry.p_view, entry.p});
    claims.push_back({entry.g_name(), &entry.g_view, entry.g});
    if (!entry.by_rows()) continue;
    const size_t n = static_cast<size_t>(entry.p_view.layout.shape()[0]);
    name_rows(entry.indices, static_cast<size_t>(entry.g_view.layout.shape()[0]), n, entry.g_name());
  }
  refuse_overlaps(claims);
}

void step_once(const std::string& rule, const py::tuple& scalars, const py::object& p, const py::object& g,
               const std::vector<std::pair<std::string, py::object>>& slots, const py::object& ratios,
               const py::list& pending) {
  const Kernel& kernel = find_kernel(rule);
  const auto wanted = static_cast<size_t>(kernel.slots);
  if (slots.size() < static_cast<size_t>(kernel.named()) + kernel.workspace)
    throw py::value_error(rule + " has " + std::to_string(wanted) + " state arrays, got " +
                          std::to_string(slots.size()));
  std::vector<Entry> entries;
  Entry& entry = entries.emplace_back(py::object(), p, g);
  entry.p_view = look(p, entry.p_name());
  entry.g_view = look(g, entry.g_name());
  if (!entry.p_view.in_memory()) throw py::type_error("p: a float cannot change in place; wrap it in numpy.array(...)");
  Orders orders;
  read_scalars(kernel, scalars, orders.groups[0].scalars);
  State state;
  const auto is_whole = [&](const auto& slot) { return is_whole_slot(kernel, slot.first); };
  if (kernel.factors && std::none_of(slots.begin(), slots.end(), is_whole)) state.operands.push_back({whole_slot, {}});
  for (const auto& [name, array] : slots)
    (state.operands.size() < wanted ? state.operands : state.others).push_back({name.c_str(), array});
  Plan plan({&kernel}, false, entries, {state}, {0}, [](size_t) { return Place{}; });
  plan.load_floats(entries);
  const int threads = team::Pace{}.size_for(plan.traffic());
  Passes passes(kernels(), plan);
  passes.provide(threads, false);
  if (plan.takes(with_python)) ask_ratios(plan, passes, orders, threads, [&](size_t) { return ratios; });
  check_pending(pending);
  advance(plan, passes, Part::arrays, orders, threads, Ranks(), false);
  copy_pending(pending);
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
  step(optimizer, params, grads, 1, Ranks(), lap);
  // A region in which there is nothing to do, of as many threads as the one that was timed.
  team::run(plans_.front()->pace.last_size(), [](void*, int, int) {}, nullptr);
  lap("region");
  times["kernel"] = std::max<int64_t>(0, times["region and kernel"] - times["region"]);
  times.erase("region and kernel");
  return times;
}

}  // namespace schuss
