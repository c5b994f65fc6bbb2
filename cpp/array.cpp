// Looking at an array through the C API, once, without making a Python object.
#include "array.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <utility>

#include "tensor.hpp"

namespace schuss {
namespace {

using py::detail::array_descriptor_proxy;
using py::detail::array_proxy;
using py::detail::npy_api;

std::string type_name(py::handle value) { return Py_TYPE(value.ptr())->tp_name; }

// The types compared on every call; never let go of, as they must outlive the interpreter's last module.
struct {
  PyObject *ndarray, *memmap;
  std::array<PyObject*, std::size(formats)> scalars;  // of the formats that lie as they are computed
} types;

PyObject*& scalar_type(Format format) { return types.scalars[static_cast<size_t>(format)]; }

// The number that the package ml_dtypes was given for its bfloat16 by NumPy, once an array of it was met.
std::atomic<int> bfloat16_number{known_later};

int number_of(Format format) {
  const int number = about(format).numpy_type;
  return number == known_later ? bfloat16_number.load(std::memory_order_relaxed) : number;
}

// Types that are not NumPy's own have numbers from here on. Ours is known by its name and where it comes from: the
// package need not be imported.
constexpr int first_of_others = 256;

bool is_bfloat16(const py::detail::PyArrayDescr_Proxy& descr) {
  if (descr.type_num < first_of_others || !descr.typeobj) return false;
  const py::handle type(descr.typeobj);
  const auto is = [&](const char* attribute, const char* text) {
    const py::object value = py::getattr(type, attribute, py::none());
    return PyUnicode_Check(value.ptr()) && PyUnicode_CompareWithASCIIString(value.ptr(), text) == 0;
  };
  return is("__name__", "bfloat16") && is("__module__", "ml_dtypes");
}

// The format of an array in this processor's order of bytes, if it is one of ours.
std::optional<Format> format_of(const py::detail::PyArrayDescr_Proxy& descr) {
  for (const FormatLine& line : formats)
    if (descr.type_num == number_of(line.format)) return line.format;
  if (!is_bfloat16(descr)) return {};
  bfloat16_number = descr.type_num;
  return Format::bfloat16;
}

// Of a Python float, or of one of NumPy's scalars.
std::optional<Format> float_format(py::handle value) {
  if (PyFloat_CheckExact(value.ptr())) return Format::float64;
  for (const FormatLine& line : formats)
    if (lies_plainly(line.format) && reinterpret_cast<PyObject*>(Py_TYPE(value.ptr())) == scalar_type(line.format))
      return line.format;
  return {};
}

// What arrays of some uses are called: "float32 or float64".
std::string accepted(Use last) {
  std::string names;
  for (const FormatLine& line : formats)
    if (line.use <= last) names += (names.empty() ? "" : ", ") + std::string(line.name);
  const size_t comma = names.rfind(", ");
  return names.replace(comma, 2, " or ");
}

// A function on arrays by themselves takes them as they are computed: what is coded has something beside it.
Use last_use(const Name& name) {
  if (!name.key) return Use::plain;
  return name.role == Role::state ? Use::state : Use::coded;
}

// NumPy names this processor's order '=', but for a dtype that came with a buffer.
bool is_native(const py::detail::PyArrayDescr_Proxy& descr) {
  const uint16_t one = 1;
  const char own = reinterpret_cast<const char*>(&one)[0] ? '<' : '>';
  return descr.byteorder == '=' || descr.byteorder == '|' || descr.byteorder == own;
}

// A scalar of NumPy's with a dtype of that size.
bool is_number_of_16_bits(py::handle value) {
  const py::object dtype = py::getattr(value, "dtype", py::none());
  return py::isinstance<py::dtype>(dtype) && py::reinterpret_borrow<py::dtype>(dtype).itemsize() == 2 &&
         !py::hasattr(value, "__len__");
}

[[noreturn]] void refuse_type(py::handle value, const Name& name) {
  std::string text =
      name.text() + ": expected a numpy.ndarray of " + accepted(last_use(name)) + ", got " + type_name(value);
  if (name.role == Role::state)
    text += "; state is kept from step to step, and a number cannot change in place";
  else if (PyBool_Check(value.ptr()) || PyLong_Check(value.ptr()))
    text += "; a Python number must be a float: write " + py::repr(value).cast<std::string>() + ".0 or float(...)";
  else if (value.is_none())
    text += name.role == Role::parameter ? "; only a gradient may be None" : "";
  else if (PyObject_IsInstance(value.ptr(), types.ndarray) == 1)
    text += "; this subclass of ndarray may mean more than its numbers: pass numpy.asarray(...) of it";
  else if (py::hasattr(value, "detach") && py::hasattr(value, "numpy"))
    text += std::string(name.role == Role::parameter ? "; schuss.torch has the optimizers for tensors" : "") +
            (py::str(py::getattr(value, "dtype", py::none())).cast<std::string>() == "torch.bfloat16"
                 ? "; pass .detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16) of it, which shares its memory"
                 : "; pass .detach().numpy() of it, which shares its memory");
  else if (is_number_of_16_bits(value))
    text += "; a number of 16 bits must be an array: write numpy.array(x), and keep that, as it changes in place";
  else if (PySequence_Check(value.ptr()) && name.written())
    text +=
        "; make an array of it once, with numpy.array(..., dtype=numpy.float32), and keep that: it changes in place";
  else if (PySequence_Check(value.ptr()))
    text += "; pass numpy.asarray(...) of it";
  throw py::type_error(text);
}

[[noreturn]] void refuse_dtype(py::handle descr, const Name& name) {
  std::string text =
      name.text() + ": expected dtype " + accepted(last_use(name)) + ", got " + py::str(descr).cast<std::string>();
  const auto& proxy = *array_descriptor_proxy(descr.ptr());
  const py::dtype dtype = py::reinterpret_borrow<py::dtype>(descr);
  if (format_of(proxy) && !is_native(proxy))
    text += ", which is byte-swapped; convert it once with .astype(dtype.newbyteorder('='))";
  else if (name.key && dtype.itemsize() == static_cast<py::ssize_t>(sizeof(uint16_t)))
    text += "; if these are the bits of bfloat16, pass .view(ml_dtypes.bfloat16), which shares their memory";
  else
    text += "; convert it once with .astype(numpy.float32) or numpy.float64";
  throw py::type_error(text);
}

// Whether two elements of an array may share memory. Every view that slicing can make has, axis by axis from
// the shortest stride, all inner elements within one stride; only as_strided makes others.
bool may_overlap_itself(const View& v) {
  std::vector<std::pair<py::ssize_t, py::ssize_t>> axes;  // |stride|, length
  if (v.layout.empty()) return false;
  for (int i = 0; i < v.layout.ndim(); ++i)
    if (v.layout.shape()[i] > 1) axes.emplace_back(std::abs(v.layout.strides()[i]), v.layout.shape()[i]);
  std::sort(axes.begin(), axes.end());
  py::ssize_t within = static_cast<py::ssize_t>(v.itemsize());
  for (const auto& [stride, length] : axes) {
    if (stride < within) return true;
    within += stride * (length - 1);
  }
  return false;
}

View look_at_tensor(py::handle value, const Name& name) {
  const Shown shown = *show(value);
  const std::string text = name.text() + " is a tensor ";
  if (!shown.on_cpu) throw py::type_error(text + "of another device; move it to the CPU");
  if (!shown.format)
    throw py::type_error(text + "of " + py::str(value.attr("dtype")).cast<std::string>() + "; expected " +
                         accepted(Use::coded));
  View view;
  view.kind = Kind::tensor;
  view.data = shown.data;
  view.format = *shown.format;
  const std::vector<py::ssize_t> shape(shown.shape, shown.shape + shown.ndim);
  std::vector<py::ssize_t> strides(shown.strides, shown.strides + shown.ndim);
  for (py::ssize_t& stride : strides) stride *= static_cast<py::ssize_t>(view.itemsize());
  view.layout = Layout(shown.ndim, shape.data(), strides.data());
  if (!shown.aligned) throw py::value_error(text + "that is not aligned to its elements");
  if (name.written() && may_overlap_itself(view))
    throw py::value_error(text + "whose elements may overlap each other in memory; use a clone of it");
  return view;
}

}  // namespace

void learn_types() {
  const py::module_ numpy = py::module_::import("numpy");
  const auto type = [&numpy](const char* name) { return py::object(numpy.attr(name)).release().ptr(); };
  types = {type("ndarray"), type("memmap"), {}};
  for (const FormatLine& line : formats)
    if (lies_plainly(line.format)) scalar_type(line.format) = type(line.name);
}

Layout::Layout(int ndim, const py::ssize_t* shape, const py::ssize_t* strides) : ndim_(ndim), few_{} {
  py::ssize_t* to = few_;
  if (ndim > few) {
    many_.resize(2 * static_cast<size_t>(ndim));
    to = many_.data();
  }
  std::copy_n(shape, ndim, to);
  std::copy_n(strides, ndim, to + ndim);
}

bool Layout::same(int ndim, const py::ssize_t* shape_, const py::ssize_t* strides_) const {
  return ndim == ndim_ && std::equal(shape(), shape() + ndim, shape_) &&
         std::equal(strides(), strides() + ndim, strides_);
}

bool Layout::same_shape(const Layout& other) const {
  return ndim_ == other.ndim_ && std::equal(shape(), shape() + ndim_, other.shape());
}

bool Layout::empty() const { return std::find(shape(), shape() + ndim_, 0) != shape() + ndim_; }

size_t View::size() const {
  size_t n = 1;
  for (int i = 0; i < layout.ndim(); ++i) n *= static_cast<size_t>(layout.shape()[i]);
  return n;
}

bool View::same_layout(const View& other) const {
  return format == other.format && kind == other.kind &&
         layout.same(other.layout.ndim(), other.layout.shape(), other.layout.strides());
}

char* View::place_of(py::handle value) const {
  if (kind == Kind::tensor) return place_of_tensor(*this, value);
  if (kind != Kind::array || !is_array(value)) return nullptr;
  const auto* now = array_proxy(value.ptr());
  const auto* descr = array_descriptor_proxy(now->descr);
  const bool alike = descr->type_num == number_of(format) && is_native(*descr) &&
                     now->flags & npy_api::NPY_ARRAY_ALIGNED_ && layout.same(now->nd, now->dimensions, now->strides);
  return alike ? now->data : nullptr;
}

py::object owner_of(py::handle value) {
  return is_array(value) ? py::reinterpret_borrow<py::object>(array_proxy(value.ptr())->base) : py::object();
}

bool is_writeable(py::handle array) { return array_proxy(array.ptr())->flags & npy_api::NPY_ARRAY_WRITEABLE_; }

std::string Name::text() const {
  if (!key) return slot;
  const std::string at = "[" + py::repr(key).cast<std::string>() + "]";
  if (role == Role::state) return "the state '" + std::string(slot) + "' of params" + at;
  return (role == Role::parameter ? "params" : "grads") + at;
}

bool is_array(py::handle value) {
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(value.ptr()));
  return type == types.ndarray || type == types.memmap;
}

bool is_number(py::handle value) { return float_format(value).has_value(); }

View look(py::handle value, const Name& name, bool tensors) {
  if (tensors && is_tensor(value)) return look_at_tensor(value, name);
  View view;
  if (!is_array(value)) {
    const std::optional<Format> format = name.role == Role::state ? std::nullopt : float_format(value);
    if (!format) refuse_type(value, name);
    view.format = *format;
    view.layout = Layout(0, nullptr, nullptr);
    view.kind = PyFloat_CheckExact(value.ptr()) ? Kind::python_float : Kind::numpy_scalar;
    return view;
  }
  const auto* array = array_proxy(value.ptr());
  const auto* descr = array_descriptor_proxy(array->descr);
  const std::optional<Format> format = format_of(*descr);
  if (!format || !is_native(*descr) || about(*format).use > last_use(name)) refuse_dtype(array->descr, name);
  view.data = array->data;
  view.format = *format;
  view.layout = Layout(array->nd, array->dimensions, array->strides);
  if (!(array->flags & npy_api::NPY_ARRAY_ALIGNED_))
    throw py::value_error(name.text() + ": its data is not aligned to its " + view.dtype() +
                          " elements; use a copy of it");
  if (name.written()) {
    if (!is_writeable(value))
      throw py::value_error(name.text() + ": is read-only, so it cannot be updated in place; use a copy of it");
    const bool plain = array->flags & (py::array::c_style | py::array::f_style);
    if (!plain && may_overlap_itself(view))
      throw py::value_error(name.text() + ": its elements may overlap each other in memory (shape " + shape_text(view) +
                            ", a stride shorter than what it steps over); use a copy of it");
  }
  return view;
}

View look_contiguous(py::handle value, const Name& name, const std::vector<py::ssize_t>& shape) {
  View view = look(value, name);
  if (view.kind != Kind::array) refuse_type(value, name);
  if (!lies_plainly(view.format)) refuse_dtype(array_proxy(value.ptr())->descr, {Role::gradient, {}, name.slot});
  const auto fits = [](py::ssize_t length, py::ssize_t any) { return any < 0 || length == any; };
  const py::ssize_t* const found = view.layout.shape();
  if (shape.size() != static_cast<size_t>(view.layout.ndim()) ||
      !std::equal(shape.begin(), shape.end(), found, [&](auto any, auto length) { return fits(length, any); })) {
    std::string text;
    for (const py::ssize_t length : shape) text += (length < 0 ? "n" : std::to_string(length)) + ", ";
    throw py::value_error(name.text() + ": expected shape (" + text.substr(0, text.size() - 2) + "), got " +
                          shape_text(view));
  }
  if (!(array_proxy(value.ptr())->flags & py::array::c_style))
    throw py::value_error(name.text() + ": expected a C-contiguous array; pass numpy.ascontiguousarray(...) of it");
  return view;
}

View look_contiguous(py::handle value, const Name& name, const std::vector<py::ssize_t>& shape, Format format) {
  const View view = look_contiguous(value, name, shape);
  if (view.format != format)
    throw py::type_error(name.text() + ": expected dtype " + about(format).name + ", got " + view.dtype());
  return view;
}

void copy_into(py::handle to, py::handle from) {
  if (npy_api::get().PyArray_CopyInto_(to.ptr(), from.ptr()) < 0) throw py::error_already_set();
}

py::object float_like(const View& view, double value) {
  py::float_ number(value);
  if (view.kind == Kind::python_float) return std::move(number);
  return py::handle(scalar_type(view.format))(number);
}

std::string shape_text(const View& view) {
  std::string text = "(";
  const int ndim = view.layout.ndim();
  for (int i = 0; i < ndim; ++i) text += (i ? ", " : "") + std::to_string(view.layout.shape()[i]);
  return text + (ndim == 1 ? ",)" : ")");
}

Extent extent_of(const View& view) {
  Extent extent{view.data, view.data + view.itemsize()};
  if (view.layout.empty()) return {view.data, view.data};
  for (int i = 0; i < view.layout.ndim(); ++i) {
    const py::ssize_t reach = (view.layout.shape()[i] - 1) * view.layout.strides()[i];
    (reach < 0 ? extent.low : extent.high) += reach;
  }
  return extent;
}

}  // namespace schuss
