// What may hold parameters: dicts and other mappings, lists and tuples.
#include "entries.hpp"

#include <string>

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

  py::list keys() const {
    if (PyDict_CheckExact(container_.ptr())) return py::reinterpret_steal<py::list>(PyDict_Keys(container_.ptr()));
    if (!sequence()) return py::list(container_.attr("keys")());
    py::list positions;
    for (size_t i = 0; i < size(); ++i) positions.append(i);
    return positions;
  }

  // A null object where there is none.
  py::object find(py::handle key) const {
    if (PyDict_CheckExact(container_.ptr())) {
      PyObject* const value = PyDict_GetItemWithError(container_.ptr(), key.ptr());
      if (!value && PyErr_Occurred()) throw py::error_already_set();
      return py::reinterpret_borrow<py::object>(value);
    }
    if (!sequence() && !container_.contains(key)) return {};
    return container_[key];
  }

 private:
  const py::object& container_;
};

// "'b1', 'W2'": the names of `these` that `others` lacks.
std::string missing_from(const Reader& others, const py::list& these) {
  std::string names;
  for (const py::handle key : these)
    if (!others.find(key)) names += (names.empty() ? "" : ", ") + py::repr(key).cast<std::string>();
  return names;
}

void refuse_different_names(const Reader& params, const Reader& grads, const py::list& keys) {
  const std::string missing = missing_from(grads, keys), extra = missing_from(params, grads.keys());
  std::string text = "params and grads must have the same names:";
  if (!missing.empty()) text += " grads lacks " + missing;
  if (!extra.empty()) text += std::string(missing.empty() ? "" : ",") + " grads has " + extra + ", which params lacks";
  throw py::value_error(text + " (a gradient of None skips its parameter)");
}

}  // namespace

std::vector<Entry> collect(const py::object& params, const py::object& grads) {
  const Reader parameters(params, "params"), gradients(grads, "grads");
  if (parameters.sequence() != gradients.sequence())
    throw py::type_error("params is a " + type_name(params) + " and grads a " + type_name(grads) +
                         "; both must be mappings, or both lists");
  if (parameters.sequence() && parameters.size() != gradients.size())
    throw py::value_error("params has " + std::to_string(parameters.size()) + " arrays, grads has " +
                          std::to_string(gradients.size()) + "; they must be in pairs");
  const py::list keys = parameters.keys();
  std::vector<Entry> entries;
  entries.reserve(keys.size());
  size_t skipped = 0;
  for (const py::handle key : keys) {
    Entry entry{py::reinterpret_borrow<py::object>(key), parameters.find(key), gradients.find(key), {}, {}};
    if (!entry.p || !entry.g) refuse_different_names(parameters, gradients, keys);
    if (entry.g.is_none()) {
      ++skipped;
      continue;
    }
    entry.p_view = look(entry.p, Role::parameter, key);
    entry.g_view = look(entry.g, Role::gradient, key);
    if (entry.p_view.kind != Kind::array && !py::hasattr(params, "__setitem__"))
      throw py::type_error(name_of(Role::parameter, key) + " is a float in a " + type_name(params) +
                           ": it can neither change in place nor be replaced; use a list or a dict");
    // A mapping that makes a new array at each access would lose the update.
    if (!PyDict_CheckExact(params.ptr()) && entry.p_view.kind == Kind::array && !parameters.find(key).is(entry.p))
      throw py::type_error(name_of(Role::parameter, key) + ": " + type_name(params) +
                           " gives another array at each access, so an update would be lost; use a dict of the arrays");
    entries.push_back(std::move(entry));
  }
  if (gradients.size() != entries.size() + skipped) refuse_different_names(parameters, gradients, keys);
  return entries;
}

void rebind(const py::object& params, const py::object& key, const py::object& value) {
  if (PyObject_SetItem(params.ptr(), key.ptr(), value.ptr()) != 0) throw py::error_already_set();
}

}  // namespace schuss
