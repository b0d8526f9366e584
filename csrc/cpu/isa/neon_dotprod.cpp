#define GPTOSS_ISA_NAMESPACE neon_dotprod

#include "cpu/kernels/q8_panels_none.inl.h"
#include "cpu/simd/neon.h"
// The kernels come after the vectors and panels that they are written in.
#include "cpu/kernels/kernels.inl.h"

namespace gptoss::cpu {
const Kernels kNeonDotprodKernels = neon_dotprod::make_kernels("neon_dotprod");
}  // namespace gptoss::cpu
