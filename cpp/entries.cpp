// What may hold parameters: dicts and other mappings, lists and tuples.
#include "entries.hpp"

#include <pybind11/critical_section.h>

#include <string>
#include <utility>

#include "tensor.hpp"

namespace schuss {
namespace {

bool is_sequence(const py::object& container) {
  return py::isinstance<py::list>(container) || py::isinstance<py::tuple>(container);
}

bool is_mapping(const py::object& container) {
  return PyDict_Check(container.ptr()) || (py::hasattr(container, "keys") && py::hasattr(container, "__getitem__"));
}

std::string type_name(const py::object& value) { return Py_TYPE(value.ptr())->tp_name; }

// Reads one side. A plain dict or list is read through the C API, anything else through its own methods.
class Reader {
 public:
  Reader(const py::object& container, const char* argument) : container_(container) {
    if (!is_sequence(container) && !is_mapping(container)) {
      std::string text = std::string(argument) + " must be a dict of name -> numpy.ndarray, or a list of them; got " +
                         type_name(container);
      if (py::isinstance<py::array>(container)) text += "; put it in a dict, as in {\"W\": W}";
      throw py::type_error(text);
    }
  }

  bool sequence() const { return is_sequence(container_); }
  size_t size() const { return py::len(container_); }

  // visit(key, value) for each.
  template <class Visit>
  void each(Visit visit) const {
    if (PyDict_CheckExact(container_.ptr())) {
      py::object key, value;
      for (Py_ssize_t at = 0; next(at, key, value);) visit(key, std::move(value));
    } else if (sequence()) {
      for (size_t i = 0; i < size(); ++i) visit(py::int_(i), container_[py::int_(i)]);
    } else {
      for (const py::handle key : py::list(container_.attr("keys")()))
        visit(py::reinterpret_borrow<py::object>(key), container_[key]);
    }
  }

  // A null object where there is none.
  py::object find(py::handle key) const {
    if (PyDict_CheckExact(container_.ptr())) {
#if PY_VERSION_HEX >= 0x030D0000
      PyObject* value = nullptr;
      if (PyDict_GetItemRef(container_.ptr(), key.ptr(), &value) < 0) throw py::error_already_set();
      return py::reinterpret_steal<py::object>(value);
#else
      PyObject* const value = PyDict_GetItemWithError(container_.ptr(), key.ptr());
      if (!value && PyErr_Occurred()) throw py::error_already_set();
      return py::reinterpret_borrow<py::object>(value);
#endif
    }
    if (!sequence() && !container_.contains(key)) return {};
    return container_[key];
  }

 private:
  // PyDict_Next lends its objects, and another thread may take them out of the dict: they are held at once.
  bool next(Py_ssize_t& at, py::object& key, py::object& value) const {
    const py::scoped_critical_section locked(container_);
    PyObject *lent_key, *lent_value;
    if (!PyDict_Next(container_.ptr(), &at, &lent_key, &lent_value)) return false;
    key = py::reinterpret_borrow<py::object>(lent_key);
    value = py::reinterpret_borrow<py::object>(lent_value);
    return true;
  }

  const py::object& container_;
};

// "'b1', 'W2'": the names of `these` that `others` lacks.
std::string missing_from(const Reader& others, const Reader& these) {
  std::string names;
  these.each([&](const py::object& key, const py::object&) {
    if (!others.find(key)) names += (names.empty() ? "" : ", ") + py::repr(key).cast<std::string>();
  });
  return names;
}

[[noreturn]] void refuse_different_names(const Reader& params, const Reader& grads) {
  const std::string missing = missing_from(grads, params), extra = missing_from(params, grads);
  std::string text = "params and grads must have the same names:";
  if (!missing.empty()) text += " grads lacks " + missing;
  if (!extra.empty()) text += std::string(missing.empty() ? "" : ",") + " grads has " + extra + ", which params lacks";
  throw py::value_error(text + " (a gradient of None skips its parameter)");
}

PyObject* rows_type = nullptr;                                          // schuss.Rows
PyObject *view_function = nullptr, *parameter_view_function = nullptr;  // of schuss.views
PyObject *is_nest_function = nullptr, *flatten_function = nullptr;      // of schuss.nested

bool is_nest(py::handle value) { return is_nest_function && py::handle(is_nest_function)(value).cast<bool>(); }

// Thrown where a parameter holds others, and that is said to be possible.
struct Nested {};

// Of another library's value the array with its memory, if it shows that.
py::object array_of(const py::object& value, PyObject* function, bool tensors) {
  if (is_array(value) || is_number(value) || (tensors && is_tensor(value)) || !function) return value;
  py::object view = py::handle(function)(value);
  return view.is_none() ? value : view;
}

// A gradient by rows is taken apart: its attributes are slots, whose reading runs no code of the user's.
void look_at(Entry& entry, bool tensors, bool nested) {
  if (nested && !is_array(entry.p) && !is_number(entry.p) && is_nest(entry.p)) throw Nested();
  if (reinterpret_cast<PyObject*>(Py_TYPE(entry.g.ptr())) == rows_type) {
    entry.indices = entry.g.attr("_indices");
    entry.g = entry.g.attr("_values");
  }
  entry.g = array_of(entry.g, view_function, tensors);
  entry.p = array_of(entry.p, parameter_view_function, tensors);
  entry.p_view = look(entry.p, entry.p_name(), tensors);
  entry.g_view = look(entry.g, entry.g_name(), tensors);
  entry.looked = true;
}

bool collect_flat(const py::object& params, const py::object& grads, const Plan* plan, bool tensors, bool nested,
                  std::vector<Entry>& entries) {
  if (nested && !is_sequence(params) && !is_mapping(params) && is_nest(params)) throw Nested();
  const Reader parameters(params, "params"), gradients(grads, "grads");
  if (parameters.sequence() != gradients.sequence())
    throw py::type_error("params is a " + type_name(params) + " and grads a " + type_name(grads) +
                         "; both must be mappings, or both lists");
  if (parameters.sequence() && parameters.size() != gradients.size())
    throw py::value_error("params has " + std::to_string(parameters.size()) + " arrays, grads has " +
                          std::to_string(gradients.size()) + "; they must be in pairs");
  size_t skipped = 0;
  bool all_known = plan != nullptr;
  const bool plain = PyDict_CheckExact(params.ptr());
  parameters.each([&](const py::object& key, py::object p) {
    py::object g = gradients.find(key);
    if (!g) refuse_different_names(parameters, gradients);
    if (g.is_none()) {
      ++skipped;
      return;
    }
    const py::object given = plain ? py::object() : p;
    Entry& entry = entries.emplace_back(key, std::move(p), std::move(g));
    all_known = all_known && plan->knows(entries.size() - 1, entry);
    if (!all_known) look_at(entry, tensors, nested);
    const bool is_float = !is_array(entry.p) && !is_tensor(entry.p);
    if (is_float && !plain && !py::hasattr(params, "__setitem__"))
      throw py::type_error(entry.p_name().text() + " is a float in a " + type_name(params) +
                           ": it can neither change in place nor be replaced; use a list or a dict");
    // A mapping that makes a new array at each access would lose the update.
    if (!is_float && !plain && !PyList_CheckExact(params.ptr()) && !parameters.find(entry.key).is(given))
      throw py::type_error(entry.p_name().text() + ": " + type_name(params) +
                           " gives another array at each access, so an update would be lost; use a dict of the arrays");
  });
  if (gradients.size() != entries.size() + skipped) refuse_different_names(parameters, gradients);
  if (all_known && entries.size() == plan->tensors().size()) return true;
  for (Entry& entry : entries)
    if (!entry.looked) look_at(entry, tensors, nested);  // as it was known, until one came that was not
  return false;
}

}  // namespace

void learn_nested(const py::object& is_nest_, const py::object& flatten_) {
  is_nest_function = py::object(is_nest_).release().ptr();
  flatten_function = py::object(flatten_).release().ptr();
}

void learn_views(const py::object& of_gradient, const py::object& of_parameter) {
  view_function = py::object(of_gradient).release().ptr();
  parameter_view_function = py::object(of_parameter).release().ptr();
}

py::object array_of_parameter(const py::object& value, bool tensors) {
  return array_of(value, parameter_view_function, tensors);
}

void learn_rows(const py::object& type) { rows_type = py::object(type).release().ptr(); }

bool collect(const py::object& params, const py::object& grads, const Plan* plan, bool tensors,
             std::vector<Entry>& entries, ByPath* by_path) {
  if (!by_path) return collect_flat(params, grads, plan, tensors, false, entries);
  try {
    return collect_flat(params, grads, plan, tensors, true, entries);
  } catch (const Nested&) {
    entries.clear();
  }
  *by_path = py::handle(flatten_function)(params, grads).cast<ByPath>();
  return collect_flat(by_path->first, by_path->second, plan, tensors, false, entries);
}

void Rebound::set(const Entry& entry, const py::object& value) {
  old_.emplace_back(entry.key, entry.p);  // first, as what is replaced in part is to come back, too
  if (PyObject_SetItem(params_.ptr(), entry.key.ptr(), value.ptr()) != 0) throw py::error_already_set();
}

Rebound::~Rebound() {
  if (old_.empty()) return;
  const py::error_scope pending;  // what is being told to the caller
  for (const auto& [key, value] : old_) {
    PyObject* const now = PyObject_GetItem(params_.ptr(), key.ptr());
    const bool replaced = now != value.ptr();
    Py_XDECREF(now);
    if (!now) PyErr_Clear();
    if (replaced && PyObject_SetItem(params_.ptr(), key.ptr(), value.ptr()) != 0) PyErr_WriteUnraisable(params_.ptr());
  }
}

}  // namespace schuss
