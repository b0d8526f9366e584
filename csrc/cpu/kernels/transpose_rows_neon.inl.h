// Columns of 4 rows, for panels of NEON.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

// Writes word j of 4 rows to out + j * stride bytes.
[[gnu::always_inline]] inline void store_columns(void* out, int64_t stride, uint32x4_t row0,
                                                 uint32x4_t row1, uint32x4_t row2,
                                                 uint32x4_t row3) {
  const uint64x2_t even01 = vreinterpretq_u64_u32(vtrn1q_u32(row0, row1));
  const uint64x2_t odd01 = vreinterpretq_u64_u32(vtrn2q_u32(row0, row1));
  const uint64x2_t even23 = vreinterpretq_u64_u32(vtrn1q_u32(row2, row3));
  const uint64x2_t odd23 = vreinterpretq_u64_u32(vtrn2q_u32(row2, row3));
  const auto store = [&](int j, uint64x2_t column) {
    vst1q_u8(static_cast<uint8_t*>(out) + j * stride, vreinterpretq_u8_u64(column));
  };
  store(0, vtrn1q_u64(even01, even23));
  store(1, vtrn1q_u64(odd01, odd23));
  store(2, vtrn2q_u64(even01, even23));
  store(3, vtrn2q_u64(odd01, odd23));
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
