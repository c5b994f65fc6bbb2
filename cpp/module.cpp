// The Python module schuss._core: bindings and nothing else.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "engine.hpp"
#include "isa.hpp"
#include "team.hpp"

namespace py = pybind11;

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled core of schuss.";
  m.attr("__version__") = SCHUSS_VERSION;

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
  m.attr("openmp") = team::openmp();

  m.def("set_threads", &team::set_threads, py::arg("threads"));
  m.def("threads", &team::threads);
  m.def("set_grain", &team::set_grain, py::arg("bytes"));
  m.def("grain", &team::grain);

  py::class_<schuss::Engine>(m, "Engine")
      .def(py::init<const std::string&, const py::tuple&>(), py::arg("rule"), py::arg("slots"))
      .def("update", &schuss::Engine::update, py::arg("optimizer"), py::arg("params"), py::arg("grads"))
      .def_property_readonly("t", &schuss::Engine::t)
      .def_property_readonly("state", &schuss::Engine::state);
}
