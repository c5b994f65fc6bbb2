// DLPack's exchange in C: https://dmlc.github.io/dlpack, version 1.3, whose layouts stand here as far as they are used.
#include "tensor.hpp"

#include <atomic>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <string>

namespace schuss {
namespace {

struct DLTensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
constexpr int32_t cpu = 1;
constexpr uint8_t code_float = 2, code_bfloat = 4;

using ShowNow = int (*)(void* object, DLTensor* out);
struct ExchangeAPI {
  uint32_t major, minor;
  ExchangeAPI* previous;
  void *allocate, *from_object, *to_object;
  ShowNow show;
  void* stream;
};
constexpr uint32_t major = 1;

// The classes that were told of, never let go of. They are read while others are added.
struct Known {
  PyObject* type;
  ShowNow show;
  const Known* next;
};
std::atomic<const Known*> first{nullptr};
std::mutex adding;
std::deque<Known> all;

const Known* find(py::handle type) {
  const Known* known = first.load(std::memory_order_acquire);
  while (known && known->type != type.ptr()) known = known->next;
  return known;
}

// Where tensors of no elements lie that tell of no place.
alignas(double) char nowhere[sizeof(double)];

py::handle type_of(py::handle value) { return reinterpret_cast<PyObject*>(Py_TYPE(value.ptr())); }

std::optional<Format> format_of(const DLTensor& tensor) {
  if (tensor.lanes != 1) return {};
  if (tensor.code == code_bfloat && tensor.bits == 16) return Format::bfloat16;
  if (tensor.code != code_float) return {};
  switch (tensor.bits) {
    case 16:
      return Format::float16;
    case 32:
      return Format::float32;
    case 64:
      return Format::float64;
    default:
      return {};
  }
}

// The imaginary part of a conjugate is a view with a stride of 2, whose numbers are the negatives of what lies there;
// and that is not told.
bool may_be_turned(const DLTensor& tensor) {
  return tensor.ndim == 0 || tensor.strides[tensor.ndim - 1] != 1 || tensor.shape[tensor.ndim - 1] == 1;
}

}  // namespace

void learn_tensors(const py::object& type) {
  if (!PyType_Check(type.ptr()))
    throw py::type_error("type must be a class, got " + py::repr(type).cast<std::string>());
  const auto capsule = py::getattr(type, "__dlpack_c_exchange_api__", py::none());
  if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api"))
    throw py::type_error(py::str(type.attr("__name__")).cast<std::string>() + " has no __dlpack_c_exchange_api__");
  const auto* api = static_cast<const ExchangeAPI*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  while (api && api->major != major) api = api->previous;
  if (!api || !api->show)
    throw py::type_error(py::str(type.attr("__name__")).cast<std::string>() + " shows its memory in no way known here");
  const std::lock_guard<std::mutex> lock(adding);
  if (find(type)) return;
  all.push_back({py::object(type).release().ptr(), api->show, first.load()});
  first.store(&all.back(), std::memory_order_release);
}

bool is_tensor(py::handle value) { return find(type_of(value)) != nullptr; }

std::optional<Shown> show(py::handle value) {
  const Known* const known = find(type_of(value));
  if (!known) return {};
  DLTensor now;
  if (known->show(value.ptr(), &now) != 0) throw py::error_already_set();
  const bool on_cpu = now.device_type == cpu;
  if (may_be_turned(now) && value.attr("is_neg")().cast<bool>())
    throw std::runtime_error("a tensor's memory has the other sign than its numbers; take resolve_neg() of it");
  char* const data = now.data ? static_cast<char*>(now.data) + now.byte_offset : nowhere;
  const std::optional<Format> format = format_of(now);
  const bool aligned = !format || reinterpret_cast<uintptr_t>(data) % about(*format).itemsize == 0;
  return Shown{data, now.ndim, now.shape, now.strides, format, on_cpu, aligned};
}

char* place_of_tensor(const View& view, py::handle value) {
  const std::optional<Shown> now = show(value);
  if (!now || !now->on_cpu || !now->aligned || now->format != view.format || now->ndim != view.layout.ndim())
    return nullptr;
  const py::ssize_t *const shape = view.layout.shape(), *const strides = view.layout.strides();
  const auto size = static_cast<py::ssize_t>(view.itemsize());
  for (int i = 0; i < now->ndim; ++i)
    if (shape[i] != now->shape[i] || strides[i] != now->strides[i] * size) return nullptr;
  return now->data;
}

}  // namespace schuss
