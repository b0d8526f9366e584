#define GPTOSS_ISA_NAMESPACE avx2

#include "cpu/simd/avx2.h"
#include "cpu/kernels/q8_panels_avx2.inl.h"
// What is written in vectors and panels comes after them: first what panels have in common,
#include "cpu/kernels/q8_panels.inl.h"
// then the kernels.
#include "cpu/kernels/kernels.inl.h"

namespace gptoss::cpu {
const Kernels kAvx2Kernels = avx2::make_kernels("avx2");
}  // namespace gptoss::cpu
