// What panels of NEON have in common before their products: weights and scales as they are stored,
// and integers on their way to f32.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <type_traits>

#include "core/q8.h"
#include "cpu/simd/neon.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

inline constexpr int kPanelSize = 8;  // rows

// 32 of K of a row or a token: even elements, then odd ones.
struct Codes {
  int8x16_t even, odd;
};
template <class Group>
Codes unpack_codes(const uint8_t* row, int k, int block) {
  if constexpr (std::is_same_v<Group, Mxfp4Group>) {
    const int8x16_t table = vld1q_s8(kE2m1Doubled.byte);
    const uint8x16_t bytes = vld1q_u8(row + block * kMxfp4BlockBytes);
    return {vqtbl1q_s8(table, vandq_u8(bytes, vdupq_n_u8(15))),
            vqtbl1q_s8(table, vshrq_n_u8(bytes, 4))};
  } else {
    int64_t to_odd;
    const auto* const even =
        reinterpret_cast<const int8_t*>(row) + q8_block_offset(k, block, &to_odd);
    return {vld1q_s8(even), vld1q_s8(even + to_odd)};
  }
}

// Scales of the same block in 4 rows.
inline float32x4_t scales_of_rows(const uint8_t* scales, int64_t row_blocks) {
  uint32_t bits[4];
  for (int r = 0; r < 4; ++r) bits[r] = static_cast<uint32_t>(scales[r * row_blocks]) << 23;
  return vreinterpretq_f32_u32(vld1q_u32(bits));
}
inline float32x4_t scales_of_rows(const uint16_t* scales, int64_t row_blocks) {
  uint32_t bits[4];
  for (int r = 0; r < 4; ++r) bits[r] = static_cast<uint32_t>(scales[r * row_blocks]) << 16;
  return vreinterpretq_f32_u32(vld1q_u32(bits));
}
// Twice the scales, as those of q8 are stored.
inline float32x4_t scales_of_rows(const HalfScale* scales, int64_t row_blocks) {
  uint16_t bits[4];
  for (int r = 0; r < 4; ++r) bits[r] = scales[r * row_blocks].bits;
  const float32x4_t halves = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(bits)));
  return vaddq_f32(halves, halves);
}

// 1.5 * 2^23, whose last bit is worth 1: an integer of up to 22 bits that is added to its bits is
// added to its value. A block's products come to at most 32 * 128 * 127, 19 bits.
inline constexpr float kIntegerOrigin = 0x1.8p23f;

// From the origin and an integer.
inline float32x4_t to_float(int32x4_t exact) {
  return vsubq_f32(vreinterpretq_f32_s32(exact), vdupq_n_f32(kIntegerOrigin));
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
