// y = x @ w^T + bias, w = codes * scales / 2; or, of q8_0, w = codes * scales
//   x      (T, K)     f32   row-major; rounded to int8 first, 32 elements to a scale
//                           (largest / 127), unless `exact`
//   codes  (N, K)     i8    in [-127, 127], ordered as q8_encode writes them; of q8_0 from -128 on
//   scales (N, K/32)  bf16, of q8_0 f16
//   bias   (N)        f32   nullable
//   y      (T, N)     f32   overwritten; must not alias x
// Requires T, N >= 1, K % 32 == 0; `exact` goes with q8_0. Products within a block of 32 are exact
// integers and sums over blocks f32, or all are f32 if `exact`.
#pragma once

#include <cstdint>

#include "core/check.h"
#include "core/q8.h"

namespace gptoss::ops {

// Rounds w (N, K) bf16 to the nearest code; a block's scale is its largest magnitude * 2 / 127,
// rounded up to bf16. A row's codes are in groups of four blocks, all elements with even index
// within their block before all with odd ones.
struct Q8Encode {
  const uint16_t* w;
  int8_t* codes;
  uint16_t* scales;
  int n, k;
};

struct Q8Matmul {
  const float* x;
  const int8_t* codes;
  const uint16_t* scales;
  const float* bias;
  float* y;
  int tokens, n, k;
  bool q8_0;   // the scales are f16 and not halved
  bool exact;  // x is not rounded
};

inline void validate(const Q8Encode& op) {
  check(op.n >= 1, "[q8_encode] N must be at least 1, got ", op.n);
  check(op.k >= 1 && op.k % kQ8Block == 0, "[q8_encode] K must be a multiple of ", kQ8Block,
        ", got ", op.k);
}

inline void validate(const Q8Matmul& op) {
  check(op.tokens >= 1 && op.n >= 1, "[q8_matmul] T and N must be at least 1, got ", op.tokens,
        ", ", op.n);
  check(op.k >= 1 && op.k % kQ8Block == 0, "[q8_matmul] K must be a multiple of ", kQ8Block,
        ", got ", op.k);
  check(op.q8_0 || !op.exact, "[q8_matmul] exact goes with float16 scales only");
}

}  // namespace gptoss::ops
