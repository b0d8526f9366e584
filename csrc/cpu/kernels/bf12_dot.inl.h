// Weights in bf12 times bf16 activations (AVX512_BF16): the bits of bf16 weights.
#pragma once

#include <immintrin.h>
#include <cstdint>

#include "core/bf12.h"
#include "cpu/kernels/bf12.inl.h"
#include "cpu/kernels/bf16_dot.inl.h"
#include "cpu/simd/avx512.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

// The outputs of dot_tile from rows of bf12, unpacked in registers: beside the sums there are a
// group of each row and the activations of one token.
template <int kRows, int kTokens, bool kPrefetch>
void bf12_dot_tile(const MatmulTask& task, int row, int token) {
  const int64_t row_bytes = bf12_row_bytes(task.w.k);
  const int64_t stride = dot_row_bytes(task.w.k);
  const auto* const x = static_cast<const uint8_t*>(task.x) + token * stride;
  Bf12Row rows[kRows];
  __m512i tables[kRows];
  __m512 sums[kTokens][kRows];
  for (int r = 0; r < kRows; ++r) {
    rows[r] = Bf12Row(task, row + r);
    tables[r] = load_bf12_table(rows[r].table);
    for (int t = 0; t < kTokens; ++t) sums[t][r] = _mm512_setzero_ps();
  }
  const auto add_group = [&](int group, int blocks, auto weights_of) {
    __m512i weights[kRows][2];
    for (int r = 0; r < kRows; ++r) {
      if constexpr (kPrefetch) rows[r].prefetch(group, kRows * row_bytes);
      weights_of(r, weights[r]);
    }
    for (int b = 0; b < blocks; ++b) {
      for (int t = 0; t < kTokens; ++t) {
        const auto input = (__m512bh)_mm512_loadu_si512(x + t * stride + 128 * group + 64 * b);
        for (int r = 0; r < kRows; ++r) {
          sums[t][r] = _mm512_dpbf16_ps(sums[t][r], (__m512bh)weights[r][b], input);
        }
      }
    }
  };
  const auto unpacked = [&](int group, int r, __m512i* weights) {
    unpack_bf12(rows[r].low + kBf12Group * group, rows[r].nibbles + kBf12Group / 2 * group,
                tables[r], weights[0], weights[1]);
  };
  const int blocks = static_cast<int>(packed_size(task.w.k) / 32);
  for (int group = 0; 2 * group < blocks;) {
    uint64_t escaped = 0;
    for (const Bf12Row& r : rows) escaped |= r.escaped_word(group / 64);
    for (int end = group + 64; group < end && 2 * group < blocks; ++group) {
      const int in_group = 2 * group + 2 <= blocks ? 2 : 1;
      if (in_group == 2 && (escaped >> group % 64 & 1) == 0) [[likely]] {
        add_group(group, 2, [&](int r, __m512i* weights) { unpacked(group, r, weights); });
        continue;
      }
      add_group(group, in_group, [&](int r, __m512i* weights) {
        if (!rows[r].is_escaped(group)) return unpacked(group, r, weights);
        const uint16_t* const escape = rows[r].escape(group);
        weights[0] = _mm512_loadu_si512(escape);
        weights[1] = _mm512_loadu_si512(escape + 32);
      });
    }
  }
  store_sums<kRows, kTokens>(task, row, token, sums);
}

// Up to here tiles of a few tokens, which unpack the same rows again and again, are faster than
// rows that are unpacked into memory once.
inline constexpr int kBf12TileTokens = 24;

// All rows and tokens in tiles that fit into registers, kTokens first, then 8 at a time.
template <int kRows, int kTokens>
void bf12_dot_tiles(const MatmulTask& task) {
  const auto all_tokens = [&]<int kTileRows>(int row) {
    bf12_dot_tile<kTileRows, kTokens, true>(task, row, 0);
    for (int token = kTokens; token < task.tokens; token += 8) {
      bf12_dot_tile<kTileRows, 8, false>(task, row, token);
    }
  };
  int row = task.row_begin;
  for (; row + kRows <= task.row_end; row += kRows) all_tokens.template operator()<kRows>(row);
  for (; row < task.row_end; ++row) all_tokens.template operator()<1>(row);
}

template <int kTokens>
void bf12_dot_first(const MatmulTask& task) {
  if constexpr (kTokens <= 4) {
    if (task.tokens == kTokens) return bf12_dot_tiles<4, kTokens>(task);
  }
  bf12_dot_tiles<3, kTokens>(task);
}

void matmul_bf12_dot(const MatmulTask& task) {
  if (task.tokens > kBf12TileTokens) return matmul_bf12<kBf16Dot>(task);
  switch (task.tokens % 8) {
    case 1:
      return bf12_dot_first<1>(task);
    case 2:
      return bf12_dot_first<2>(task);
    case 3:
      return bf12_dot_first<3>(task);
    case 4:
      return bf12_dot_first<4>(task);
    case 5:
      return bf12_dot_first<5>(task);
    case 6:
      return bf12_dot_first<6>(task);
    case 7:
      return bf12_dot_first<7>(task);
    default:
      return bf12_dot_first<8>(task);
  }
}

constexpr Matmul kBf12Dot = {"bf16", dot_row_bytes, dot_pack_block, matmul_bf12_dot};

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
