// bf16 weights times f32 activations of several tokens, NEON (f32_panels.inl.h).
//
// A product takes its input from an element of a register that holds those of 4 tokens. For a pair
// of elements of 4 rows and 16 tokens there are 32 products and 2 instructions to widen weights on
// the pipes of vectors, which takes 17 cycles on two of them (Neoverse N1) and 8.5 on four
// (Apple's), beside 9 loads and a prefetch. Registers: 16 sums, as many as four pipes with a
// latency of 4 cycles need, 4 of inputs, a weight.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "cpu/kernels/transpose_rows_neon.inl.h"
#include "cpu/simd/neon.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

inline constexpr int kF32PanelRows = 16;

// Smaller groups of activations stay in rows. 4 tokens times 64 rows of 2,880 take 423 thousand
// instructions with panels, 735 without.
inline constexpr int kFewestByLane = 4;

// Word j of 16 rows, from 16 bytes of each, to words + j * stride.
template <class Word>
void transpose_panel(const uint8_t* bytes, int64_t row_bytes, Word* words, int64_t stride) {
  for (int row = 0; row < 16; row += 4) {
    const auto load = [&](int r) {
      return vreinterpretq_u32_u8(vld1q_u8(bytes + (row + r) * row_bytes));
    };
    store_columns(words + row, stride * int64_t{sizeof(Word)}, load(0), load(1), load(2), load(3));
  }
}

// sums (kTokens, 4 kVectors rows of the panel) of one lane; x (elements, kTokens). A line of
// `ahead` is prefetched for each block.
template <int kVectors, int kTokens>
void lane_tile(const uint32_t* pairs, int blocks, const float* x, const uint8_t* ahead,
               float* sums) {
  float32x4_t total[kVectors][kTokens];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) total[v][t] = vdupq_n_f32(0.0f);
  }
  const auto add_element = [&](const float32x4_t(&rows)[kVectors]) __attribute__((always_inline)) {
    constexpr int kQuads = kTokens / 4;
#pragma GCC unroll 4
    for (int t = 0; t < 4 * kQuads; t += 4) {
      float32x4_t inputs = vld1q_f32(x + t);
      // In this order, because compilers that load all of them first copy sums.
      asm volatile("" : "+w"(inputs));
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        total[v][t] = vfmaq_laneq_f32(total[v][t], rows[v], inputs, 0);
        total[v][t + 1] = vfmaq_laneq_f32(total[v][t + 1], rows[v], inputs, 1);
        total[v][t + 2] = vfmaq_laneq_f32(total[v][t + 2], rows[v], inputs, 2);
        total[v][t + 3] = vfmaq_laneq_f32(total[v][t + 3], rows[v], inputs, 3);
      }
    }
#pragma GCC unroll 3
    for (int t = 4 * kQuads; t < kTokens; ++t) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) total[v][t] = vfmaq_n_f32(total[v][t], rows[v], x[t]);
    }
    x += kTokens;
  };
  for (int b = 0; b < blocks; ++b, pairs += kF32PanelRows, ahead += 64) {
    __builtin_prefetch(ahead);
    uint32x4_t of_rows[kVectors];
    float32x4_t even[kVectors];
    float32x4_t odd[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      of_rows[v] = vld1q_u32(pairs + 4 * v);
      even[v] = vreinterpretq_f32_u32(vshlq_n_u32(of_rows[v], 16));
      odd[v] = vreinterpretq_f32_u32(vandq_u32(of_rows[v], vdupq_n_u32(0xffff0000u)));
    }
    add_element(even);
    add_element(odd);
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) vst1q_f32(sums + t * kF32PanelRows + 4 * v, total[v][t]);
  }
}

// The panel in tiles of about 16 sums: of fewer rows where there are more tokens. Each prefetches
// `blocks` lines of what comes after the lane.
template <int kTokens>
void lane_of_tokens(const uint32_t* pairs, int blocks, const float* x,
                    const uint8_t* const (&ahead)[4], float* sums) {
  constexpr int kVectors = kTokens > 8 ? 1 : kTokens > 4 ? 2 : 4;
  for (int tile = 0; tile < 4 / kVectors; ++tile) {
    const int row = tile * 4 * kVectors;
    lane_tile<kVectors, kTokens>(pairs + row, blocks, x, ahead[tile], sums + row);
  }
}

// By the number of tokens, from the fewest on.
using LaneOfTokens = void (*)(const uint32_t*, int, const float*, const uint8_t* const (&)[4],
                              float*);
constexpr LaneOfTokens kLanesOfTokens[] = {
    lane_of_tokens<4>,  lane_of_tokens<5>,  lane_of_tokens<6>,  lane_of_tokens<7>,
    lane_of_tokens<8>,  lane_of_tokens<9>,  lane_of_tokens<10>, lane_of_tokens<11>,
    lane_of_tokens<12>, lane_of_tokens<13>, lane_of_tokens<14>, lane_of_tokens<15>,
    lane_of_tokens<16>};

// All tokens of a group in one lane. `next_lane`: the pairs of the next lane, `next_row`: a row of
// the next panel, to prefetch.
void lane_tiles(const uint32_t* pairs, const uint32_t* next_lane, int blocks, const float* x,
                int tokens, const uint8_t* next_row, int64_t /*row_bytes*/, float* sums) {
  // Next inputs take two lines for each block.
  const auto* const next_x = reinterpret_cast<const uint8_t*>(x + int64_t{2} * blocks * tokens);
  const uint8_t* const ahead[4] = {next_row, next_x, next_x + int64_t{64} * blocks,
                                   reinterpret_cast<const uint8_t*>(next_lane)};
  kLanesOfTokens[tokens - kFewestByLane](pairs, blocks, x, ahead, sums);
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE

// The loops over panels, lanes and groups are written in what is above.
#include "cpu/kernels/f32_panels.inl.h"
