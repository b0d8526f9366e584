#define GPTOSS_ISA_NAMESPACE amx
#define GPTOSS_ISA_SIMD "cpu/simd/avx512.h"
#define GPTOSS_ISA_PANELS "cpu/kernels/q8_panels_amx.inl.h"

#include "cpu/kernels/bf12.inl.h"
#include "cpu/kernels/bf16_amx.inl.h"
#include "cpu/kernels/matmul_f32.inl.h"
#include "cpu/kernels/matmul_q8.inl.h"

namespace gptoss::cpu {
constinit const Extension kAmxExtension = {.name = "amx",
                                           .bf16_exact = amx::kBf16F32,
                                           .bf16_fast = amx::kBf16Amx,
                                           .bf12_fast = amx::kBf12Of<amx::kBf16Amx>,
                                           .q8_fast = amx::kQ8Int8,
                                           .q8_0_fast = amx::kQ80Int8,
                                           .mxfp4_fast = amx::kMxfp4Int8};
}  // namespace gptoss::cpu
