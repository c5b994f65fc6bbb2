// Looking at an array through the C API, once, without making a Python object.
#include "array.hpp"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace schuss {
namespace {

using py::detail::array_descriptor_proxy;
using py::detail::array_proxy;
using py::detail::npy_api;

std::string type_name(py::handle value) { return Py_TYPE(value.ptr())->tp_name; }

// The types compared on every call; never let go of, as they must outlive the interpreter's last module.
struct {
  PyObject *ndarray, *memmap, *float64, *float32;
} types;

[[noreturn]] void refuse_type(py::handle value, Role role, py::handle key) {
  std::string text = name_of(role, key) + ": expected a numpy.ndarray of float32 or float64, got " + type_name(value);
  if (PyBool_Check(value.ptr()) || PyLong_Check(value.ptr()))
    text += "; a Python number must be a float: write " + py::repr(value).cast<std::string>() + ".0 or float(...)";
  else if (value.is_none())
    text += role == Role::parameter ? "; only a gradient may be None" : "";
  else if (PyObject_IsInstance(value.ptr(), types.ndarray) == 1)
    text += "; this subclass of ndarray may mean more than its numbers: pass numpy.asarray(...) of it";
  else if (PySequence_Check(value.ptr()))
    text += "; wrap it in numpy.array(..., dtype=numpy.float32)";
  throw py::type_error(text);
}

[[noreturn]] void refuse_dtype(py::handle descr, Role role, py::handle key) {
  const py::dtype dtype = py::reinterpret_borrow<py::dtype>(descr);
  std::string text =
      name_of(role, key) + ": expected dtype float32 or float64, got " + py::str(descr).cast<std::string>();
  if (dtype.num() == npy_api::NPY_FLOAT_ || dtype.num() == npy_api::NPY_DOUBLE_)
    text += ", which is byte-swapped; convert it once with .astype(dtype.newbyteorder('='))";
  else
    text += "; convert it once with .astype(numpy.float32) or numpy.float64";
  throw py::type_error(text);
}

// Whether two elements of an array may share memory. Every view that slicing can make has, axis by axis from
// the shortest stride, all inner elements within one stride; only as_strided makes others.
bool may_overlap_itself(const View& v) {
  std::vector<std::pair<py::ssize_t, py::ssize_t>> axes;  // |stride|, length
  for (int i = 0; i < v.ndim; ++i) {
    if (v.shape[i] == 0) return false;
    if (v.shape[i] > 1) axes.emplace_back(std::abs(v.strides[i]), v.shape[i]);
  }
  std::sort(axes.begin(), axes.end());
  py::ssize_t within = static_cast<py::ssize_t>(v.itemsize());
  for (const auto& [stride, length] : axes) {
    if (stride < within) return true;
    within += stride * (length - 1);
  }
  return false;
}

}  // namespace

void learn_types() {
  const py::module_ numpy = py::module_::import("numpy");
  const auto type = [&numpy](const char* name) { return py::object(numpy.attr(name)).release().ptr(); };
  types = {type("ndarray"), type("memmap"), type("float64"), type("float32")};
}

size_t View::size() const {
  size_t n = 1;
  for (int i = 0; i < ndim; ++i) n *= static_cast<size_t>(shape[i]);
  return n;
}

std::string name_of(Role role, py::handle key) {
  const char* owner = role == Role::parameter ? "params[" : role == Role::gradient ? "grads[" : "the state of params[";
  return owner + py::repr(key).cast<std::string>() + "]";
}

View look(py::handle value, Role role, py::handle key) {
  View view;
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(value.ptr()));
  if (type != types.ndarray && type != types.memmap) {
    if (type == reinterpret_cast<PyObject*>(&PyFloat_Type))
      view.kind = Kind::python_float;
    else if (type == types.float64)
      view.kind = Kind::numpy_float64;
    else if (type == types.float32)
      view.kind = Kind::numpy_float32;
    else
      refuse_type(value, role, key);
    view.is_double = view.kind != Kind::numpy_float32;
    view.writeable = true;
    return view;
  }
  const auto* array = array_proxy(value.ptr());
  const auto* descr = array_descriptor_proxy(array->descr);
  const bool native = descr->byteorder == '=' || descr->byteorder == '|';
  if ((descr->type_num != npy_api::NPY_FLOAT_ && descr->type_num != npy_api::NPY_DOUBLE_) || !native)
    refuse_dtype(array->descr, role, key);
  view.data = array->data;
  view.ndim = array->nd;
  view.is_double = descr->type_num == npy_api::NPY_DOUBLE_;
  view.writeable = array->flags & npy_api::NPY_ARRAY_WRITEABLE_;
  view.shape = array->dimensions;
  view.strides = array->strides;
  if (!(array->flags & npy_api::NPY_ARRAY_ALIGNED_))
    throw py::value_error(name_of(role, key) + ": its data is not aligned to its " + dtype_text(view) +
                          " elements; use a copy of it");
  if (role != Role::gradient) {
    if (!view.writeable)
      throw py::value_error(name_of(role, key) + ": is read-only, so it cannot be updated in place; use a copy of it");
    const bool plain = array->flags & (py::array::c_style | py::array::f_style);
    if (!plain && may_overlap_itself(view))
      throw py::value_error(name_of(role, key) + ": its elements overlap each other in memory (shape " +
                            shape_text(view) + ", a stride shorter than what it steps over); use a copy of it");
  }
  return view;
}

double float_value(py::handle value) { return PyFloat_AsDouble(value.ptr()); }

py::object float_like(Kind kind, double value) {
  py::float_ number(value);
  if (kind == Kind::numpy_float64) return py::handle(types.float64)(number);
  if (kind == Kind::numpy_float32) return py::handle(types.float32)(number);
  return std::move(number);
}

std::string shape_text(const View& view) {
  std::string text = "(";
  for (int i = 0; i < view.ndim; ++i) text += (i ? ", " : "") + std::to_string(view.shape[i]);
  return text + (view.ndim == 1 ? ",)" : ")");
}

const char* dtype_text(const View& view) { return view.is_double ? "float64" : "float32"; }

Extent extent_of(const View& view) {
  Extent extent{view.data, view.data + view.itemsize()};
  for (int i = 0; i < view.ndim; ++i) {
    if (view.shape[i] == 0) return {view.data, view.data};
    const py::ssize_t reach = (view.shape[i] - 1) * view.strides[i];
    (reach < 0 ? extent.low : extent.high) += reach;
  }
  return extent;
}

}  // namespace schuss
