#define GPTOSS_ISA_NAMESPACE avx512
#define GPTOSS_ISA_SIMD "cpu/simd/avx512.h"
#define GPTOSS_ISA_PANELS "cpu/kernels/q8_panels_vnni.inl.h"

#include "cpu/kernels/f32_panels_zmm.inl.h"
#include "cpu/kernels/kernels.inl.h"

namespace gptoss::cpu {
constinit const Kernels kAvx512Kernels =
    avx512::make_kernels("avx512", avx512::kBf16Panels, avx512::kBf12Panels, avx512::kBf16Panels);
}  // namespace gptoss::cpu
