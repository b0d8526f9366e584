// y = x @ dequant(w)^T + bias
//   x      (T, K)         f32  row-major
//   blocks (N, K/32, 16)  u8   byte i: element 2i = low nibble, 2i+1 = high nibble
//   scales (N, K/32)      u8   E8M0: 2^(s-127)
//   bias   (N)            f32  nullable
//   y      (T, N)         f32  overwritten; must not alias x
// Requires T, N >= 1, K % kMxfp4BlockSize == 0.  Accumulates in f32: 16 lanes over K, then a tree.
// With int8_activations, x is first rounded to int8, 32 elements to a scale (largest magnitude /
// 127); products within a block are then exact integers, and only the sum over blocks is f32.
#pragma once

#include <cstdint>

#include "core/check.h"
#include "core/mxfp4.h"

namespace gptoss::ops {

struct Mxfp4Matmul {
  const float* x;
  const uint8_t* blocks;
  const uint8_t* scales;
  const float* bias;
  float* y;
  int tokens, n, k;
  bool int8_activations;
};

inline void validate(const Mxfp4Matmul& op) {
  check(op.tokens >= 1 && op.n >= 1, "[mxfp4_matmul] T and N must be at least 1, got ", op.tokens,
        ", ", op.n);
  check(op.k >= 1 && op.k % kMxfp4BlockSize == 0, "[mxfp4_matmul] K must be a multiple of ",
        kMxfp4BlockSize, ", got ", op.k);
}

}  // namespace gptoss::ops
