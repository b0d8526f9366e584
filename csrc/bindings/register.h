#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace gptoss::bindings {

namespace py = pybind11;

// Arrays come in as they are or not at all (.noconvert() on every argument).
template <class T>
using Array = py::array_t<T, py::array::c_style>;

void register_errors(py::module_& m);
void register_system(py::module_& m);
void register_ops(py::module_& m);
void register_ggml(py::module_& m);
void register_engine(py::module_& m);
void register_plan(py::module_& m);

}  // namespace gptoss::bindings
