#define GPTOSS_ISA_NAMESPACE neon
#define GPTOSS_ISA_SIMD "cpu/simd/neon.h"
#define GPTOSS_ISA_PANELS "cpu/kernels/q8_panels_none.inl.h"

#include "cpu/kernels/f32_panels_neon.inl.h"
#include "cpu/kernels/kernels.inl.h"

namespace gptoss::cpu {
const Kernels kNeonKernels =
    neon::make_kernels("neon", neon::kBf16Panels, neon::kBf12Panels, neon::kBf16Panels);
}  // namespace gptoss::cpu
