#define GPTOSS_ISA_NAMESPACE avx2
#define GPTOSS_ISA_SIMD "cpu/simd/avx2.h"
#define GPTOSS_ISA_PANELS "cpu/kernels/q8_panels_avx2.inl.h"

#include "cpu/kernels/f32_panels_ymm.inl.h"
#include "cpu/kernels/kernels.inl.h"

namespace gptoss::cpu {
constinit const Kernels kAvx2Kernels =
    avx2::make_kernels("avx2", avx2::kBf16Panels, avx2::kBf12Panels, avx2::kBf16Panels);
}  // namespace gptoss::cpu
