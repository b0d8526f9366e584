// Chooses the next token from logits. Pure functions of their arguments: the random number of a
// token depends on the request's seed and the token's index alone.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ops/sample.h"

namespace gptoss {

struct SamplingParams {
  int max_tokens = 0;        // 0: until the context is full
  float temperature = 1.0f;  // 0: greedy
  float top_p = 1.0f;
  int top_k = 0;  // 0: all
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;  // over prompt and output
  float presence_penalty = 0.0f;    // over the output
  float frequency_penalty = 0.0f;   // over the output
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  uint64_t seed = 0;
  int logprobs = -1;  // alternatives reported besides the token's own, <= 20; -1: none at all
};

struct Sample {
  int32_t token;
  float logprob;                  // under the model's own softmax; 0 unless asked for
  std::vector<TokenLogprob> top;  // the most likely tokens, most likely first
};

// How often a request's tokens have occurred, for the penalties.
class TokenCounts {
 public:
  void add_prompt(int32_t token) { counts_[token]; }
  void add_output(int32_t token) { ++counts_[token]; }
  // Token -> occurrences in the output; tokens of the prompt alone have 0.
  const std::unordered_map<int32_t, int>& items() const { return counts_; }

 private:
  std::unordered_map<int32_t, int> counts_;
};

// ops/sample.h on logits (V) f32. Throws std::runtime_error for logits that are not finite.
Sample sample(std::span<const float> logits, const SamplingParams& params,
              const TokenCounts& counts, uint64_t token_index);

}  // namespace gptoss
