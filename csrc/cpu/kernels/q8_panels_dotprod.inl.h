// Q8 rows times many tokens, dot products of ARMv8.2 (q8_panels_neon.inl.h): one instruction adds
// the products of four elements of 4 rows with the same four of a token, which are an element of a
// register that holds 16.
//
// Of 32 registers, 8 hold the exact sums of a block of 32 of K, 8 those of one chain, 4 inputs, 2
// weights. Per block, 4 rows and token: 8 products, one instruction to f32, two for the scales. So
// for a tile 88 instructions, 64 of them products, share the pipes of vectors: 44 cycles on two as
// Neoverse N1 and Cortex-A76 have them, 22 on four as Apple's. 35 loads take 18 and 12.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "cpu/kernels/q8_unpack_neon.inl.h"
#include "cpu/kernels/transpose_rows_neon.inl.h"
#include "cpu/simd/neon.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

inline constexpr int kQuads = 8;  // of elements: a block
inline constexpr int kHalves = kPanelSize / 4;
inline constexpr int kTileStep = 1;

// A block of K of a panel. With its scales it takes 288 bytes: 26 kB where K is 2880, in the
// first-level cache.
struct alignas(16) PanelBlock {
  int8_t codes[kQuads][kHalves][16];  // a quad of each of 4 rows
  float scales[kHalves][4];

  [[gnu::always_inline]] void set(const Codes (&rows)[kPanelSize], float32x4_t low_scales,
                                  float32x4_t high_scales) {
#pragma GCC unroll 2
    for (int half = 0; half < kHalves; ++half) {
      const Codes* const r = rows + 4 * half;
      const auto words = [](int8x16_t row) { return vreinterpretq_u32_s8(row); };
      store_columns(codes[0][half], sizeof codes[0], words(r[0].even), words(r[1].even),
                    words(r[2].even), words(r[3].even));
      store_columns(codes[kQuads / 2][half], sizeof codes[0], words(r[0].odd), words(r[1].odd),
                    words(r[2].odd), words(r[3].odd));
    }
    vst1q_f32(scales[0], low_scales);
    vst1q_f32(scales[1], high_scales);
  }
};

// A block of K of so many tokens.
template <int kTokens>
struct alignas(16) TileBlock {
  int8_t codes[2][kTokens][16];  // even elements, odd ones
  float scales[4];

  void set(int token, const Codes (&codes_of)[1], const float (&scales_of)[1]) {
    vst1q_s8(codes[0][token], codes_of[0].even);
    vst1q_s8(codes[1][token], codes_of[0].odd);
    scales[token] = scales_of[0];
  }
};

// Exact sums begin at the origin. It is loaded because the compiler would copy it in the pipes of
// vectors, which products need; the ports of loads have time.
template <int kSums>
[[gnu::always_inline]] inline void start_at_origin(int32x4_t (&sums)[kSums]) {
  static_assert(kSums % 2 == 0);
  alignas(32) static constexpr float kOrigins[8] = {kIntegerOrigin, kIntegerOrigin, kIntegerOrigin,
                                                    kIntegerOrigin, kIntegerOrigin, kIntegerOrigin,
                                                    kIntegerOrigin, kIntegerOrigin};
#pragma GCC unroll 4
  for (int i = 0; i < kSums; i += 2) {
    asm volatile("ldp %q[first], %q[second], %[origins]"
                 : [first] "=w"(sums[i]), [second] "=w"(sums[i + 1])
                 : [origins] "Q"(kOrigins));
  }
}
// sums (tokens, halves of the panel) += products of one block, scaled.
template <int kTokens>
[[gnu::always_inline]] inline void add_block(const PanelBlock& w, const TileBlock<kTokens>& x,
                                             float32x4_t (&sums)[kTokens * kHalves]) {
  int32x4_t exact[kTokens * kHalves];
  start_at_origin(exact);
#pragma GCC unroll 2
  for (int parity = 0; parity < 2; ++parity) {
    int8x16_t inputs[kTokens];
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) inputs[t] = vld1q_s8(x.codes[parity][t]);
    const auto add_quad = [&]<int kQuad>() __attribute__((always_inline)) {
      const auto& quads = w.codes[kQuads / 2 * parity + kQuad];
#pragma GCC unroll 2
      for (int half = 0; half < kHalves; ++half) {
        const int8x16_t rows = vld1q_s8(quads[half]);
#pragma GCC unroll 4
        for (int t = 0; t < kTokens; ++t) {
          int32x4_t& sum = exact[t * kHalves + half];
          sum = vdotq_laneq_s32(sum, rows, inputs[t], kQuad);
        }
      }
    };
    add_quad.template operator()<0>();
    add_quad.template operator()<1>();
    add_quad.template operator()<2>();
    add_quad.template operator()<3>();
  }
  const float32x4_t x_scales = vld1q_f32(x.scales);
  const auto add_token = [&]<int kToken>() __attribute__((always_inline)) {
    if constexpr (kToken < kTokens) {
#pragma GCC unroll 2
      for (int half = 0; half < kHalves; ++half) {
        const int i = kToken * kHalves + half;
        const float32x4_t dots = vmulq_f32(to_float(exact[i]), vld1q_f32(w.scales[half]));
        sums[i] = vfmaq_laneq_f32(sums[i], dots, x_scales, kToken);
      }
    }
  };
  add_token.template operator()<0>();
  add_token.template operator()<1>();
  add_token.template operator()<2>();
  add_token.template operator()<3>();
}

inline float32x4_t rows_of_token(const float32x4_t* sums, int token, int half) {
  return sums[token * kHalves + half];
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE

// The loops over panels, tiles and chains are written in what is above.
#include "cpu/kernels/q8_panels_neon.inl.h"
