#define GPTOSS_ISA_NAMESPACE scalar
#define GPTOSS_ISA_SIMD "cpu/simd/scalar.h"
#define GPTOSS_ISA_PANELS "cpu/kernels/q8_panels_none.inl.h"

#include "cpu/kernels/kernels.inl.h"

namespace gptoss::cpu {
constinit const Kernels kScalarKernels = scalar::make_kernels("scalar");
}  // namespace gptoss::cpu
