#define GPTOSS_ISA_NAMESPACE avx512

#include "cpu/simd/avx512.h"
#include "cpu/kernels/q8_panels_vnni.inl.h"
// What is written in vectors and panels comes after them: first what panels have in common,
#include "cpu/kernels/q8_panels.inl.h"
// then the kernels.
#include "cpu/kernels/kernels.inl.h"

namespace gptoss::cpu {
const Kernels kAvx512Kernels = avx512::make_kernels("avx512");
}  // namespace gptoss::cpu
