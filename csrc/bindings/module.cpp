#include "bindings/register.h"

PYBIND11_MODULE(_core, m) {
  // Threads of the core and of numpy belong to the main interpreter; elsewhere they wait for ever.
  if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
    throw pybind11::import_error(
        "gptoss runs in the main interpreter only: use threads or processes in place of a "
        "subinterpreter");
  }
  m.doc() = "The compiled core of gptoss. Internal: use the gptoss package.";
  gptoss::bindings::register_errors(m);
  gptoss::bindings::register_system(m);
  gptoss::bindings::register_ops(m);
  gptoss::bindings::register_engine(m);
}
