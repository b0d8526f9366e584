// Sorts (token, choice) pairs by expert and gathers their rows, so that each expert's weights are
// read once for all of its tokens. Stable: within an expert, pairs keep their order.
//   x        (T, N)    f32
//   experts  (T, A)    i32  in [0, E)
//   rows     (T*A, N)  f32  overwritten, nullable: x of each pair's token, sorted by expert
//   pairs    (T*A)     i32  overwritten: t * A + a of each sorted row
//   offsets  (E + 1)   i32  overwritten: expert e has sorted rows [offsets[e], offsets[e+1])
#pragma once

#include <cstdint>

#include "core/check.h"

namespace gptoss::ops {

struct ExpertGather {
  const float* x;
  const int32_t* experts;
  float* rows;
  int32_t* pairs;
  int32_t* offsets;
  int tokens, n, n_experts, n_active;
};

inline void validate(const ExpertGather& op) {
  check(op.tokens >= 1 && op.n >= 1 && op.n_active >= 1,
        "[expert_gather] x and experts must not be empty");
}

inline void validate_values(const ExpertGather& op) {
  for (int i = 0; i < op.tokens * op.n_active; ++i) {
    check(op.experts[i] >= 0 && op.experts[i] < op.n_experts,
          "[expert_gather] experts must lie in [0, ", op.n_experts, "), got ", op.experts[i]);
  }
}

}  // namespace gptoss::ops
