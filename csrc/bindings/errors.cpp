#include <utility>

#include "bindings/register.h"
#include "core/check.h"

namespace gptoss::bindings {

// std::invalid_argument becomes ValueError by pybind11's own rules.
void register_errors(py::module_& m) {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> backend_error;
  backend_error.call_once_and_store_result(
      [] { return py::object(py::module_::import("gptoss.errors").attr("BackendError")); });
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> checkpoint_error;
  checkpoint_error.call_once_and_store_result(
      [] { return py::object(py::module_::import("gptoss.errors").attr("CheckpointError")); });
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      std::rethrow_exception(std::move(pointer));
    } catch (const OutOfMemory& error) {
      PyErr_SetString(PyExc_MemoryError, error.what());
    } catch (const BackendError& error) {
      py::set_error(backend_error.get_stored(), error.what());
    } catch (const CheckpointError& error) {
      py::set_error(checkpoint_error.get_stored(), error.what());
    }
  });
  (void)m;
}

}  // namespace gptoss::bindings
