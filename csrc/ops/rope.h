// Rotary embedding: rotates pairs (i, i + D/2) of every head by the angle of its token's position.
//   x         (T, H, D)  f32  in place
//   positions (T)        i32  >= 0
// inv_i = theta^(-2i/D), interpolated as YaRN does where factor > 1; cos and sin are then scaled
// by 0.1 ln(factor) + 1. Angles, sines and cosines are computed in double, applied in f32.
// Requires D even, theta > 1, factor >= 1.  Source: arXiv 2309.00071 and the gpt-oss config.
#pragma once

#include <cstdint>
#include <vector>

#include "core/check.h"
#include "model/config.h"

namespace gptoss::ops {

struct Rope {
  float* x;
  const int32_t* positions;
  int tokens, heads, head_dim;
  RopeConfig config;
};

inline void validate(const Rope& op) {
  check(op.tokens >= 1 && op.heads >= 1, "[rope] x must not be empty, got (", op.tokens, ", ",
        op.heads, ", ", op.head_dim, ")");
  check(op.head_dim >= 2 && op.head_dim % 2 == 0, "[rope] head_dim must be even, got ",
        op.head_dim);
  check(op.config.theta > 1.0, "[rope] theta must be above 1, got ", op.config.theta);
  check(op.config.factor >= 1.0, "[rope] factor must be at least 1, got ", op.config.factor);
}

inline void validate_values(const Rope& op) {
  for (int t = 0; t < op.tokens; ++t) {
    check(op.positions[t] >= 0, "[rope] positions must not be negative, got ", op.positions[t]);
  }
}

// The rotation of one position, for any position: angles are position * inverse_frequency[i].
struct RopeTable {
  explicit RopeTable(const RopeConfig& config, int head_dim);
  // cos, sin (D/2) f32, both times the concentration.
  void rotation(int position, float* cos, float* sin) const;

  std::vector<double> inverse_frequencies;  // (D/2)
  double concentration = 1.0;
};

}  // namespace gptoss::ops
