#include "engine/sampler.h"

#include <stdexcept>

#include "cpu/isa/isa.h"
#include "cpu/sample.h"

namespace gptoss {

Sample sample(std::span<const float> logits, const SamplingParams& params,
              const TokenCounts& counts, uint64_t token_index) {
  const ops::SamplingRule rule = {.temperature = params.temperature,
                                  .top_p = params.top_p,
                                  .min_p = params.min_p,
                                  .top_k = params.top_k,
                                  .repetition_penalty = params.repetition_penalty,
                                  .presence_penalty = params.presence_penalty,
                                  .frequency_penalty = params.frequency_penalty,
                                  .seed = params.seed,
                                  .n_logprobs = params.logprobs};
  std::vector<TokenBias> biases;
  for (const auto& [token, bias] : params.logit_bias) biases.push_back({token, bias});
  std::vector<TokenCount> seen;
  if (ops::has_penalties(rule)) {
    for (const auto& [token, count] : counts.items()) seen.push_back({token, count});
  }
  const ops::SampleRow row = {.logits = logits.data(),
                              .vocab_size = static_cast<int32_t>(logits.size()),
                              .rule = &rule,
                              .index = token_index,
                              .counts = seen,
                              .biases = biases};
  ops::validate(row);
  thread_local cpu::SampleScratch scratch;
  static const cpu::Kernels& kernels = cpu::select_kernels();
  const ops::SampledRow chosen = cpu::sample(kernels, row, scratch);
  if (chosen.status != ops::SampleStatus::ok) {
    throw std::runtime_error(
        "the logits are not finite: the checkpoint is damaged or its values are out of range");
  }
  return {chosen.token, chosen.logprob, {chosen.top, chosen.top + chosen.n_top}};
}

}  // namespace gptoss
