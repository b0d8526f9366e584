#define GPTOSS_ISA_NAMESPACE avx2

#include "cpu/q8_panels_none.inl.h"
#include "cpu/simd_avx2.h"
// The kernels come after the vectors and panels that they are written in.
#include "cpu/kernels.inl.h"

namespace gptoss::cpu {
const Kernels kAvx2Kernels = avx2::make_kernels("avx2");
}  // namespace gptoss::cpu
