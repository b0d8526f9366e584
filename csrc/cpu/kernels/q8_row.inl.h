// Q8 activations (kernels.h) as matmuls read them, in rows.
#pragma once

#include <cstdint>

#include "cpu/kernels/kernels.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

// Where a group of n tokens holds a block of one of them.
Q8BlockPlace q8_block_place(int64_t k, int /*n*/, int token, int64_t block) {
  const int64_t row = token * q8_row_bytes(k);
  return {.codes = row + kQ8Block * block,
          .scale = row + q8_scales_offset(k) + 4 * block,
          .correction = row + q8_corrections_offset(k) + 4 * block};
}

struct Q8Row {
  const int8_t* codes;
  const float* scales;
  const int32_t* corrections;

  Q8Row() = default;
  // From block `begin` on.
  Q8Row(const MatmulTask& task, int token, int begin = 0) {
    const auto* const row = static_cast<const uint8_t*>(task.x) + token * q8_row_bytes(task.w.k);
    codes = reinterpret_cast<const int8_t*>(row) + kQ8Block * begin;
    scales = reinterpret_cast<const float*>(row + q8_scales_offset(task.w.k)) + begin;
    corrections = reinterpret_cast<const int32_t*>(row + q8_corrections_offset(task.w.k)) + begin;
  }
};

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
