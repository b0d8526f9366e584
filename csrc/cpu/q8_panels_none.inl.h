// For instruction sets without the panel kernel (q8_panels_avx512.inl.h).
#pragma once

#include "cpu/kernels.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {

inline bool q8_panels_pay(const MatmulTask&) { return false; }
inline void matmul_mxfp4_q8_panels(const MatmulTask&) {}

}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
