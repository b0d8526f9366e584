#define GPTOSS_ISA_NAMESPACE avx_vnni
#define GPTOSS_ISA_SIMD "cpu/simd/avx2.h"
#define GPTOSS_ISA_PANELS "cpu/kernels/q8_panels_avx_vnni.inl.h"

#include "cpu/kernels/matmul_q8.inl.h"

namespace gptoss::cpu {
constinit const Extension kAvxVnniExtension = {.name = "avx_vnni",
                                               .q8_fast = avx_vnni::kQ8Int8,
                                               .q8_0_fast = avx_vnni::kQ80Int8,
                                               .mxfp4_fast = avx_vnni::kMxfp4Int8};
}  // namespace gptoss::cpu
