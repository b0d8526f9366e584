// Changes of low rank: a token's activations through two thin f32 matrices.
#pragma once

#include <cstdint>
#include <cstring>

#include GPTOSS_ISA_SIMD

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

// Rows whose sums are in flight together; each is the same as alone.
template <int kRows>
void low_rank_rows(const float* x, const float* w, int64_t k, float* y) {
  F32x16 sums[kRows];
  for (int r = 0; r < kRows; ++r) sums[r] = set1(0.0f);
  int64_t i = 0;
  for (; i + 16 <= k; i += 16) {
    const F32x16 inputs = load(x + i);
    for (int r = 0; r < kRows; ++r) sums[r] = fma(load(w + r * k + i), inputs, sums[r]);
  }
  if (i < k) {
    const auto left = static_cast<size_t>(k - i) * sizeof(float);
    float tail[16] = {};
    float weights[16] = {};
    std::memcpy(tail, x + i, left);
    const F32x16 inputs = load(tail);
    for (int r = 0; r < kRows; ++r) {
      std::memcpy(weights, w + r * k + i, left);
      sums[r] = fma(load(weights), inputs, sums[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) y[r] = reduce_add(sums[r]);
}

void low_rank_in(const float* x, const float* w, int k, int rows, float* y) {
  int row = 0;
  for (; row + 4 <= rows; row += 4) low_rank_rows<4>(x, w + int64_t{row} * k, k, y + row);
  for (; row < rows; ++row) low_rank_rows<1>(x, w + int64_t{row} * k, k, y + row);
}

// kVectors * 16 outputs.
template <int kVectors>
void low_rank_outputs(const float* h, const float* w, int64_t stride, int rank, float* y) {
  F32x16 sums[kVectors];
  for (int v = 0; v < kVectors; ++v) sums[v] = set1(0.0f);
  for (int r = 0; r < rank; ++r) {
    const F32x16 factor = set1(h[r]);
    const float* const row = w + r * stride;
    for (int v = 0; v < kVectors; ++v) sums[v] = fma(factor, load(row + 16 * v), sums[v]);
  }
  for (int v = 0; v < kVectors; ++v) store(y + 16 * v, add(load(y + 16 * v), sums[v]));
}

void low_rank_out(const float* h, const float* w, int64_t stride, int rank, int n, float* y) {
  int i = 0;
  for (; i + 64 <= n; i += 64) low_rank_outputs<4>(h, w + i, stride, rank, y + i);
  for (; i + 16 <= n; i += 16) low_rank_outputs<1>(h, w + i, stride, rank, y + i);
  if (i == n) return;
  const auto left = static_cast<size_t>(n - i) * sizeof(float);
  float weights[16] = {};
  F32x16 sum = set1(0.0f);
  for (int r = 0; r < rank; ++r) {
    std::memcpy(weights, w + r * stride + i, left);
    sum = fma(set1(h[r]), load(weights), sum);
  }
  float tail[16] = {};
  std::memcpy(tail, y + i, left);
  store(tail, add(load(tail), sum));
  std::memcpy(y + i, tail, left);
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
