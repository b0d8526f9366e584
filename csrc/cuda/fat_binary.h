// Fat binaries: PTX and machine code of the same kernels for several kinds of cards, from which the
// driver takes what suits one.
#pragma once

#include <cstdint>
#include <span>

namespace gptoss::cuda {

// The first of fat binaries that lie one after the other. Throws BackendError where there is none.
std::span<const uint8_t> first_fat_binary(std::span<const uint8_t> images);

// The CUDA whose drivers are the first to load what a fat binary has for a device, as
// cuDriverGetVersion has it, or 0 where it has nothing.
//   capability  of the device, 10 * major + minor
int oldest_driver_for(std::span<const uint8_t> fat_binary, int capability);

}  // namespace gptoss::cuda
