// The arithmetic of tensor cores, for mma.sync and wgmma.
#pragma once

#include <cstdint>

#include "emulator/ptx/machine.h"

namespace gptoss::emulator {

inline constexpr int kRows = 16, kColumns = 8, kMostTerms = 32;

// sum += a b, over `terms` of k: exactly, with one rounding left to do; or as hostile tensor cores
// do it that behave by `shape`.
void multiply_tile(Launch& launch, uint32_t shape, const double (&a)[kRows][kMostTerms],
                   const double (&b)[kMostTerms][kColumns], int terms,
                   double (&sum)[kRows][kColumns]);

}  // namespace gptoss::emulator
