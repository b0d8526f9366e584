// The kernels of AVX-VNNI with its instruction made of those of AVX2: all but the instruction
// itself is tested on every x86.
#define GPTOSS_ISA_NAMESPACE avx_vnni_on_avx2
#define GPTOSS_ISA_SIMD "cpu/simd/avx2.h"
#define GPTOSS_ISA_PANELS "cpu/kernels/q8_panels_avx_vnni.inl.h"

#include "cpu/kernels/f32_panels_ymm.inl.h"
#include "cpu/kernels/kernels.inl.h"

namespace gptoss::cpu {
extern const Kernels kAvxVnniOnAvx2Kernels;
const Kernels kAvxVnniOnAvx2Kernels =
    avx_vnni_on_avx2::make_kernels("avx_vnni_on_avx2", avx_vnni_on_avx2::kBf16Panels,
                                   avx_vnni_on_avx2::kBf12Panels, avx_vnni_on_avx2::kBf16Panels);
}  // namespace gptoss::cpu
