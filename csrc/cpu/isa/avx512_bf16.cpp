#define GPTOSS_ISA_NAMESPACE avx512_bf16
#define GPTOSS_ISA_SIMD "cpu/simd/avx512.h"
#define GPTOSS_ISA_PANELS "cpu/kernels/q8_panels_vnni.inl.h"

#include "cpu/kernels/bf12_dot.inl.h"
#include "cpu/kernels/bf16_dot.inl.h"
#include "cpu/kernels/kernels.inl.h"

namespace gptoss::cpu {
const Kernels kAvx512Bf16Kernels =
    avx512_bf16::make_kernels("avx512_bf16", avx512_bf16::kBf16Dot, avx512_bf16::kBf12Dot);
}  // namespace gptoss::cpu
