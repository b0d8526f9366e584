#define GPTOSS_ISA_NAMESPACE avx_vnni
#define GPTOSS_ISA_SIMD "cpu/simd/avx2.h"
#define GPTOSS_ISA_PANELS "cpu/kernels/q8_panels_avx_vnni.inl.h"

#include "cpu/kernels/f32_panels_ymm.inl.h"
#include "cpu/kernels/kernels.inl.h"

namespace gptoss::cpu {
const Kernels kAvxVnniKernels = avx_vnni::make_kernels(
    "avx_vnni", avx_vnni::kBf16Panels, avx_vnni::kBf12Panels, avx_vnni::kBf16Panels);
}  // namespace gptoss::cpu
