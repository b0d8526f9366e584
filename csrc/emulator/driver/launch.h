// Parameters of a launch, however they are handed over.
#pragma once

#include <vector>

#include "emulator/driver/cuda_abi.h"
#include "emulator/ptx/program.h"

namespace gptoss::emulator::driver {

// Copies the kernel's parameters into its parameter block. One of `parameters` (a pointer per
// parameter) and `extra` (a finished block) is set.
CUresult take_parameters(const Kernel& kernel, void** parameters, void** extra,
                         std::vector<uint8_t>& out);

}  // namespace gptoss::emulator::driver
