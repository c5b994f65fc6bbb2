// The Python module schuss._core: bindings, and the checks of the arrays that they hand on.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "array.hpp"
#include "engine.hpp"
#include "entries.hpp"
#include "isa.hpp"
#include "layers.hpp"
#include "roots.hpp"
#include "stream.hpp"
#include "subnormals.hpp"
#include "team.hpp"
#include "tensor.hpp"
#include "without_gil.hpp"

namespace py = pybind11;

namespace {

using schuss::look_contiguous;

schuss::Name input(const char* name) { return {schuss::Role::gradient, {}, name}; }
schuss::Name output(const char* name) { return {schuss::Role::state, {}, name}; }

template <class T>
T* data(const schuss::View& view) {
  return reinterpret_cast<T*>(view.data);
}

void stream_over(const py::object& p, const py::object& g, const std::vector<py::object>& slots, int threads,
                 int repeats) {
  const schuss::View to = look_contiguous(p, output("p"), {-1});
  const std::vector<py::ssize_t> shape(to.layout.shape(), to.layout.shape() + 1);
  const schuss::View from = look_contiguous(g, input("g"), shape, to.format);
  std::vector<schuss::View> views;
  for (const py::object& slot : slots) views.push_back(look_contiguous(slot, output("slots"), shape, to.format));
  if (slots.size() > max_slots)
    throw py::value_error("slots: expected at most " + std::to_string(max_slots) + " arrays, got " +
                          std::to_string(slots.size()));
  team::check_threads(threads);
  if (repeats < 1) throw py::value_error("repeats must be at least 1, got " + std::to_string(repeats));
  with_type_of(to.format, [&](auto type) {
    using T = decltype(type);
    std::vector<T*> pointers;
    for (const schuss::View& view : views) pointers.push_back(data<T>(view));
    const schuss::WithoutGil released;
    stream::run(isa::kernels().traffic.of<T>(), to.size(), data<T>(to), data<T>(from), pointers.data(),
                static_cast<int>(pointers.size()), threads, repeats);
  });
}

// A network's passes. `rows` and `columns` are those of the first array, which all others have to follow.
struct Sizes {
  py::ssize_t rows, columns;
  explicit Sizes(const schuss::View& view) : rows(view.layout.shape()[0]), columns(view.layout.shape()[1]) {}
  std::vector<py::ssize_t> both() const { return {rows, columns}; }
  size_t n() const { return static_cast<size_t>(rows); }
  size_t m() const { return static_cast<size_t>(columns); }
};

void bias_relu(const py::object& y, const py::object& b) {
  const schuss::View to = look_contiguous(y, output("y"), {-1, -1});
  const Sizes sizes(to);
  const schuss::View bias = look_contiguous(b, input("b"), {sizes.columns}, to.format);
  with_type_of(to.format, [&](auto type) {
    using T = decltype(type);
    layers::bias_relu(sizes.n(), sizes.m(), data<T>(to), data<T>(bias));
  });
}

void relu_backward(const py::object& d, const py::object& y, const py::object& db) {
  const schuss::View to = look_contiguous(d, output("d"), {-1, -1});
  const Sizes sizes(to);
  const schuss::View from = look_contiguous(y, input("y"), sizes.both(), to.format);
  const schuss::View sum = look_contiguous(db, output("db"), {sizes.columns}, to.format);
  with_type_of(to.format, [&](auto type) {
    using T = decltype(type);
    layers::relu_backward(sizes.n(), sizes.m(), data<T>(to), data<T>(from), data<T>(sum));
  });
}

// `t` holds a row of weights for each row of x, or its label; `w` a weight for each row, or None.
double softmax_loss(const py::object& x, const py::object& t, const py::object& d, const py::object& w) {
  const schuss::View scores = look_contiguous(x, input("x"), {-1, -1});
  const Sizes sizes(scores);
  if (sizes.columns == 0) throw py::value_error("x: expected at least one column, got shape " + shape_text(scores));
  const schuss::View to = look_contiguous(d, output("d"), sizes.both(), scores.format);
  const bool weighted = !w.is_none();
  const schuss::View rows = weighted ? look_contiguous(w, input("w"), {sizes.rows}, scores.format) : schuss::View();
  using Labels = py::array_t<int64_t, py::array::c_style>;
  if (!schuss::is_array(t) || !py::isinstance<Labels>(t)) {
    const schuss::View weights = look_contiguous(t, input("t"), sizes.both(), scores.format);
    return with_type_of(scores.format, [&](auto type) {
      using T = decltype(type);
      return layers::softmax_loss<T>(sizes.n(), sizes.m(), data<T>(scores), data<T>(weights), nullptr,
                                     weighted ? data<T>(rows) : nullptr, data<T>(to));
    });
  }
  const auto labels = py::reinterpret_borrow<Labels>(t);
  if (labels.ndim() != 1 || labels.shape(0) != sizes.rows)
    throw py::value_error("t: expected " + std::to_string(sizes.rows) + " labels, got " +
                          std::to_string(labels.size()));
  if (!(labels.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_))
    throw py::value_error("t: its data is not aligned to its int64 elements; use a copy of it");
  const int64_t* const label = labels.data();
  for (py::ssize_t i = 0; i < sizes.rows; ++i)
    if (label[i] < 0 || label[i] >= sizes.columns)
      throw py::value_error("t: expected labels from 0 to " + std::to_string(sizes.columns - 1) + ", got " +
                            std::to_string(label[i]));
  return with_type_of(scores.format, [&](auto type) {
    using T = decltype(type);
    return layers::softmax_loss<T>(sizes.n(), sizes.m(), data<T>(scores), nullptr, label,
                                   weighted ? data<T>(rows) : nullptr, data<T>(to));
  });
}

void add_scaled(const py::object& d, const py::object& x, double factor) {
  const schuss::View to = look_contiguous(d, output("d"), {-1, -1});
  const schuss::View from = look_contiguous(x, input("x"), Sizes(to).both(), to.format);
  with_type_of(to.format, [&](auto type) {
    using T = decltype(type);
    layers::add_scaled(to.size(), data<T>(to), data<T>(from), static_cast<T>(factor));
  });
}

// The garbage collector sees what an engine holds.
void collectable(PyHeapTypeObject* heap_type) {
  PyTypeObject& type = heap_type->ht_type;
  type.tp_flags |= Py_TPFLAGS_HAVE_GC;
  type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    if (!py::detail::is_holder_constructed(self)) return 0;
    return py::cast<const schuss::Engine&>(py::handle(self)).visit_all(visit, arg);
  };
  type.tp_clear = [](PyObject* self) {
    if (py::detail::is_holder_constructed(self)) py::cast<schuss::Engine&>(py::handle(self)).clear();
    return 0;
  };
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "The compiled core of schuss.";
  m.attr("__version__") = SCHUSS_VERSION;

  schuss::learn_types();

  isa::Choice choice;
  try {
    choice = isa::choose();
  } catch (const std::invalid_argument& error) {
    throw py::import_error(error.what());
  }
  m.attr("isa") = choice.name;
  py::list names;
  for (const isa::Choice& each : isa::available()) names.append(each.name);
  m.attr("isas_available") = py::tuple(names);
  m.attr("can_flush") = schuss::Flush::available;
  m.attr("openmp") = team::openmp();

  m.def("set_threads", &team::set_threads, py::arg("threads"));
  m.def("threads", &team::threads);
  m.attr("most_threads") = team::most_threads;
  m.def("set_grain", &team::set_grain, py::arg("bytes"));
  m.def("grain", &team::grain);

  m.def("check", &schuss::check, py::arg("params"), py::arg("grads"));
  m.def("learn_nested", &schuss::learn_nested, py::arg("is_nest"), py::arg("flatten"));
  m.def("learn_views", &schuss::learn_views, py::arg("of_gradient"), py::arg("of_parameter"));
  m.def("learn_tensors", &schuss::learn_tensors, py::arg("type"));
  m.def("learn_rows", &schuss::learn_rows, py::arg("type"));
  m.def("care", [] { return static_cast<int>(schuss::care()); });
  m.def("set_care", &schuss::set_care, py::arg("care"));
  m.attr("can_make_roots_by_products") = schuss::can_make_roots_by_products();
  schuss::set_roots_by_products(std::nullopt);
  m.def("roots_by_products", &schuss::roots_by_products);
  m.def("set_roots_by_products", &schuss::set_roots_by_products, py::arg("wanted"));
  m.def("stream", &stream_over, py::arg("p"), py::arg("g"), py::arg("slots"), py::arg("threads"), py::arg("repeats"));
  m.def("bias_relu", &bias_relu, py::arg("y"), py::arg("b"));
  m.def("relu_backward", &relu_backward, py::arg("d"), py::arg("y"), py::arg("db"));
  m.def("softmax_loss", &softmax_loss, py::arg("x"), py::arg("t"), py::arg("d"), py::arg("w") = py::none());
  m.def("add_scaled", &add_scaled, py::arg("d"), py::arg("x"), py::arg("factor"));

  m.def("step", &schuss::step_once, py::arg("rule"), py::arg("scalars"), py::arg("p"), py::arg("g"), py::arg("slots"),
        py::arg("ratios"), py::arg("pending"));

  // For the tests, which tell it how long calls take.
  py::class_<team::Pace>(m, "Pace", py::metaclass(reinterpret_cast<PyObject*>(&PyType_Type)))
      .def(py::init<>())
      .def("size_for", &team::Pace::size_for, py::arg("bytes"))
      .def("took", &team::Pace::took, py::arg("nanoseconds"));

  // A plain metaclass: Engine has no static properties, and its stub can then be checked.
  py::class_<schuss::Engine>(m, "Engine", py::metaclass(reinterpret_cast<PyObject*>(&PyType_Type)),
                             py::custom_type_setup(collectable))
      .def(py::init<bool>(), py::arg("tensors") = false)
      .def("update", &schuss::Engine::update, py::arg("optimizer"), py::arg("params"), py::arg("grads"),
           py::arg("grad_scale"))
      .def("update_share", &schuss::Engine::update_share, py::arg("optimizer"), py::arg("params"), py::arg("grads"),
           py::arg("grad_scale"), py::arg("ranks"))
      .def("profile", &schuss::Engine::profile, py::arg("optimizer"), py::arg("params"), py::arg("grads"))
      .def("restore", &schuss::Engine::restore, py::arg("optimizer"), py::arg("attributes"), py::arg("t"),
           py::arg("skipped"), py::arg("state"))
      .def("change", &schuss::Engine::change, py::arg("optimizer"), py::arg("attributes"))
      .def("catch_up", py::overload_cast<const py::object&, const py::object&>(&schuss::Engine::catch_up),
           py::arg("params"), py::arg("rows"))
      .def("catch_up_all", &schuss::Engine::catch_up_all)
      .def_property_readonly("behind", &schuss::Engine::behind)
      .def_property_readonly("moved_others", &schuss::Engine::moved_others)
      .def("forget_plans", &schuss::Engine::forget_plans)
      .def("__enter__", [](schuss::Engine& engine) { engine.enter("an option was set or the state saved"); })
      .def("__exit__", [](schuss::Engine& engine, const py::args&) { engine.leave(); })
      .def_property_readonly("stepped", &schuss::Engine::stepped)
      .def_property_readonly("made", &schuss::Engine::made)
      .def_property_readonly("updating", &schuss::Engine::updating)
      .def_property_readonly("skipped", &schuss::Engine::skipped)
      .def_property_readonly("last_nonfinite", &schuss::Engine::last_nonfinite)
      .def_property_readonly("last_grad_norm", &schuss::Engine::last_grad_norm)
      .def_property_readonly("careful_blocks", &schuss::Engine::careful_blocks)
      .def_property_readonly("t", &schuss::Engine::t)
      .def_property_readonly("state", &schuss::Engine::state);
}
