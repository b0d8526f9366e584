#include "backend/backend.h"
#include "backend/targets.h"
#include "bindings/register.h"
#include "core/thread_pool.h"
#include "cpu/isa/isa.h"
#include "platform/platform.h"

namespace gptoss::bindings {

void register_system(py::module_& m) {
  m.def(
      "backends",
      [] {
        py::list list;
        for (const BackendInfo& info : list_backends()) {
          list.append(py::make_tuple(info.name, info.available, info.detail));
        }
        return list;
      },
      "(name, available, detail) of every backend.");
  m.def(
      "isas",
      [] {
        py::list list;
        for (const cpu::Isa& isa : cpu::isas()) {
          list.append(py::make_tuple(isa.kernels->name, isa.supported(), isa.missing));
        }
        return list;
      },
      "(name, supported, missing features) of every CPU instruction set, fastest first.");
  m.def(
      "targets",
      [] {
        py::list list;
        for (const TargetInfo& target : list_targets()) {
          list.append(py::make_tuple(target.name, target.available, target.detail));
        }
        return list;
      },
      "(name, available, missing features) of every target of single ops.");
  m.def(
      "selected_isa", [] { return cpu::select_kernels().name; },
      "The instruction set in use; raises BackendError if GPTOSS_ISA asks for an impossible one.");
  m.def(
      "default_threads", [] { return resolve_thread_count(0); },
      "Threads that a model uses unless told otherwise.");
  m.def("available_memory_bytes", &platform::available_memory,
        "Bytes this process can still take without swapping.");
}

}  // namespace gptoss::bindings
