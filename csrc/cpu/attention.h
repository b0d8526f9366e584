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

// What the softmax of banded_attention gives to each key and to the sink, for those who look
// inside: computed once more from the query and from what the cache holds, in f64.
struct AttentionShares {
  const float* q;  // (T, H, D), rows q_stride apart
  int64_t q_stride;
  const float* sinks;              // (H)
  std::span<const int32_t> rows;   // of q, of one sequence
  std::span<const int> positions;  // (T)
  int heads, window;               // window 0: all earlier keys
  int keys;                        // columns: without a window positions 0 to keys - 1, else the
                                   // last `keys` positions up to the row's own
  float scale;
  KvPages kv;
  float* out;  // (rows, H, keys + 1): the sink's share comes last
};

void attention_shares(ThreadPool& pool, const AttentionShares& shares);

}  // namespace gptoss::cpu
