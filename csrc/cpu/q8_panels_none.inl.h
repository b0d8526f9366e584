// For instruction sets without the panel kernel (q8_panels_vnni.inl.h, q8_panels_amx.inl.h).
#pragma once

#include "cpu/kernels.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {

template <class Group>
bool q8_panels_pay(const MatmulTask&) {
  return false;
}
template <class Group>
void matmul_q8_panels(const MatmulTask&) {}

}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
