#include "bindings/register.h"

PYBIND11_MODULE(_core_of_main, m) {
  m.doc() = "The compiled core of gptoss. Internal: use the gptoss package.";
  gptoss::bindings::register_errors(m);
  gptoss::bindings::register_system(m);
  gptoss::bindings::register_ops(m);
  gptoss::bindings::register_ggml(m);
  gptoss::bindings::register_engine(m);
  gptoss::bindings::register_plan(m);
}

// Refuses subinterpreters before pybind11 and numpy, which know the main one only, wait for it for
// ever.
extern "C" PYBIND11_EXPORT PyObject* PyInit__core();
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
  if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
    PyErr_SetString(PyExc_ImportError,
                    "gptoss runs in the main interpreter only: use threads or processes in place "
                    "of a subinterpreter");
    return nullptr;
  }
  return PyInit__core_of_main();
}
