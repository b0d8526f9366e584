// Q8 rows times many tokens, I8MM (q8_panels_neon.inl.h): one instruction adds the products of 8
// elements of two rows with those of two tokens to a 2 x 2 square of 32 bits.
//
// Of 32 registers, 8 hold the exact squares of a block of 32 of K, 8 the sums of one chain, 6
// operands, 2 scales. Per block and square: 4 products, one instruction to f32, two for the scales.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "cpu/kernels/q8_unpack_neon.inl.h"
#include "cpu/simd/neon.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

inline constexpr int kRowPairs = kPanelSize / 2;
inline constexpr int kSteps = 4;     // of 8 elements: a block
inline constexpr int kTileStep = 2;  // squares are of two tokens

// 16 elements of two rows or tokens as two operands, `step` bytes apart.
inline void store_steps(int8_t* out, int64_t step, int8x16_t first, int8x16_t second) {
  const int64x2_t a = vreinterpretq_s64_s8(first);
  const int64x2_t b = vreinterpretq_s64_s8(second);
  vst1q_s8(out, vreinterpretq_s8_s64(vzip1q_s64(a, b)));
  vst1q_s8(out + step, vreinterpretq_s8_s64(vzip2q_s64(a, b)));
}

// A block of K of a panel. With its scales it takes 320 bytes: 29 kB where K is 2880, in the
// first-level cache.
struct alignas(16) PanelBlock {
  int8_t codes[kSteps][kRowPairs][16];  // 8 of one row, 8 of the next
  float scales[kRowPairs][4];           // each row's twice

  [[gnu::always_inline]] void set(const Codes (&rows)[kPanelSize], float32x4_t low_scales,
                                  float32x4_t high_scales) {
#pragma GCC unroll 4
    for (int pair = 0; pair < kRowPairs; ++pair) {
      const Codes& first = rows[2 * pair];
      const Codes& second = rows[2 * pair + 1];
      store_steps(codes[0][pair], sizeof codes[0], first.even, second.even);
      store_steps(codes[2][pair], sizeof codes[0], first.odd, second.odd);
    }
    vst1q_f32(scales[0], vzip1q_f32(low_scales, low_scales));
    vst1q_f32(scales[1], vzip2q_f32(low_scales, low_scales));
    vst1q_f32(scales[2], vzip1q_f32(high_scales, high_scales));
    vst1q_f32(scales[3], vzip2q_f32(high_scales, high_scales));
  }
};

// A block of K of so many tokens, in pairs.
template <int kTokens>
struct alignas(16) TileBlock {
  int8_t codes[kSteps][kTokens / 2][16];
  float scales[kTokens / 2][2];

  void set(int token, const Codes (&codes_of)[2], const float (&scales_of)[2]) {
    const int pair = token / 2;
    store_steps(codes[0][pair], sizeof codes[0], codes_of[0].even, codes_of[1].even);
    store_steps(codes[2][pair], sizeof codes[0], codes_of[0].odd, codes_of[1].odd);
    scales[pair][0] = scales_of[0];
    scales[pair][1] = scales_of[1];
  }
};

// sums (token pairs, row pairs) += products of one block, scaled.
template <int kTokens>
[[gnu::always_inline]] inline void add_block(const PanelBlock& w, const TileBlock<kTokens>& x,
                                             float32x4_t (&sums)[kTokens * kRowPairs / 2]) {
  constexpr int kPairs = kTokens / 2;
  int32x4_t exact[kPairs * kRowPairs];
#pragma GCC unroll 8
  for (int32x4_t& square : exact) square = vreinterpretq_s32_f32(vdupq_n_f32(kIntegerOrigin));
#pragma GCC unroll 4
  for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 4
    for (int r = 0; r < kRowPairs; ++r) {
      const int8x16_t rows = vld1q_s8(w.codes[step][r]);
#pragma GCC unroll 2
      for (int p = 0; p < kPairs; ++p) {
        int32x4_t& square = exact[p * kRowPairs + r];
        square = vmmlaq_s32(square, rows, vld1q_s8(x.codes[step][p]));
      }
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < kPairs; ++p) {
    const float32x2_t pair_scales = vld1_f32(x.scales[p]);
    const float32x4_t x_scales = vcombine_f32(pair_scales, pair_scales);
#pragma GCC unroll 4
    for (int r = 0; r < kRowPairs; ++r) {
      const int i = p * kRowPairs + r;
      const float32x4_t dots = vmulq_f32(to_float(exact[i]), vld1q_f32(w.scales[r]));
      sums[i] = vfmaq_f32(sums[i], dots, x_scales);
    }
  }
}

inline float32x4_t rows_of_token(const float32x4_t* sums, int token, int half) {
  const float32x4_t* const squares = sums + token / 2 * kRowPairs + 2 * half;
  return token % 2 == 0 ? vuzp1q_f32(squares[0], squares[1]) : vuzp2q_f32(squares[0], squares[1]);
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE

// The loops over panels, tiles and chains are written in what is above.
#include "cpu/kernels/q8_panels_neon.inl.h"
