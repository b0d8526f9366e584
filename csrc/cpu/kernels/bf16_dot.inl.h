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
// After the vectors that it unpacks to.
#include "cpu/kernels/bf12.inl.h"

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
  // Asks for what comes soon.
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

// What a tile asks memory for: nothing, the rows of the next tile, or these and once more what
// comes soon in its own.
enum class Ask { kNothing, kNext, kNextAndSoon };

// kRows x kTokens outputs, all of K.
template <int kRows, int kTokens, Ask kAsk>
void dot_tile(const MatmulTask& task, int row, int token) {
  DotRow rows[kRows];
  for (int r = 0; r < kRows; ++r) rows[r] = DotRow(task, row + r);
  // What comes after these rows, into the second-level cache: the hardware does not foresee where
  // the next tile is, and seems to drop requests when it has many. From memory, two
  // threads of Zen 4 read 15 GB/s for 8 tokens if nothing is asked for, 26 with the next rows, 31
  // if all is asked for again shortly before it is used.
  const int64_t row_bytes = int64_t{task.w.k} * 2;
  const uint8_t* const later =
      task.later != nullptr ? task.later + (row - task.row_begin) * task.later_stride
                            : static_cast<const uint8_t*>(task.w.data) + (row + kRows) * row_bytes;
  const int64_t later_stride = task.later != nullptr ? task.later_stride : row_bytes;
  const int64_t stride = dot_row_bytes(task.w.k);
  const auto* const x = static_cast<const uint8_t*>(task.x) + token * stride;
  __m512 sums[kTokens][kRows];
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRows; ++r) sums[t][r] = _mm512_setzero_ps();
  }
  const auto add_block = [&](int block, auto weights_of) {
    const auto weights_at = [&](int r) {
      if constexpr (kAsk != Ask::kNothing) {
        __builtin_prefetch(later + r * later_stride + 64 * block, 0, 2);
      }
      if constexpr (kAsk == Ask::kNextAndSoon) rows[r].prefetch(block);
      return weights_of(rows[r]);
    };
    const auto inputs_at = [&](int t) {
      return (__m512bh)_mm512_loadu_si512(x + t * stride + 64 * block);
    };
    // What is held in registers beside the sums: beyond 6 tokens there is no room for all inputs.
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
  // What one tile asks for is more than the hardware can note at once: the second asks again.
  for (int tile = 0; tile < 2 && token + kDotTokens <= token_end; ++tile, token += kDotTokens) {
    dot_tile<kRows, kDotTokens, Ask::kNext>(task, row, token);
  }
  for (; token + kDotTokens <= token_end; token += kDotTokens) {
    dot_tile<kRows, kDotTokens, Ask::kNothing>(task, row, token);
  }
  switch (token_end - token) {
    case 5:
      return dot_tile<kRows, 5, Ask::kNext>(task, row, token);
    case 4:
      return dot_tile<kRows, 4, Ask::kNext>(task, row, token);
    case 3:
      return dot_tile<kRows, 3, Ask::kNext>(task, row, token);
    case 2:
      return dot_tile<kRows, 2, Ask::kNext>(task, row, token);
    case 1:
      return dot_tile<kRows, 1, Ask::kNext>(task, row, token);
    default:
      return;
  }
}

// All tokens at once: rows are passed over once.
template <int kRows, int kTokens, Ask kAsk>
void dot_all_at_once(const MatmulTask& task) {
  int row = task.row_begin;
  for (; row + kRows <= task.row_end; row += kRows) dot_tile<kRows, kTokens, kAsk>(task, row, 0);
  for (; row < task.row_end; ++row) dot_tile<1, kTokens, kAsk>(task, row, 0);
}

void matmul_bf16_dot(const MatmulTask& task) {
  switch (task.tokens) {
    case 1:  // eight rows in turn are asked for well enough
      return dot_all_at_once<kDotRowsOneToken, 1, Ask::kNext>(task);
    case 2:
      return dot_all_at_once<kDotRows, 2, Ask::kNextAndSoon>(task);
    case 3:
      return dot_all_at_once<kDotRows, 3, Ask::kNextAndSoon>(task);
    case 4:
      return dot_all_at_once<kDotRows, 4, Ask::kNextAndSoon>(task);
    case 5:
      return dot_all_at_once<kDotRows, 5, Ask::kNextAndSoon>(task);
    case 6:
      return dot_all_at_once<kDotRows, 6, Ask::kNextAndSoon>(task);
    // 3 x 8 sums, 3 rows of weights and the activations of a token fit into registers too.
    case 7:
      return dot_all_at_once<3, 7, Ask::kNextAndSoon>(task);
    case 8:
      return dot_all_at_once<3, 8, Ask::kNextAndSoon>(task);
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

// ---- Weights in 12 bits -------------------------------------------------------------------------

// The same outputs from rows of bf12, unpacked in registers: beside the sums there are a group of
// each row and the activations of one token.
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
