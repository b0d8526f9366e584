#define GPTOSS_ISA_NAMESPACE scalar

#include "cpu/q8_panels_none.inl.h"
#include "cpu/simd_scalar.h"
// The kernels come after the vectors and panels that they are written in.
#include "cpu/kernels.inl.h"

namespace gptoss::cpu {
const Kernels kScalarKernels = scalar::make_kernels("scalar");
}  // namespace gptoss::cpu
