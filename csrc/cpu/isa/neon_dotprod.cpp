#define GPTOSS_ISA_NAMESPACE neon_dotprod
#define GPTOSS_ISA_SIMD "cpu/simd/neon.h"
#define GPTOSS_ISA_PANELS "cpu/kernels/q8_panels_dotprod.inl.h"

#include "cpu/kernels/f32_panels_neon.inl.h"
#include "cpu/kernels/kernels.inl.h"

namespace gptoss::cpu {
const Kernels kNeonDotprodKernels =
    neon_dotprod::make_kernels("neon_dotprod", neon_dotprod::kBf16Panels, neon_dotprod::kBf12Panels,
                               neon_dotprod::kBf16Panels);
}  // namespace gptoss::cpu
