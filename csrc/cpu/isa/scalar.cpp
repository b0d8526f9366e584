#define GPTOSS_ISA_NAMESPACE scalar

#include "cpu/simd/scalar.h"
#include "cpu/kernels/q8_panels_none.inl.h"
// The kernels come after the vectors and panels that they are written in.
#include "cpu/kernels/kernels.inl.h"

namespace gptoss::cpu {
const Kernels kScalarKernels = scalar::make_kernels("scalar");
}  // namespace gptoss::cpu
