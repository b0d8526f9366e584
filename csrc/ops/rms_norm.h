// y = x / sqrt(mean(x^2) + eps) * weight, row by row
//   x      (T, N)  f32  row-major
//   weight (N)     f32
//   y      (T, N)  f32  overwritten; may be x
// Requires T, N >= 1, eps >= 0.  Accumulates in f32.
#pragma once

#include "core/check.h"

namespace gptoss::ops {

struct RmsNorm {
  const float* x;
  const float* weight;
  float* y;
  int tokens, n;
  float eps;
};

inline void validate(const RmsNorm& op) {
  check(op.tokens >= 1 && op.n >= 1, "[rms_norm] x must not be empty, got (", op.tokens, ", ", op.n,
        ")");
  check(op.eps >= 0.0f, "[rms_norm] eps must not be negative, got ", op.eps);
}

}  // namespace gptoss::ops
