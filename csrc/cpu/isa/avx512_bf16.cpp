#define GPTOSS_ISA_NAMESPACE avx512_bf16
#define GPTOSS_ISA_SIMD "cpu/simd/avx512.h"

#include "cpu/kernels/bf12_dot.inl.h"
#include "cpu/kernels/bf16_dot.inl.h"
#include "cpu/kernels/matmul_f32.inl.h"

namespace gptoss::cpu {
constinit const Extension kAvx512Bf16Extension = {.name = "avx512_bf16",
                                                  .bf16_exact = avx512_bf16::kBf16F32,
                                                  .bf16_fast = avx512_bf16::kBf16Dot,
                                                  .bf12_fast = avx512_bf16::kBf12Dot};
}  // namespace gptoss::cpu
