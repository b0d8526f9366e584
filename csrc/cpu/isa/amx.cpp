#define GPTOSS_ISA_NAMESPACE amx
#define GPTOSS_ISA_SIMD "cpu/simd/avx512.h"
#define GPTOSS_ISA_PANELS "cpu/kernels/q8_panels_amx.inl.h"

#include "cpu/kernels/bf12.inl.h"
#include "cpu/kernels/bf16_amx.inl.h"
#include "cpu/kernels/kernels.inl.h"

namespace gptoss::cpu {
const Kernels kAmxKernels = amx::make_kernels("amx", amx::kBf16Amx, amx::kBf12Of<amx::kBf16Amx>);
}  // namespace gptoss::cpu
