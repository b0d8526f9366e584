#define GPTOSS_ISA_NAMESPACE avx512

#include "cpu/q8_panels_vnni.inl.h"
#include "cpu/simd_avx512.h"
// What is written in vectors and panels comes after them: first what panels have in common,
#include "cpu/q8_panels.inl.h"
// then the kernels.
#include "cpu/kernels.inl.h"

namespace gptoss::cpu {
const Kernels kAvx512Kernels = avx512::make_kernels("avx512");
}  // namespace gptoss::cpu
