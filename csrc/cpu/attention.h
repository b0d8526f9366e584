// Banded attention over paged keys and values, shared out to threads.
#pragma once

#include <span>
#include <vector>

#include "core/thread_pool.h"
#include "cpu/kernels/kernels.h"

namespace gptoss::cpu {

struct AttentionSequence {
  int token_begin, tokens;  // its query tokens in the batch
  int first_position;
  KvPages kv;
};

struct AttentionBatch {
  const float* q;  // (T, H, D), rows q_stride apart
  int64_t q_stride;
  const float* sinks;  // (H), nullable
  float* out;          // (T, H*D)
  int heads, kv_heads, head_dim;
  int window;  // 0: all earlier keys
  float scale;
  std::span<const AttentionSequence> sequences;
};

void banded_attention(const Kernels& kernels, ThreadPool& pool, const AttentionBatch& batch);

}  // namespace gptoss::cpu
