// y = x @ w^T + bias
//   x    (T, K)  f32   row-major
//   w    (N, K)  bf16  row-major
//   bias (N)     f32   nullable
//   y    (T, N)  f32   overwritten; must not alias x
// Requires T, N, K >= 1.  Accumulates in f32: 16 lanes over K, then a tree. With `fast`, as the
// instruction set does it best: where that is bf16 products, x is split into two bf16 or rounded to
// one first.
#pragma once

#include <cstdint>

#include "core/check.h"

namespace gptoss::ops {

struct DenseMatmul {
  const float* x;
  const uint16_t* w;
  const float* bias;
  float* y;
  int tokens, n, k;
  bool fast;
};

inline void validate(const DenseMatmul& op) {
  check(op.tokens >= 1 && op.n >= 1 && op.k >= 1,
        "[dense_matmul] T, N and K must be at least 1, got ", op.tokens, ", ", op.n, ", ", op.k);
}

}  // namespace gptoss::ops
