// For instruction sets without a panel kernel (q8_panels_*.inl.h).
#pragma once

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/q8_row.inl.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {

template <class Group>
inline constexpr bool kHasPanels = false;
template <class Group>
bool q8_panels_pay(const MatmulTask& task);
template <class Group>
void matmul_q8_panels(const MatmulTask& task);

}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
