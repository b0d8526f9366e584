#define GPTOSS_ISA_NAMESPACE avx2

#include "cpu/q8_panels_avx2.inl.h"
#include "cpu/simd_avx2.h"
// What is written in vectors and panels comes after them: first what panels have in common,
#include "cpu/q8_panels.inl.h"
// then the kernels.
#include "cpu/kernels.inl.h"

namespace gptoss::cpu {
const Kernels kAvx2Kernels = avx2::make_kernels("avx2");
}  // namespace gptoss::cpu
