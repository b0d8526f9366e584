#define GPTOSS_ISA_NAMESPACE neon_i8mm
#define GPTOSS_ISA_SIMD "cpu/simd/neon.h"
#define GPTOSS_ISA_PANELS "cpu/kernels/q8_panels_i8mm.inl.h"

#include "cpu/kernels/f32_panels_neon.inl.h"
#include "cpu/kernels/kernels.inl.h"

namespace gptoss::cpu {
const Kernels kNeonI8mmKernels = neon_i8mm::make_kernels(
    "neon_i8mm", neon_i8mm::kBf16Panels, neon_i8mm::kBf12Panels, neon_i8mm::kBf16Panels);
}  // namespace gptoss::cpu
