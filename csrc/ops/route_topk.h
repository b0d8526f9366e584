// Picks each token's experts and their weights.
//   logits  (T, E)  f32
//   experts (T, A)  i32  overwritten: the A largest logits, largest first; ties: lower index first
//   weights (T, A)  f32  overwritten: softmax over those A logits
// Requires 1 <= A <= E.  NaN logits rank below all others.
#pragma once

#include <cstdint>

#include "core/check.h"

namespace gptoss::ops {

struct RouteTopk {
  const float* logits;
  int32_t* experts;
  float* weights;
  int tokens, n_experts, n_active;
};

inline void validate(const RouteTopk& op) {
  check(op.tokens >= 1, "[route_topk] logits must not be empty");
  check(op.n_active >= 1 && op.n_active <= op.n_experts,
        "[route_topk] top_k must be between 1 and E = ", op.n_experts, ", got ", op.n_active);
}

}  // namespace gptoss::ops
