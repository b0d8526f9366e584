// bf16 weights times f32 activations of several tokens, AVX-512 (f32_panels.inl.h).
//
// For an element of 32 rows and 8 tokens there are 16 products, 8 broadcasts of inputs, and 2 loads
// and 2 instructions to widen weights, which share the two ports of products: 8 of 9 cycles.
// Registers: 16 sums, 2 of weights, the inputs. On a Xeon a tile runs at 80 % of the peak of
// products in the first-level cache and at 75 % from the second.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/kernels/q8_unpack_avx512.inl.h"
#include "cpu/simd/avx512.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

inline constexpr int kF32PanelRows = 32;
inline constexpr int kF32PanelTokens = 8;

// Smaller groups of activations stay in rows, where they are as fast or faster.
inline constexpr int kFewestByLane = 8;

// Word j of 16 rows, from 16 bytes of each, to words + j * stride.
template <class Word>
void transpose_panel(const uint8_t* bytes, int64_t row_bytes, Word* words, int64_t stride) {
  __m512i columns[4];
  cpu::GPTOSS_ISA_NAMESPACE::transpose_words(bytes, row_bytes, columns);
  for (int j = 0; j < 4; ++j) _mm512_store_si512(words + j * stride, columns[j]);
}

// sums (kTokens, 32 rows) of one lane; x (elements, group_tokens). `next_row`: a row of the next
// panel, to prefetch.
template <int kTokens>
void lane_tile(const uint32_t* pairs, int blocks, const float* x, int group_tokens,
               const uint8_t* next_row, float* sums) {
  __m512 low[kTokens];
  __m512 high[kTokens];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) low[t] = high[t] = _mm512_setzero_ps();
  for (int b = 0; b < blocks; ++b, pairs += kF32PanelRows, x += 2 * group_tokens, next_row += 64) {
    __builtin_prefetch(next_row, 0, 2);
    const __m512i low_pairs = _mm512_load_si512(pairs);
    const __m512i high_pairs = _mm512_load_si512(pairs + 16);
    const __m512 low_even = _mm512_castsi512_ps(_mm512_slli_epi32(low_pairs, 16));
    const __m512 high_even = _mm512_castsi512_ps(_mm512_slli_epi32(high_pairs, 16));
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const __m512 input = _mm512_set1_ps(x[t]);
      low[t] = _mm512_fmadd_ps(low_even, input, low[t]);
      high[t] = _mm512_fmadd_ps(high_even, input, high[t]);
    }
    const __m512i odd = _mm512_set1_epi32(~0xffff);
    const __m512 low_odd = _mm512_castsi512_ps(_mm512_and_si512(low_pairs, odd));
    const __m512 high_odd = _mm512_castsi512_ps(_mm512_and_si512(high_pairs, odd));
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const __m512 input = _mm512_set1_ps(x[group_tokens + t]);
      low[t] = _mm512_fmadd_ps(low_odd, input, low[t]);
      high[t] = _mm512_fmadd_ps(high_odd, input, high[t]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    _mm512_store_ps(sums + t * kF32PanelRows, low[t]);
    _mm512_store_ps(sums + t * kF32PanelRows + 16, high[t]);
  }
}

// By the number of tokens, from half of the fewest of a group on.
using LaneTile = void (*)(const uint32_t*, int, const float*, int, const uint8_t*, float*);
constexpr LaneTile kLaneTiles[] = {lane_tile<4>, lane_tile<5>, lane_tile<6>, lane_tile<7>,
                                   lane_tile<8>};

// All tokens of a group in one lane, in two tiles about alike, or in one. `next_rows`: rows of the
// next panel, `row_bytes` apart, of which each tile prefetches one.
void lane_tiles(const uint32_t* pairs, const uint32_t* /*next_lane*/, int blocks, const float* x,
                int tokens, const uint8_t* next_rows, int64_t row_bytes, float* sums) {
  const auto tile = [&](int first, int count, const uint8_t* next_row) {
    kLaneTiles[count - 4](pairs, blocks, x + first, tokens, next_row, sums + first * kF32PanelRows);
  };
  const int first = tokens > kF32PanelTokens ? (tokens + 1) / 2 : tokens;
  tile(0, first, next_rows);
  if (first < tokens) tile(first, tokens - first, next_rows + kF32PanelRows / 2 * row_bytes);
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE

// The loops over panels, lanes and groups are written in what is above.
#include "cpu/kernels/f32_panels.inl.h"
