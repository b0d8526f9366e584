// Q8 rows times many tokens in registers of 128 bits.
//
// A panel is 8 rows, unpacked once for all tokens; a tile is the panel times 4 tokens. The sums of
// one chain (see Kernels::mxfp4.fast) stay in 8 registers over all of K, and four passes make the
// four chains. Included after the file that has the instruction set's own part:
//   kTileStep            tokens of a tile are a multiple of it
//   PanelBlock           a block of K of a panel; set(rows, low_scales, high_scales)
//   TileBlock<kTokens>   a block of K of a tile; set(token, codes, scales) of kTileStep tokens
//   add_block            sums += products of one block
//   rows_of_token        4 of a token's rows in a tile's sums
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <type_traits>

#include "core/q8.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/q8_row.inl.h"
#include "cpu/kernels/q8_unpack_neon.inl.h"
#include "cpu/simd/neon.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

inline constexpr int kTileSize = 4;  // tokens

// Fewer wait for memory rather than for products, and the tiles of one token prefetch better. With
// dot products, 4 tokens times 64 rows of 2,880 in MXFP4 take 179 thousand instructions, 520
// without panels.
inline constexpr int kFewestPanelTokens = 4;

// Tokens that are put in order at once: 420 kB where K is 2880, in the second-level cache.
inline constexpr int kTokensAtOnce = 128;

template <class Group>
inline constexpr bool kHasPanels = true;

template <class Group>
bool q8_panels_pay(const MatmulTask& task) {
  return task.tokens >= kFewestPanelTokens && (task.row_end - task.row_begin) % kPanelSize == 0;
}

template <class Group>
void unpack_panel(const MatmulTask& task, int row, PanelBlock* panel) {
  const int blocks = task.w.k / kQ8Block;
  const int64_t row_bytes = int64_t{blocks} * Group::kBlockBytes;
  const auto* const first = static_cast<const uint8_t*>(task.w.data) + row * row_bytes;
  const auto* const scales =
      static_cast<const typename Group::Scale*>(task.w.scales) + int64_t{row} * blocks;
  for (int b = 0; b < blocks; ++b) {
    Codes rows[kPanelSize];
#pragma GCC unroll 8
    for (int r = 0; r < kPanelSize; ++r) {
      rows[r] = unpack_codes<Group>(first + r * row_bytes, task.w.k, b);
    }
    panel[b].set(rows, scales_of_rows(scales + b, blocks),
                 scales_of_rows(scales + 4 * int64_t{blocks} + b, blocks));
  }
}

// `tokens` of a tile; those that it lacks repeat the last one, and their sums are not stored.
template <int kTokens>
void pack_tile(const MatmulTask& task, int token, int tokens, TileBlock<kTokens>* tile) {
  const int blocks = task.w.k / kQ8Block;
  for (int first = 0; first < kTokens; first += kTileStep) {
    Q8Row rows[kTileStep];
    for (int t = 0; t < kTileStep; ++t) {
      rows[t] = Q8Row(task, token + (first + t < tokens ? first + t : tokens - 1));
    }
    for (int b = 0; b < blocks; ++b) {
      Codes codes[kTileStep];
      float scales[kTileStep];
      for (int t = 0; t < kTileStep; ++t) {
        const int8_t* const at = rows[t].codes + kQ8Block * b;
        codes[t] = {vld1q_s8(at), vld1q_s8(at + 16)};
        scales[t] = rows[t].scales[b];
      }
      tile[b].set(first, codes, scales);
    }
  }
}

// Writes 4 rows of one token.
inline void store_rows(const MatmulTask& task, int row, int token, float32x4_t value) {
  if (task.bias != nullptr) value = vaddq_f32(value, vld1q_f32(task.bias + row));
  float* const y = task.y + token * task.y_stride + (row - task.row_begin);
  if (task.accumulate) value = vaddq_f32(vld1q_f32(y), value);
  vst1q_f32(y, value);
}

// 8 rows of `tokens` <= kTokens tokens.
template <int kTokens>
void multiply_tile(const MatmulTask& task, const PanelBlock* panel, const TileBlock<kTokens>* tile,
                   int row, int token, int tokens) {
  constexpr int kSums = kTokens * kPanelSize / 4;
  const int blocks = task.w.k / kQ8Block;
  float32x4_t chains[4][kSums];
  for (int chain = 0; chain < 4; ++chain) {
    float32x4_t sums[kSums];
#pragma GCC unroll 8
    for (int i = 0; i < kSums; ++i) sums[i] = vdupq_n_f32(0.0f);
    for (int b = chain; b < blocks; b += 4) add_block<kTokens>(panel[b], tile[b], sums);
#pragma GCC unroll 8
    for (int i = 0; i < kSums; ++i) chains[chain][i] = sums[i];
  }
  float32x4_t totals[kSums];
  for (int i = 0; i < kSums; ++i) {
    totals[i] =
        vaddq_f32(vaddq_f32(chains[0][i], chains[2][i]), vaddq_f32(chains[1][i], chains[3][i]));
  }
  for (int t = 0; t < tokens; ++t) {
    for (int half = 0; half < kPanelSize / 4; ++half) {
      store_rows(task, row + 4 * half, token + t, rows_of_token(totals, t, half));
    }
  }
}

// Prefetches the i-th of n shares of so many bytes.
inline void prefetch_share(const void* data, int64_t size_bytes, int i, int n) {
  const auto* const bytes = static_cast<const uint8_t*>(data);
  const int64_t end = size_bytes * (i + 1) / n;
  for (int64_t byte = size_bytes * i / n; byte < end; byte += 64) {
    __builtin_prefetch(bytes + byte, 0, 2);
  }
}

// Calls f(integral_constant of a tile's size, its first token, its tokens) for tokens [begin, end):
// whole tiles, then one as small as it can be.
template <class F>
void for_each_tile(int begin, int end, F&& f) {
  int token = begin;
  for (; end - token >= kTileSize; token += kTileSize) {
    f(std::integral_constant<int, kTileSize>(), token, kTileSize);
  }
  const auto last = [&]<int kTokens>() {
    const int left = end - token;
    if (left <= kTokens && left > kTokens - kTileStep) {
      f(std::integral_constant<int, kTokens>(), token, left);
    }
  };
  if (token == end) return;
  if constexpr (kTileStep == 1) {
    last.template operator()<1>();
    last.template operator()<3>();
  }
  last.template operator()<2>();
  if constexpr (kTileStep == 2) last.template operator()<4>();
}

template <class Group>
void matmul_q8_panels(const MatmulTask& task) {
  const int64_t blocks = task.w.k / kQ8Block;
  const int64_t row_bytes = blocks * Group::kBlockBytes;
  const int64_t scale_bytes = blocks * int64_t{sizeof(typename Group::Scale)};
  const int most = task.tokens < kTokensAtOnce ? task.tokens : kTokensAtOnce;
  const int tiles = (most + kTileSize - 1) / kTileSize;
  const int64_t tile_bytes = blocks * int64_t{sizeof(TileBlock<kTileSize>)};
  uint8_t* const packed = thread_scratch(tiles * tile_bytes);
  auto* const panel = reinterpret_cast<PanelBlock*>(
      thread_scratch(blocks * int64_t{sizeof(PanelBlock)}, Scratch::panel));
  for (int begin = 0; begin < task.tokens; begin += kTokensAtOnce) {
    const int end = task.tokens - begin < kTokensAtOnce ? task.tokens : begin + kTokensAtOnce;
    const auto tile_at = [&](auto size, int token) {
      return reinterpret_cast<TileBlock<size()>*>(packed +
                                                  (token - begin) / kTileSize * tile_bytes);
    };
    for_each_tile(begin, end, [&](auto size, int token, int tokens) {
      pack_tile<size()>(task, token, tokens, tile_at(size, token));
    });
    for (int row = task.row_begin; row < task.row_end; row += kPanelSize) {
      unpack_panel<Group>(task, row, panel);
      const int64_t next = row + kPanelSize;
      for_each_tile(begin, end, [&](auto size, int token, int tokens) {
        const int i = (token - begin) / kTileSize;
        prefetch_share(static_cast<const uint8_t*>(task.w.data) + next * row_bytes,
                       kPanelSize * row_bytes, i, tiles);
        prefetch_share(static_cast<const uint8_t*>(task.w.scales) + next * scale_bytes,
                       kPanelSize * scale_bytes, i, tiles);
        multiply_tile<size()>(task, panel, tile_at(size, token), row, token, tokens);
      });
    }
  }
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
