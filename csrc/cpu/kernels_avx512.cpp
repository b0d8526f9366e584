#define GPTOSS_ISA_NAMESPACE avx512

#include "cpu/q8_panels_vnni.inl.h"
#include "cpu/simd_avx512.h"
// The kernels come after the vectors and panels that they are written in.
#include "cpu/kernels.inl.h"

namespace gptoss::cpu {
const Kernels kAvx512Kernels = avx512::make_kernels("avx512");
}  // namespace gptoss::cpu
