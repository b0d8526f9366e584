// h = g * sigmoid(1.702 g) * (u + 1), with g = min(gate, limit), u = clip(up, -limit, limit)
//   gate_up (T, 2I)  f32  interleaved: gate = [0::2], up = [1::2]
//   h       (T, I)   f32  overwritten; must not alias
// Requires T, I >= 1, limit > 0.
#pragma once

#include "core/check.h"

namespace gptoss::ops {

struct Swiglu {
  const float* gate_up;
  float* h;
  int tokens, n;
  float limit;
};

inline void validate(const Swiglu& op) {
  check(op.tokens >= 1 && op.n >= 1, "[swiglu] gate_up must not be empty");
  check(op.limit > 0.0f, "[swiglu] limit must be positive, got ", op.limit);
}

}  // namespace gptoss::ops
