#define GPTOSS_ISA_NAMESPACE neon

#include "cpu/q8_panels_none.inl.h"
#include "cpu/simd_neon.h"
// The kernels come after the vectors and panels that they are written in.
#include "cpu/kernels.inl.h"

namespace gptoss::cpu {
const Kernels kNeonKernels = neon::make_kernels("neon");
}  // namespace gptoss::cpu
