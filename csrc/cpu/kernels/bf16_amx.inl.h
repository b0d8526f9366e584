// Dense bf16 weights times f32 activations, in tiles of AMX: 16 rows x 32 of K x 16 tokens.
//
// An activation is split into two bf16, x = high + low up to 2^-17 of x, and both are multiplied:
// twice the work of bf16 activations, in return for their error. Weights are read where they lie;
// activations are transposed when they are packed.
//
// A group of n tokens: (high | low) x (blocks of 32 of K, 16 pairs, n) of two bf16.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/kernels/kernels.h"
#include "cpu/simd/amx.h"
#include "cpu/simd/avx512.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

inline constexpr int kPairs = 16;        // of a block of 32
inline constexpr int kWeightRows = 16;   // of a tile
inline constexpr int kWeightTiles = 2;   // that share a tile of activations
inline constexpr int kGroupsAtOnce = 2;  // of tokens, that share a tile of weights

int64_t amx_row_bytes(int64_t k) { return packed_size(k) * 4; }

// bf16 nearest to x in the upper half of each lane.
inline __m512i round_to_bf16(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  // NaN must not round to infinity.
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_and_si512(
      _mm512_mask_blend_epi32(nan, rounded, _mm512_or_si512(bits, _mm512_set1_epi32(1 << 22))),
      _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
}

// 32 floats as 16 pairs of bf16: what is nearest, and what that leaves.
inline void split_pairs(const float* x, __m512i& high, __m512i& low) {
  F32x16 evens;
  F32x16 odds;
  load_pairs(x, evens, odds);
  const __m512 even = evens.v;
  const __m512 odd = odds.v;
  const __m512i even_high = round_to_bf16(even);
  const __m512i odd_high = round_to_bf16(odd);
  high = _mm512_or_si512(_mm512_srli_epi32(even_high, 16), odd_high);
  const __m512i even_low = round_to_bf16(_mm512_sub_ps(even, _mm512_castsi512_ps(even_high)));
  const __m512i odd_low = round_to_bf16(_mm512_sub_ps(odd, _mm512_castsi512_ps(odd_high)));
  low = _mm512_or_si512(_mm512_srli_epi32(even_low, 16), odd_low);
}

void amx_pack_block(const float* x, int64_t x_stride, int tokens, int k, int block,
                    uint8_t* group) {
  const int64_t tile_bytes = int64_t{kPairs} * tokens * 4;
  uint8_t* const high_tile = group + block * tile_bytes;
  uint8_t* const low_tile = high_tile + packed_size(k) / 32 * tile_bytes;
  if (tokens == 1) {
    __m512i high;
    __m512i low;
    split_pairs(x, high, low);
    _mm512_storeu_si512(high_tile, high);
    _mm512_storeu_si512(low_tile, low);
    return;
  }
  __m512i high[16] = {};
  __m512i low[16] = {};
  for (int t = 0; t < tokens; ++t) split_pairs(x + t * x_stride, high[t], low[t]);
  transpose16(high);
  transpose16(low);
  const auto mask = static_cast<__mmask16>((1u << tokens) - 1);
  for (int pair = 0; pair < kPairs; ++pair) {
    _mm512_mask_storeu_epi32(high_tile + pair * tokens * 4, mask, high[pair]);
    _mm512_mask_storeu_epi32(low_tile + pair * tokens * 4, mask, low[pair]);
  }
}

// ---- Weights ------------------------------------------------------------------------------------

// A block of up to 32 rows: two tiles, one after the other.
struct WeightBlock {
  const uint8_t* rows;
  int64_t row_stride;  // bytes
};

// The blocks of some rows, read where they lie; the last one from a copy if K is no multiple of 32.
class WeightBlocks {
 public:
  WeightBlocks(const MatmulTask& task, int row, int n_rows)
      : weights_(static_cast<const uint8_t*>(task.w.data) + int64_t{row} * task.w.k * 2),
        row_bytes_(int64_t{task.w.k} * 2),
        n_rows_(n_rows),
        full_blocks_(task.w.k / 32) {}

  WeightBlock operator[](int block) {
    if (block < full_blocks_) return {weights_ + 64 * block, row_bytes_};
    std::memset(tail_, 0, sizeof tail_);
    for (int r = 0; r < n_rows_; ++r) {
      std::memcpy(tail_[r], weights_ + r * row_bytes_ + 64 * block,
                  static_cast<size_t>(row_bytes_ - 64 * block));
    }
    finish_stores();
    return {tail_[0], 64};
  }

 private:
  const uint8_t* weights_;
  int64_t row_bytes_;
  int n_rows_, full_blocks_;
  alignas(64) uint8_t tail_[kWeightTiles * kWeightRows][64];
};

// ---- Products -----------------------------------------------------------------------------------

// Rows and tokens of one product of tiles; either may be fewer at the end.
struct TileShape {
  int rows, tokens;

  // Tiles: 0-3 products (weight tile, group), 4-5 weights, 6 high, 7 low.
  void configure() const {
    TileConfig config;
    for (int i = 0; i < kWeightTiles * kGroupsAtOnce; ++i) config.set(i, rows, 4 * tokens);
    for (int i = 0; i < kWeightTiles; ++i) config.set(4 + i, rows, 64);
    config.set(6, kPairs, 4 * tokens);
    config.set(7, kPairs, 4 * tokens);
    config.load();
  }
  bool operator==(const TileShape&) const = default;
};

// Products += weights times one group's block. (Tiles are named by literals.)
template <int kGroup>
void multiply_activations(const uint8_t* high, int64_t low_offset, int64_t stride, bool two_tiles) {
  _tile_loadd(6, high, stride);
  _tile_loadd(7, high + low_offset, stride);
  if constexpr (kGroup == 0) {
    _tile_dpbf16ps(0, 4, 6);
    if (two_tiles) _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(0, 4, 7);
    if (two_tiles) _tile_dpbf16ps(2, 5, 7);
  } else {
    _tile_dpbf16ps(1, 4, 6);
    if (two_tiles) _tile_dpbf16ps(3, 5, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (two_tiles) _tile_dpbf16ps(3, 5, 7);
  }
}

// y of one tile of products (rows, tokens), which lies in `sums`.
void store_products(const MatmulTask& task, const TileShape& shape, int row, int token,
                    __m512i (&sums)[16]) {
  transpose16(sums);
  const auto mask = static_cast<__mmask16>((1u << shape.rows) - 1);
  const __m512 bias =
      task.bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, task.bias + row);
  for (int t = 0; t < shape.tokens; ++t) {
    __m512 value = _mm512_castsi512_ps(sums[t]);
    if (task.bias != nullptr) value = _mm512_add_ps(value, bias);
    float* const y = task.y + (token + t) * task.y_stride + (row - task.row_begin);
    if (task.accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), value);
    _mm512_mask_storeu_ps(y, mask, value);
  }
}

// `n_tiles` tiles of rows from `row` on, times `n_groups` groups of tokens from `token` on.
void multiply_tiles(const MatmulTask& task, const TileShape& shape, WeightBlocks& weights, int row,
                    int n_tiles, int token, int n_groups) {
  const int blocks = static_cast<int>(packed_size(task.w.k) / 32);
  const int64_t tile_bytes = int64_t{kPairs} * shape.tokens * 4;
  const int64_t low_offset = blocks * tile_bytes;
  const auto* const x = static_cast<const uint8_t*>(task.x) + token * amx_row_bytes(task.w.k);
  const auto* const x1 = x + kGroupTokens * amx_row_bytes(task.w.k);
  const int64_t stride = int64_t{4} * shape.tokens;
  const bool two_tiles = n_tiles == 2;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int b = 0; b < blocks; ++b) {
    const WeightBlock block = weights[b];
    _tile_loadd(4, block.rows, block.row_stride);
    if (two_tiles) _tile_loadd(5, block.rows + kWeightRows * block.row_stride, block.row_stride);
    multiply_activations<0>(x + b * tile_bytes, low_offset, stride, two_tiles);
    if (n_groups == 2) multiply_activations<1>(x1 + b * tile_bytes, low_offset, stride, two_tiles);
  }
  const auto store_tile = [&](int r, int g, auto store) {
    __m512i sums[16] = {};
    store(sums);
    store_products(task, shape, row + r * kWeightRows, token + g * kGroupTokens, sums);
  };
  store_tile(0, 0, [](__m512i* sums) { _tile_stored(0, sums, 64); });
  if (n_groups == 2) store_tile(0, 1, [](__m512i* sums) { _tile_stored(1, sums, 64); });
  if (two_tiles) {
    store_tile(1, 0, [](__m512i* sums) { _tile_stored(2, sums, 64); });
    if (n_groups == 2) store_tile(1, 1, [](__m512i* sums) { _tile_stored(3, sums, 64); });
  }
}

// Tokens whose activations stay in the second-level cache while a task's rows pass: 64 * 2880 * 4
// bytes are 737 kB of 2 MB.
inline constexpr int kCachedGroups = 4;

void matmul_bf16_amx(const MatmulTask& task) {
  const TilesInUse in_use;
  TileShape configured = {0, 0};
  const auto multiply_rows = [&](int row, int token, int token_end) {
    const int rows_left = task.row_end - row;
    const int n_tiles = rows_left >= kWeightTiles * kWeightRows ? kWeightTiles : 1;
    const int tile_rows = rows_left < kWeightRows ? rows_left : kWeightRows;
    WeightBlocks weights(task, row, n_tiles * tile_rows);
    while (token < token_end) {
      const int left = token_end - token;
      const int n_groups = left >= kGroupsAtOnce * kGroupTokens ? kGroupsAtOnce : 1;
      const TileShape shape = {tile_rows, left < kGroupTokens ? left : kGroupTokens};
      if (!(shape == configured)) {
        shape.configure();
        configured = shape;
      }
      multiply_tiles(task, shape, weights, row, n_tiles, token, n_groups);
      token += n_groups * shape.tokens;
    }
    return n_tiles * tile_rows;
  };
  for (int token = 0; token < task.tokens; token += kCachedGroups * kGroupTokens) {
    const int left = task.tokens - token;
    const int count = left < kCachedGroups * kGroupTokens ? left : kCachedGroups * kGroupTokens;
    for (int row = task.row_begin; row < task.row_end;) {
      row += multiply_rows(row, token, token + count);
    }
  }
}

constexpr Matmul kBf16Amx = {"2 x bf16", amx_row_bytes, amx_pack_block, matmul_bf16_amx};

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
