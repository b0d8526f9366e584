#include "bindings/register.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled core of gptoss. Internal: use the gptoss package.";
  gptoss::bindings::register_errors(m);
  gptoss::bindings::register_system(m);
  gptoss::bindings::register_ops(m);
  gptoss::bindings::register_engine(m);
}
