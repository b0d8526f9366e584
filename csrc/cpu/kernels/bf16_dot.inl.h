// Dense bf16 weights times bf16 activations, with dot products of pairs (AVX512_BF16).
//
// Activations are rounded to bf16 when they are packed; products are exact and sums are f32. A sum
// is 16 lanes over K, pair 16 b + i of block b in lane i, then a tree: one accumulator per output,
// so that tokens and rows can be tiled in any way.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/kernels/kernels.h"
#include "cpu/simd/avx512.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

// 4 x 6 sums, 6 activations and a row of weights fit into 32 registers.
inline constexpr int kDotRows = 4;
inline constexpr int kDotTokens = 6;
// One token: enough sums to cover the latency of a product.
inline constexpr int kDotRowsOneToken = 8;

// Tokens whose activations stay in the second-level cache while a task's rows pass: 48 * 4096 * 2
// bytes are 393 kB of 1 MB.
inline constexpr int kDotCachedTokens = 48;

int64_t dot_row_bytes(int64_t k) { return row_stride(packed_size(k) * 2); }

void dot_pack_block(const float* x, int64_t x_stride, int tokens, int k, int block,
                    uint8_t* group) {
  for (int t = 0; t < tokens; ++t, x += x_stride) {
    const __m512bh pairs = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x));
    _mm512_storeu_si512(group + t * dot_row_bytes(k) + 64 * block, (__m512i)pairs);
  }
}

// The blocks of a row of weights; the last one is padded with zeros.
class DotRow {
 public:
  DotRow() = default;
  DotRow(const MatmulTask& task, int row)
      : weights_(static_cast<const uint16_t*>(task.w.data) + int64_t{row} * task.w.k),
        k_(task.w.k) {}

  __m512bh operator[](int block) const {
    return (__m512bh)_mm512_loadu_si512(weights_ + 32 * block);
  }
  __m512bh tail(int block) const {
    const __mmask32 mask = (uint32_t{1} << (k_ - 32 * block)) - 1;
    return (__m512bh)_mm512_maskz_loadu_epi16(mask, weights_ + 32 * block);
  }
  // A little ahead in the same row.
  void prefetch(int block) const {
    const uint16_t* const at = weights_ + 32 * block;
    __builtin_prefetch(at + 256);
    __builtin_prefetch(at + 768, 0, 2);
    __builtin_prefetch(at + 1536, 0, 2);
  }

 private:
  const uint16_t* weights_ = nullptr;
  int k_ = 0;
};

template <int kRows, int kTokens>
void store_sums(const MatmulTask& task, int row, int token, const __m512 (&sums)[kTokens][kRows]) {
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRows; ++r)
      store_output(task, row + r, token + t, reduce_add({sums[t][r]}));
  }
}

// Which lines a tile prefetches: none, those of the next tile's rows, or these and once more those
// a little ahead in its own.
enum class Prefetch { kNone, kNext, kNextAndSoon };

// kRows x kTokens outputs, all of K.
template <int kRows, int kTokens, Prefetch kPrefetch>
void dot_tile(const MatmulTask& task, int row, int token) {
  DotRow rows[kRows];
  for (int r = 0; r < kRows; ++r) rows[r] = DotRow(task, row + r);
  // The rows that follow are prefetched into the second-level cache: the hardware prefetcher cannot
  // tell where the next tile is. From memory, two threads of Zen 4 read 15 GB/s for 8 tokens
  // without, 26 with the next rows, 31 if each row is prefetched once more shortly before its use:
  // a tile issues more prefetches than there are fill buffers.
  const int64_t row_bytes = int64_t{task.w.k} * 2;
  const uint8_t* const next =
      task.prefetch != nullptr
          ? task.prefetch + (row - task.row_begin) * task.prefetch_stride
          : static_cast<const uint8_t*>(task.w.data) + (row + kRows) * row_bytes;
  const int64_t next_stride = task.prefetch != nullptr ? task.prefetch_stride : row_bytes;
  const int64_t stride = dot_row_bytes(task.w.k);
  const auto* const x = static_cast<const uint8_t*>(task.x) + token * stride;
  __m512 sums[kTokens][kRows];
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRows; ++r) sums[t][r] = _mm512_setzero_ps();
  }
  const auto add_block = [&](int block, auto weights_of) {
    const auto weights_at = [&](int r) {
      if constexpr (kPrefetch != Prefetch::kNone) {
        __builtin_prefetch(next + r * next_stride + 64 * block, 0, 2);
      }
      if constexpr (kPrefetch == Prefetch::kNextAndSoon) rows[r].prefetch(block);
      return weights_of(rows[r]);
    };
    const auto inputs_at = [&](int t) {
      return (__m512bh)_mm512_loadu_si512(x + t * stride + 64 * block);
    };
    // What is kept in registers beside the sums: beyond 6 tokens there is no room for all inputs.
    if constexpr (kTokens > kDotTokens) {
      __m512bh weights[kRows];
      for (int r = 0; r < kRows; ++r) weights[r] = weights_at(r);
      for (int t = 0; t < kTokens; ++t) {
        const __m512bh inputs = inputs_at(t);
        for (int r = 0; r < kRows; ++r) {
          sums[t][r] = _mm512_dpbf16_ps(sums[t][r], weights[r], inputs);
        }
      }
    } else {
      __m512bh inputs[kTokens];
      for (int t = 0; t < kTokens; ++t) inputs[t] = inputs_at(t);
      for (int r = 0; r < kRows; ++r) {
        const __m512bh weights = weights_at(r);
        for (int t = 0; t < kTokens; ++t) {
          sums[t][r] = _mm512_dpbf16_ps(sums[t][r], weights, inputs[t]);
        }
      }
    }
  };
  const int full_blocks = task.w.k / 32;
  for (int block = 0; block < full_blocks; ++block) {
    add_block(block, [block](const DotRow& weights) { return weights[block]; });
  }
  if (task.w.k % 32 != 0) {
    add_block(full_blocks, [=](const DotRow& weights) { return weights.tail(full_blocks); });
  }
  store_sums<kRows, kTokens>(task, row, token, sums);
}

// Tokens [token, token_end) of kRows rows.
template <int kRows>
void dot_rows(const MatmulTask& task, int row, int token, int token_end) {
  // One tile issues more prefetches than there are fill buffers: the second repeats them.
  for (int tile = 0; tile < 2 && token + kDotTokens <= token_end; ++tile, token += kDotTokens) {
    dot_tile<kRows, kDotTokens, Prefetch::kNext>(task, row, token);
  }
  for (; token + kDotTokens <= token_end; token += kDotTokens) {
    dot_tile<kRows, kDotTokens, Prefetch::kNone>(task, row, token);
  }
  switch (token_end - token) {
    case 5:
      return dot_tile<kRows, 5, Prefetch::kNext>(task, row, token);
    case 4:
      return dot_tile<kRows, 4, Prefetch::kNext>(task, row, token);
    case 3:
      return dot_tile<kRows, 3, Prefetch::kNext>(task, row, token);
    case 2:
      return dot_tile<kRows, 2, Prefetch::kNext>(task, row, token);
    case 1:
      return dot_tile<kRows, 1, Prefetch::kNext>(task, row, token);
    default:
      return;
  }
}

// All tokens at once: rows are passed over once.
template <int kRows, int kTokens, Prefetch kPrefetch>
void dot_all_at_once(const MatmulTask& task) {
  int row = task.row_begin;
  for (; row + kRows <= task.row_end; row += kRows)
    dot_tile<kRows, kTokens, kPrefetch>(task, row, 0);
  for (; row < task.row_end; ++row) dot_tile<1, kTokens, kPrefetch>(task, row, 0);
}

void matmul_bf16_dot(const MatmulTask& task) {
  switch (task.tokens) {
    case 1:  // eight rows in turn are prefetched well enough
      return dot_all_at_once<kDotRowsOneToken, 1, Prefetch::kNext>(task);
    case 2:
      return dot_all_at_once<kDotRows, 2, Prefetch::kNextAndSoon>(task);
    case 3:
      return dot_all_at_once<kDotRows, 3, Prefetch::kNextAndSoon>(task);
    case 4:
      return dot_all_at_once<kDotRows, 4, Prefetch::kNextAndSoon>(task);
    case 5:
      return dot_all_at_once<kDotRows, 5, Prefetch::kNextAndSoon>(task);
    case 6:
      return dot_all_at_once<kDotRows, 6, Prefetch::kNextAndSoon>(task);
    // 3 x 8 sums, 3 rows of weights and the activations of a token fit into registers too.
    case 7:
      return dot_all_at_once<3, 7, Prefetch::kNextAndSoon>(task);
    case 8:
      return dot_all_at_once<3, 8, Prefetch::kNextAndSoon>(task);
    default:
      break;
  }
  for (int token = 0; token < task.tokens; token += kDotCachedTokens) {
    const int left = task.tokens - token;
    const int token_end = token + (left < kDotCachedTokens ? left : kDotCachedTokens);
    int row = task.row_begin;
    for (; row + kDotRows <= task.row_end; row += kDotRows) {
      dot_rows<kDotRows>(task, row, token, token_end);
    }
    for (; row < task.row_end; ++row) dot_rows<1>(task, row, token, token_end);
  }
}

constexpr Matmul kBf16Dot = {"bf16", dot_row_bytes, dot_pack_block, matmul_bf16_dot};

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
