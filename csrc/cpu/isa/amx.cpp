#define GPTOSS_ISA_NAMESPACE amx

#include "cpu/kernels/bf16_amx.inl.h"
#include "cpu/kernels/q8_panels_amx.inl.h"
#include "cpu/simd/avx512.h"
// The kernels come after the vectors and panels that they are written in.
#include "cpu/kernels/kernels.inl.h"

namespace gptoss::cpu {
const Kernels kAmxKernels = amx::make_kernels("amx", amx::kBf16Amx, amx::kBf12Of<amx::kBf16Amx>);
}  // namespace gptoss::cpu
