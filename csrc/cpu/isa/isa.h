// Which kernels this processor and its operating system can run.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels/kernels.h"

namespace gptoss::cpu {

struct Isa {
  const Kernels* kernels;
  int preference;       // the highest supported one is used
  std::string missing;  // what the processor or the system lacks; empty where it is supported

  bool supported() const { return missing.empty(); }
};

// Every ISA in this build, the preferred one first; the last (scalar) is always supported.
const std::vector<Isa>& isas();

// The fastest supported ISA, or the one that GPTOSS_ISA names. Throws BackendError if that is
// unknown or not supported here.
const Kernels& select_kernels();

// One that is in this build and supported, by name; throws BackendError.
const Kernels& kernels_named(const std::string& name);

}  // namespace gptoss::cpu
