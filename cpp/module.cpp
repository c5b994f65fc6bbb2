// The Python module schuss._core: bindings and nothing else.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "engine.hpp"
#include "flush.hpp"
#include "isa.hpp"
#include "layers.hpp"
#include "stream.hpp"
#include "team.hpp"
#include "without_gil.hpp"

namespace py = pybind11;

namespace {

// Binds stream::run for one dtype; the benchmark hands it contiguous arrays of one size.
template <class T>
void bind_stream(py::module_& m) {
  using Array = py::array_t<T, py::array::c_style>;
  const auto call = [](Array p, Array g, const std::vector<Array>& slots, int threads) {
    std::vector<T*> pointers;
    for (Array slot : slots) pointers.push_back(slot.mutable_data());
    T* const to = p.mutable_data();
    const auto n = static_cast<size_t>(p.size());
    const schuss::WithoutGil released;
    stream::run(n, to, g.data(), pointers.data(), static_cast<int>(pointers.size()), threads);
  };
  m.def("stream", call, py::arg("p").noconvert(), py::arg("g").noconvert(), py::arg("slots"), py::arg("threads"));
}

// Binds the passes of a network for one dtype. Its arrays are the network's own: contiguous, and checked in nn.py.
template <class T>
void bind_layers(py::module_& m) {
  using Array = py::array_t<T, py::array::c_style>;
  using Labels = py::array_t<int64_t, py::array::c_style>;
  const auto rows = [](const Array& a) { return static_cast<size_t>(a.shape(0)); };
  const auto columns = [](const Array& a) { return static_cast<size_t>(a.shape(1)); };
  m.def(
      "bias_relu", [=](Array y, Array b) { layers::bias_relu(rows(y), columns(y), y.mutable_data(), b.data()); },
      py::arg("y").noconvert(), py::arg("b").noconvert());
  m.def(
      "relu_backward",
      [=](Array d, Array y, Array db) {
        layers::relu_backward(rows(d), columns(d), d.mutable_data(), y.data(), db.mutable_data());
      },
      py::arg("d").noconvert(), py::arg("y").noconvert(), py::arg("db").noconvert());
  m.def(
      "softmax_loss",
      [=](Array x, Labels labels, Array d) {
        return layers::softmax_loss<T>(rows(x), columns(x), x.data(), nullptr, labels.data(), d.mutable_data());
      },
      py::arg("x").noconvert(), py::arg("t").noconvert(), py::arg("d").noconvert());
  m.def(
      "softmax_loss",
      [=](Array x, Array t, Array d) {
        return layers::softmax_loss<T>(rows(x), columns(x), x.data(), t.data(), nullptr, d.mutable_data());
      },
      py::arg("x").noconvert(), py::arg("t").noconvert(), py::arg("d").noconvert());
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
  m.def("set_grain", &team::set_grain, py::arg("bytes"));
  m.def("grain", &team::grain);

  bind_stream<float>(m);
  bind_stream<double>(m);
  bind_layers<float>(m);
  bind_layers<double>(m);

  m.def("step", &schuss::step_once, py::arg("rule"), py::arg("scalars"), py::arg("p"), py::arg("g"), py::arg("slots"),
        py::arg("ratio"));

  // A plain metaclass: Engine has no static properties, and its stub can then be checked.
  py::class_<schuss::Engine>(m, "Engine", py::metaclass(reinterpret_cast<PyObject*>(&PyType_Type)))
      .def(py::init<const std::string&, const py::tuple&, bool>(), py::arg("rule"), py::arg("slots"),
           py::arg("averaged"))
      .def("update", &schuss::Engine::update, py::arg("optimizer"), py::arg("params"), py::arg("grads"),
           py::arg("grad_scale"))
      .def("profile", &schuss::Engine::profile, py::arg("optimizer"), py::arg("params"), py::arg("grads"))
      .def("restore", &schuss::Engine::restore, py::arg("t"), py::arg("skipped"), py::arg("state"))
      .def("forget_plan", &schuss::Engine::forget_plan)
      .def_property("plain", &schuss::Engine::plain, &schuss::Engine::set_plain)
      .def("__enter__", [](schuss::Engine& engine) { engine.enter("an option was set or the state saved"); })
      .def("__exit__", [](schuss::Engine& engine, const py::args&) { engine.leave(); })
      .def_property_readonly("skipped", &schuss::Engine::skipped)
      .def_property_readonly("last_nonfinite", &schuss::Engine::last_nonfinite)
      .def_property_readonly("last_grad_norm", &schuss::Engine::last_grad_norm)
      .def_property_readonly("t", &schuss::Engine::t)
      .def_property_readonly("state", &schuss::Engine::state);
}
