#define GPTOSS_ISA_NAMESPACE neon

#include "cpu/simd/neon.h"
#include "cpu/kernels/q8_panels_none.inl.h"
// The kernels come after the vectors and panels that they are written in.
#include "cpu/kernels/kernels.inl.h"

namespace gptoss::cpu {
const Kernels kNeonKernels = neon::make_kernels("neon");
}  // namespace gptoss::cpu
