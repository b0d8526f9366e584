// bf16 weights times f32 activations of several tokens, AVX2 (f32_panels.inl.h).
//
// For a pair of elements of 16 rows and 6 tokens there are 24 products, 12 broadcasts of inputs,
// and 4 loads and 4 instructions to widen weights: on two ports for products, 12 cycles, in which
// 16 of 24 loads fit. Registers: 12 sums, 2 of weights, 1 input.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/kernels/transpose_rows.inl.h"
#include "cpu/simd/avx2.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

inline constexpr int kF32PanelRows = 16;
inline constexpr int kF32PanelTokens = 6;

// Smaller groups of activations stay in rows: putting panels in order would take longer than their
// products.
inline constexpr int kFewestByLane = 4;

// Word j of 16 rows, from 16 bytes of each, to words + j * stride.
template <class Word>
void transpose_panel(const uint8_t* bytes, int64_t row_bytes, Word* words, int64_t stride) {
  for (int half = 0; half < 2; ++half) {
    __m256i columns[4];
    transpose_rows(bytes + 8 * half * row_bytes, row_bytes, columns);
    for (int j = 0; j < 4; ++j) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(words + j * stride + 8 * half), columns[j]);
    }
  }
}

// The sums of a token, of 16 rows.
struct TokenLane {
  __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();

  // Instructions, because compilers that order products anew run out of registers.
  void add(__m256 low_rows, __m256 high_rows, const float* x) {
    __m256 input;
    __m256 l = low;
    __m256 h = high;
    asm("vbroadcastss %[x], %[input]\n\t"
        "vfmadd231ps %[input], %[low_rows], %[low]\n\t"
        "vfmadd231ps %[input], %[high_rows], %[high]"
        : [low] "+x"(l), [high] "+x"(h), [input] "=&x"(input)
        : [low_rows] "x"(low_rows), [high_rows] "x"(high_rows), [x] "m"(*x));
    low = l;
    high = h;
  }
  void store(float* sums) const {
    _mm256_store_ps(sums, low);
    _mm256_store_ps(sums + 8, high);
  }
};

// The even elements of 8 pairs, and the odd ones. Pairs are loaded for each, and the mask is in
// memory, to save registers.
inline __m256 even_of_pairs(const uint32_t* p) {
  __m256i pairs = _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
  asm volatile("" : "+x"(pairs));
  return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}
inline __m256 odd_of_pairs(const uint32_t* p) {
  alignas(32) static constexpr uint32_t kHighWords[8] = {0xffff0000u, 0xffff0000u, 0xffff0000u,
                                                         0xffff0000u, 0xffff0000u, 0xffff0000u,
                                                         0xffff0000u, 0xffff0000u};
  const uint32_t* mask = kHighWords;
  asm volatile("" : "+r"(mask));
  __m256i pairs = _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
  asm volatile("" : "+x"(pairs));
  return _mm256_castsi256_ps(
      _mm256_and_si256(pairs, _mm256_load_si256(reinterpret_cast<const __m256i*>(mask))));
}

// What a tile prefetches for each block: two lines, those of the next block `step` bytes on.
// Without prefetches of the next lane's weights and inputs tiles are a fifth slower on Zen 3.
struct Ahead {
  const uint8_t *first, *second;
  int step;

  void prefetch() {
    __builtin_prefetch(first);
    __builtin_prefetch(second);
    first += step;
    second += step;
  }
};

// sums (kTokens, 16 rows) of one lane; x (elements, group_tokens).
template <int kTokens>
void lane_tile(const uint32_t* pairs, int blocks, const float* x, int group_tokens, Ahead ahead,
               float* sums) {
  TokenLane t0, t1, t2, t3, t4, t5;  // an array would live in memory
  const auto each = [&](auto&& f) {
    f(t0, 0);
    if constexpr (kTokens > 1) f(t1, 1);
    if constexpr (kTokens > 2) f(t2, 2);
    if constexpr (kTokens > 3) f(t3, 3);
    if constexpr (kTokens > 4) f(t4, 4);
    if constexpr (kTokens > 5) f(t5, 5);
  };
  const auto add_element = [&](__m256 low_rows, __m256 high_rows) {
    each([&](TokenLane& token, int t) { token.add(low_rows, high_rows, x + t); });
    x += group_tokens;
  };
  for (int b = 0; b < blocks; ++b, pairs += kF32PanelRows) {
    ahead.prefetch();
    add_element(even_of_pairs(pairs), even_of_pairs(pairs + 8));
    add_element(odd_of_pairs(pairs), odd_of_pairs(pairs + 8));
  }
  each([&](const TokenLane& token, int t) { token.store(sums + t * kF32PanelRows); });
}

// All tokens of a group in one lane, in one to three tiles about alike. `next_lane`: the
// pairs of the next lane, `next_row`: a row of the next panel, to prefetch.
void lane_tiles(const uint32_t* pairs, const uint32_t* next_lane, int blocks, const float* x,
                int tokens, const uint8_t* next_row, int64_t /*row_bytes*/, float* sums) {
  const auto bytes = [](const auto* p) { return reinterpret_cast<const uint8_t*>(p); };
  const uint8_t* const next_x = bytes(x + int64_t{2} * blocks * tokens);
  const uint8_t* const next_pairs = bytes(next_lane);
  const int tiles = (tokens + kF32PanelTokens - 1) / kF32PanelTokens;
  for (int tile = 0, t = 0; tile < tiles; ++tile) {
    const Ahead ahead = tiles == 1          ? Ahead{next_x, next_row, 64}
                        : tile + 1 == tiles ? Ahead{next_pairs, next_row, 64}
                                            : Ahead{next_x, next_x + 64, 128};
    const auto run = [&]<int kTokens>() {
      lane_tile<kTokens>(pairs, blocks, x + t, tokens, ahead, sums + t * kF32PanelRows);
      t += kTokens;
    };
    switch ((tokens - t + tiles - tile - 1) / (tiles - tile)) {
      case 6:
        run.template operator()<6>();
        break;
      case 5:
        run.template operator()<5>();
        break;
      case 4:
        run.template operator()<4>();
        break;
      case 3:
        run.template operator()<3>();
        break;
      case 2:
        run.template operator()<2>();
        break;
      default:
        run.template operator()<1>();
        break;
    }
  }
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE

// The loops over panels, lanes and groups are written in what is above.
#include "cpu/kernels/f32_panels.inl.h"
