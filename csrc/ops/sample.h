// placeholder until the sampling branch lands (same names)
#pragma once
#include <cstdint>
#include <span>
namespace gptoss {
inline constexpr int kMaxLogprobs = 20;
struct TokenLogprob {
  int32_t token;
  float logprob;
};
struct TokenBias {
  int32_t token;
  float bias;
};
struct TokenCount {
  int32_t token;
  int32_t count;
};
namespace ops {
struct SamplingRule {
  float temperature = 1.0f, top_p = 1.0f, min_p = 0.0f;
  int32_t top_k = 0;
  float repetition_penalty = 1.0f, presence_penalty = 0.0f, frequency_penalty = 0.0f;
  uint64_t seed = 0;
  int32_t n_logprobs = -1;
};
struct SampleRow {
  const float* logits;
  int32_t vocab_size;
  const SamplingRule* rule;
  uint64_t index;
  std::span<const TokenCount> counts;
  std::span<const TokenBias> biases;
  const uint32_t* mask = nullptr;
  int32_t target = -1;
};
enum class SampleStatus : uint8_t { ok, non_finite, empty_mask };
struct SampledRow {
  int32_t token;
  float logprob;
  int32_t n_top;
  TokenLogprob top[kMaxLogprobs];
  SampleStatus status;
};
inline bool has_penalties(const SamplingRule& r) { return r.repetition_penalty != 1.0f || r.presence_penalty != 0.0f || r.frequency_penalty != 0.0f; }
}  // namespace ops
}  // namespace gptoss
