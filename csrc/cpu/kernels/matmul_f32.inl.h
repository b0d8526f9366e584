// Weights times f32 activations: the sums of Inputs::exact (kernels.h).
#pragma once

#include <cstdint>
#include <cstring>

#include "core/float16.h"
#include "core/mxfp4.h"
#include "core/q8.h"
#include "cpu/kernels/kernels.h"
#include GPTOSS_ISA_SIMD

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

int64_t f32_row_bytes(int64_t k) { return row_stride(packed_size(k) * int64_t{sizeof(float)}); }

void pack_block_f32(const float* x, int64_t x_stride, int tokens, int k, int block,
                    uint8_t* group) {
  for (int t = 0; t < tokens; ++t, x += x_stride) {
    auto* const packed = reinterpret_cast<float*>(group + t * f32_row_bytes(k)) + 32 * block;
    F32x16 even;
    F32x16 odd;
    load_pairs(x, even, odd);
    store(packed, even);
    store(packed + 16, odd);
  }
}

// How a row of weights is read, 32 elements at a time.
struct Bf16Rows {
  static constexpr bool kAnyK = true;
  const uint16_t* weights;
  int k;

  explicit Bf16Rows(const MatmulTask& task)
      : weights(static_cast<const uint16_t*>(task.w.data)), k(task.w.k) {}
  void load(int64_t row, int block, F32x16& even, F32x16& odd) const {
    load_bf16_pairs(weights + row * k + 32 * block, even, odd);
  }
  // A block of the next row. From memory, two threads of Zen 4 read 31 GB/s with it, 24
  // without (AVX2, one token).
  void prefetch(int64_t row, int block) const {
    __builtin_prefetch(weights + row * k + 32 * block, 0, 2);
  }
  void load_tail(int64_t row, int block, F32x16& even, F32x16& odd) const {
    uint16_t padded[32] = {};
    std::memcpy(padded, weights + row * k + 32 * block, static_cast<size_t>(k - 32 * block) * 2);
    load_bf16_pairs(padded, even, odd);
  }
};

struct Mxfp4Rows {
  static constexpr bool kAnyK = false;  // K is a multiple of 32: there is no tail
  const uint8_t* blocks;
  const uint8_t* scales;
  int64_t blocks_per_row;

  explicit Mxfp4Rows(const MatmulTask& task)
      : blocks(static_cast<const uint8_t*>(task.w.data)),
        scales(static_cast<const uint8_t*>(task.w.scales)),
        blocks_per_row(task.w.k / kMxfp4BlockSize) {}
  void load(int64_t row, int block, F32x16& even, F32x16& odd) const {
    const int64_t index = row * blocks_per_row + block;
    load_mxfp4_pairs(blocks + index * kMxfp4BlockBytes, scales[index], even, odd);
  }
  void prefetch(int64_t row, int block) const {
    if (block % 4 != 0) return;  // four to a cache line
    __builtin_prefetch(blocks + (row * blocks_per_row + block) * kMxfp4BlockBytes, 0, 2);
  }
};

struct Q80Rows {
  static constexpr bool kAnyK = false;
  const int8_t* codes;
  const uint16_t* scales;
  int64_t k;

  explicit Q80Rows(const MatmulTask& task)
      : codes(static_cast<const int8_t*>(task.w.data)),
        scales(static_cast<const uint16_t*>(task.w.scales)),
        k(task.w.k) {}
  void load(int64_t row, int block, F32x16& even, F32x16& odd) const {
    // Products of 8 and 11 bits: exact.
    const F32x16 scale = set1(half_to_float(load_u16(scales + row * (k / kQ8Block) + block)));
    int64_t to_odd;
    const int8_t* const at = codes + row * k + q8_block_offset(k, block, &to_odd);
    even = mul(load_int8(at), scale);
    odd = mul(load_int8(at + to_odd), scale);
  }
  void prefetch(int64_t row, int block) const {
    __builtin_prefetch(codes + row * k + int64_t{kQ8Block} * block, 0, 2);
  }
};

// kRows x kTokens sums, each in 16 lanes: even elements of a block, then odd ones, block by block.
template <int kRows, int kTokens, class Rows>
void matmul_tile(const MatmulTask& task, const Rows& rows, int row, int token) {
  const int64_t x_stride = f32_row_bytes(task.w.k) / int64_t{sizeof(float)};
  const float* const x = static_cast<const float*>(task.x) + token * x_stride;
  F32x16 sums[kRows][kTokens];
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTokens; ++t) sums[r][t] = set1(0.0f);
  }
  const auto add_block = [&](int block, const F32x16* even, const F32x16* odd) {
    for (int t = 0; t < kTokens; ++t) {
      const float* const packed = x + t * x_stride + 32 * static_cast<int64_t>(block);
      const F32x16 x_even = cpu::GPTOSS_ISA_NAMESPACE::load(packed);
      const F32x16 x_odd = cpu::GPTOSS_ISA_NAMESPACE::load(packed + 16);
      for (int r = 0; r < kRows; ++r) {
        sums[r][t] = fma(even[r], x_even, sums[r][t]);
        sums[r][t] = fma(odd[r], x_odd, sums[r][t]);
      }
    }
  };
  const int full_blocks = task.w.k / 32;
  F32x16 even[kRows];
  F32x16 odd[kRows];
  for (int block = 0; block < full_blocks; ++block) {
    for (int r = 0; r < kRows; ++r) {
      rows.prefetch(row + kRows + r, block);
      rows.load(row + r, block, even[r], odd[r]);
    }
    add_block(block, even, odd);
  }
  if constexpr (Rows::kAnyK) {
    if (task.w.k % 32 != 0) {
      for (int r = 0; r < kRows; ++r) rows.load_tail(row + r, full_blocks, even[r], odd[r]);
      add_block(full_blocks, even, odd);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRows; ++r) store_output(task, row + r, token + t, reduce_add(sums[r][t]));
  }
}

// Tokens [token, token + n) of kRows rows: full tiles, then single tokens.
template <int kRows, class Rows>
void matmul_rows(const MatmulTask& task, const Rows& rows, int row, int token, int token_end) {
  for (; token + kTileTokens <= token_end; token += kTileTokens) {
    matmul_tile<kRows, kTileTokens>(task, rows, row, token);
  }
  for (; token < token_end; ++token) matmul_tile<kRows, 1>(task, rows, row, token);
}

// Tokens whose packed activations stay in the second-level cache beside the rows of a task.
// Bounded by 1 MB: 32 tokens * 2880 * 4 bytes = 369 kB.
inline constexpr int kCachedTokens = 32;

template <class Rows>
void matmul(const MatmulTask& task) {
  const Rows rows(task);
  if (task.tokens == 1) {
    int row = task.row_begin;
    for (; row + kTileRowsOneToken <= task.row_end; row += kTileRowsOneToken) {
      matmul_tile<kTileRowsOneToken, 1>(task, rows, row, 0);
    }
    for (; row < task.row_end; ++row) matmul_tile<1, 1>(task, rows, row, 0);
    return;
  }
  for (int token = 0; token < task.tokens; token += kCachedTokens) {
    const int token_end = token + kCachedTokens < task.tokens ? token + kCachedTokens : task.tokens;
    int row = task.row_begin;
    for (; row + kTileRows <= task.row_end; row += kTileRows) {
      matmul_rows<kTileRows>(task, rows, row, token, token_end);
    }
    for (; row < task.row_end; ++row) matmul_rows<1>(task, rows, row, token, token_end);
  }
}

constexpr Matmul kBf16F32 = {"f32", f32_row_bytes, pack_block_f32, matmul<Bf16Rows>};
constexpr Matmul kQ80F32 = {"f32", f32_row_bytes, pack_block_f32, matmul<Q80Rows>};
constexpr Matmul kMxfp4F32 = {"f32", f32_row_bytes, pack_block_f32, matmul<Mxfp4Rows>};

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
