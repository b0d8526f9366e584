// Weights in bf12 times f32 activations: the bits of bf16 weights.
#pragma once

#include <cstdint>

#include "core/bf12.h"
#include "cpu/kernels/bf12.inl.h"
#include "cpu/kernels/matmul_f32.inl.h"
#include GPTOSS_ISA_SIMD

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

// The outputs of matmul_tile<kRows, 1, Bf16Rows> from rows of bf12, unpacked in registers.
template <int kRows>
void bf12_tile_one_token(const MatmulTask& task, int row) {
  const auto* const x = static_cast<const float*>(task.x);
  Bf12Row rows[kRows];
  F32x16 sums[kRows];
  for (int r = 0; r < kRows; ++r) {
    rows[r] = Bf12Row(task, row + r);
    sums[r] = set1(0.0f);
  }
  const auto add_block = [&](int block, int r, const uint16_t* weights) {
    F32x16 even;
    F32x16 odd;
    load_bf16_pairs(weights, even, odd);
    sums[r] = fma(even, load(x + int64_t{32} * block), sums[r]);
    sums[r] = fma(odd, load(x + int64_t{32} * block + 16), sums[r]);
  };
  const int blocks = static_cast<int>(packed_size(task.w.k) / 32);
  for (int group = 0; 2 * group < blocks; ++group) {
    for (int r = 0; r < kRows; ++r) {
      rows[r].prefetch(group, kRows * bf12_row_bytes(task.w.k));
      uint16_t weights[kBf12Group];
      rows[r].unpack(group, weights);
      add_block(2 * group, r, weights);
      if (2 * group + 1 < blocks) add_block(2 * group + 1, r, weights + 32);
    }
  }
  for (int r = 0; r < kRows; ++r) store_output(task, row + r, 0, reduce_add(sums[r]));
}

// kBf16: what takes several tokens.
template <const Matmul& kBf16>
void matmul_bf12_f32(const MatmulTask& task) {
  if (task.tokens > 1) return matmul_bf12<kBf16>(task);
  int row = task.row_begin;
  for (; row + kTileRowsOneToken <= task.row_end; row += kTileRowsOneToken) {
    bf12_tile_one_token<kTileRowsOneToken>(task, row);
  }
  for (; row < task.row_end; ++row) bf12_tile_one_token<1>(task, row);
}
constexpr Matmul kBf12F32 = {"f32", f32_row_bytes, pack_block_f32, matmul_bf12_f32<kBf16F32>};

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
