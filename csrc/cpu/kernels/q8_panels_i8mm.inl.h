// Q8 rows times many tokens, I8MM: one instruction adds the products of 8 elements of two rows with
// those of two tokens to a 2 x 2 square of 32 bits.
//
// A panel is 8 rows, unpacked once for all tokens; a tile is the panel times 4 tokens. Of 32
// registers, 8 hold the exact squares of a block of 32 of K, 8 the sums of one chain (see
// Kernels::mxfp4.fast), 6 operands, 2 scales. Per block and square: 4 products, one instruction to
// f32, two for the scales.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <type_traits>

#include "core/q8.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/q8_row.inl.h"
#include "cpu/simd/neon.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

inline constexpr int kPanelSize = 8;
inline constexpr int kRowPairs = kPanelSize / 2;
inline constexpr int kTilePairs = 2;  // of tokens
inline constexpr int kSteps = 4;      // of 8 elements: a block

// Fewer wait for memory rather than for products, and the tiles of one token prefetch better.
inline constexpr int kFewestPanelTokens = 4;

// Tokens that are put in order at once: 420 kB where K is 2880, in the second-level cache.
inline constexpr int kTokensAtOnce = 128;

template <class Group>
inline constexpr bool kHasPanels = true;

template <class Group>
bool q8_panels_pay(const MatmulTask& task) {
  return task.tokens >= kFewestPanelTokens && (task.row_end - task.row_begin) % kPanelSize == 0;
}

// A block of K of a panel. With its scales it takes 320 bytes: 29 kB where K is 2880, in the
// first-level cache.
struct alignas(16) PanelBlock {
  int8_t codes[kSteps][kRowPairs][16];  // 8 of one row, 8 of the next
  float scales[kRowPairs][4];           // each row's twice
};

// A block of K of so many pairs of tokens.
template <int kPairs>
struct alignas(16) TileBlock {
  int8_t codes[kSteps][kPairs][16];
  float scales[kPairs][2];
};

// 16 elements of two rows or tokens as two operands, `step` bytes apart.
inline void store_steps(int8_t* out, int64_t step, int8x16_t first, int8x16_t second) {
  const int64x2_t a = vreinterpretq_s64_s8(first);
  const int64x2_t b = vreinterpretq_s64_s8(second);
  vst1q_s8(out, vreinterpretq_s8_s64(vzip1q_s64(a, b)));
  vst1q_s8(out + step, vreinterpretq_s8_s64(vzip2q_s64(a, b)));
}

// A block of a row: even elements, then odd ones.
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

template <class Group>
void unpack_panel(const MatmulTask& task, int row, PanelBlock* panel) {
  const int blocks = task.w.k / kQ8Block;
  const int64_t row_bytes = int64_t{blocks} * Group::kBlockBytes;
  const auto* const first = static_cast<const uint8_t*>(task.w.data) + row * row_bytes;
  const auto* const scales =
      static_cast<const typename Group::Scale*>(task.w.scales) + int64_t{row} * blocks;
  for (int b = 0; b < blocks; ++b) {
    PanelBlock& block = panel[b];
    for (int pair = 0; pair < kRowPairs; ++pair) {
      const uint8_t* const codes = first + 2 * pair * row_bytes;
      const Codes upper = unpack_codes<Group>(codes, task.w.k, b);
      const Codes lower = unpack_codes<Group>(codes + row_bytes, task.w.k, b);
      store_steps(block.codes[0][pair], sizeof block.codes[0], upper.even, lower.even);
      store_steps(block.codes[2][pair], sizeof block.codes[0], upper.odd, lower.odd);
    }
    for (int r = 0; r < kPanelSize; r += 4) {
      const float32x4_t of_rows = scales_of_rows(scales + r * int64_t{blocks} + b, blocks);
      vst1q_f32(block.scales[r / 2], vzip1q_f32(of_rows, of_rows));
      vst1q_f32(block.scales[r / 2 + 1], vzip2q_f32(of_rows, of_rows));
    }
  }
}

// `tokens` of a tile; those that it lacks repeat the last one, and their sums are not stored.
template <int kPairs>
void pack_tile(const MatmulTask& task, int token, int tokens, TileBlock<kPairs>* tile) {
  const int blocks = task.w.k / kQ8Block;
  for (int pair = 0; pair < kPairs; ++pair) {
    const Q8Row first(task, token + 2 * pair);
    const Q8Row second(task, token + (2 * pair + 1 < tokens ? 2 * pair + 1 : 2 * pair));
    for (int b = 0; b < blocks; ++b) {
      TileBlock<kPairs>& block = tile[b];
      for (int half = 0; half < 2; ++half) {
        const int64_t at = kQ8Block * b + 16 * half;
        store_steps(block.codes[2 * half][pair], sizeof block.codes[0], vld1q_s8(first.codes + at),
                    vld1q_s8(second.codes + at));
      }
      block.scales[pair][0] = first.scales[b];
      block.scales[pair][1] = second.scales[b];
    }
  }
}

// 1.5 * 2^23, whose last bit is worth 1: an integer of up to 22 bits that is added to its bits is
// added to its value. A block's products come to at most 32 * 128 * 127, 19 bits.
inline constexpr float kIntegerOrigin = 0x1.8p23f;

// Squares of sums of one chain: of row pairs and token pairs.
template <int kPairs>
using Squares = float32x4_t[kPairs][kRowPairs];

// sums += products of one block, scaled.
template <int kPairs>
[[gnu::always_inline]] inline void add_block(const PanelBlock& w, const TileBlock<kPairs>& x,
                                             Squares<kPairs>& sums) {
  const float32x4_t origin = vdupq_n_f32(kIntegerOrigin);
  int32x4_t exact[kPairs][kRowPairs];
#pragma GCC unroll 2
  for (int p = 0; p < kPairs; ++p) {
#pragma GCC unroll 4
    for (int r = 0; r < kRowPairs; ++r) exact[p][r] = vreinterpretq_s32_f32(origin);
  }
#pragma GCC unroll 4
  for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 4
    for (int r = 0; r < kRowPairs; ++r) {
      const int8x16_t rows = vld1q_s8(w.codes[step][r]);
#pragma GCC unroll 2
      for (int p = 0; p < kPairs; ++p) {
        exact[p][r] = vmmlaq_s32(exact[p][r], rows, vld1q_s8(x.codes[step][p]));
      }
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < kPairs; ++p) {
    const float32x2_t pair_scales = vld1_f32(x.scales[p]);
    const float32x4_t x_scales = vcombine_f32(pair_scales, pair_scales);
#pragma GCC unroll 4
    for (int r = 0; r < kRowPairs; ++r) {
      const float32x4_t dots = vsubq_f32(vreinterpretq_f32_s32(exact[p][r]), origin);
      sums[p][r] = vfmaq_f32(sums[p][r], vmulq_f32(dots, vld1q_f32(w.scales[r])), x_scales);
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

// 8 rows of `tokens` <= 2 kPairs tokens.
template <int kPairs>
void multiply_tile(const MatmulTask& task, const PanelBlock* panel, const TileBlock<kPairs>* tile,
                   int row, int token, int tokens) {
  const int blocks = task.w.k / kQ8Block;
  Squares<kPairs> chains[4];
  for (int chain = 0; chain < 4; ++chain) {
    Squares<kPairs> sums;
#pragma GCC unroll 2
    for (int p = 0; p < kPairs; ++p) {
#pragma GCC unroll 4
      for (int r = 0; r < kRowPairs; ++r) sums[p][r] = vdupq_n_f32(0.0f);
    }
    for (int b = chain; b < blocks; b += 4) add_block<kPairs>(panel[b], tile[b], sums);
#pragma GCC unroll 2
    for (int p = 0; p < kPairs; ++p) {
#pragma GCC unroll 4
      for (int r = 0; r < kRowPairs; ++r) chains[chain][p][r] = sums[p][r];
    }
  }
  for (int p = 0; p < kPairs; ++p) {
    const auto total = [&](int r) {
      return vaddq_f32(vaddq_f32(chains[0][p][r], chains[2][p][r]),
                       vaddq_f32(chains[1][p][r], chains[3][p][r]));
    };
    for (int r = 0; r < kRowPairs; r += 2) {
      const float32x4_t upper = total(r);
      const float32x4_t lower = total(r + 1);
      store_rows(task, row + 2 * r, token + 2 * p, vuzp1q_f32(upper, lower));
      if (2 * p + 1 < tokens) {
        store_rows(task, row + 2 * r, token + 2 * p + 1, vuzp2q_f32(upper, lower));
      }
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

// Calls f(integral_constant kPairs, tile, its first token, its tokens) for tokens [begin, end):
// with tiles of two pairs, and at the end of as many as it takes.
template <class F>
void for_each_tile(int begin, int end, F&& f) {
  constexpr int kTile = 2 * kTilePairs;
  for (int token = begin; token < end; token += kTile) {
    const int tokens = end - token < kTile ? end - token : kTile;
    if (tokens > 2) {
      f(std::integral_constant<int, kTilePairs>(), token, tokens);
    } else {
      f(std::integral_constant<int, 1>(), token, tokens);
    }
  }
}

template <class Group>
void matmul_q8_panels(const MatmulTask& task) {
  const int64_t blocks = task.w.k / kQ8Block;
  const int64_t row_bytes = blocks * Group::kBlockBytes;
  const int64_t scale_bytes = blocks * int64_t{sizeof(typename Group::Scale)};
  const int most = task.tokens < kTokensAtOnce ? task.tokens : kTokensAtOnce;
  const int tiles = (most + 2 * kTilePairs - 1) / (2 * kTilePairs);
  const int64_t tile_bytes = blocks * int64_t{sizeof(TileBlock<kTilePairs>)};
  uint8_t* const packed = thread_scratch(tiles * tile_bytes);
  auto* const panel = reinterpret_cast<PanelBlock*>(
      thread_scratch(blocks * int64_t{sizeof(PanelBlock)}, Scratch::panel));
  for (int begin = 0; begin < task.tokens; begin += kTokensAtOnce) {
    const int end = task.tokens - begin < kTokensAtOnce ? task.tokens : begin + kTokensAtOnce;
    const auto tile_at = [&](auto pairs, int token) {
      return reinterpret_cast<TileBlock<pairs()>*>(packed + (token - begin) / 4 * tile_bytes);
    };
    for_each_tile(begin, end, [&](auto pairs, int token, int tokens) {
      pack_tile<pairs()>(task, token, tokens, tile_at(pairs, token));
    });
    for (int row = task.row_begin; row < task.row_end; row += kPanelSize) {
      unpack_panel<Group>(task, row, panel);
      const int64_t next = row + kPanelSize;
      for_each_tile(begin, end, [&](auto pairs, int token, int tokens) {
        const int i = (token - begin) / 4;
        prefetch_share(static_cast<const uint8_t*>(task.w.data) + next * row_bytes,
                       kPanelSize * row_bytes, i, tiles);
        prefetch_share(static_cast<const uint8_t*>(task.w.scales) + next * scale_bytes,
                       kPanelSize * scale_bytes, i, tiles);
        multiply_tile<pairs()>(task, panel, tile_at(pairs, token), row, token, tokens);
      });
    }
  }
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
