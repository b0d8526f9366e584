// Softmax attention with grouped heads, a causal band and learned sinks.
//   q     (T, H, D)  f32  query t stands at position first_position + t
//   k, v  (S, G, D)  f32 or f16 (the same for both); key s stands at position s. With int8_cache
//                    f32, rounded to int8, one scale per token, head and k or v
//   sinks (H)        f32  nullable: a logit that takes part in the softmax and has no value
//   out   (T, H, D)  f32  overwritten; must not alias
// Key s is visible to position p iff s <= p and (window == 0 or s > p - window). Query head h uses
// key/value head h / (H/G). out = sum_s softmax([scale q.k, sink])_s v_s.
// Requires H % G == 0, D a multiple of 16 up to kMaxHeadDim, first_position + T <= S.
// Accumulates in f32: running softmax over pages of 64 keys, merged every 512 keys.
#pragma once

#include <cstdint>

#include "core/check.h"

namespace gptoss::ops {

inline constexpr int kMaxHeadDim = 256;

struct BandedAttention {
  const float* q;
  const void* k;
  const void* v;
  const float* sinks;
  float* out;
  int tokens, keys;
  int heads, kv_heads, head_dim;
  int first_position;
  int window;
  float scale;
  bool half;        // k and v are f16
  bool int8_cache;  // not with half
};

inline void validate(const BandedAttention& op) {
  check(op.tokens >= 1 && op.keys >= 1, "[banded_attention] T and S must be at least 1, got ",
        op.tokens, ", ", op.keys);
  check(op.kv_heads >= 1 && op.heads >= 1 && op.heads % op.kv_heads == 0,
        "[banded_attention] H must be a multiple of G, got ", op.heads, " and ", op.kv_heads);
  check(op.head_dim >= 16 && op.head_dim % 16 == 0 && op.head_dim <= kMaxHeadDim,
        "[banded_attention] D must be a multiple of 16 up to ", kMaxHeadDim, ", got ", op.head_dim);
  check(!(op.half && op.int8_cache), "[banded_attention] an int8 cache takes f32 keys and values");
  check(op.window >= 0, "[banded_attention] window must not be negative, got ", op.window);
  check(op.first_position >= 0 && op.first_position + op.tokens <= op.keys,
        "[banded_attention] queries at positions ", op.first_position, " to ",
        op.first_position + op.tokens - 1, " need as many keys, got ", op.keys);
}

}  // namespace gptoss::ops
