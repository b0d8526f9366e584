// What the engine tells those who wait for a sequence.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ops/sample.h"

namespace gptoss {

enum class FinishReason : uint8_t {
  none,
  stop,    // a stop token
  length,  // max_tokens, or the context is full
  abort,   // cancelled
  error,   // its own: the others go on
};

// How the tokens of an event came about.
enum class Origin : uint8_t {
  sampled,
  grammar,  // forced, and part of the answer
  format,   // forced, and not counted: a header, the end of the reasoning
};

struct Event {
  int64_t sequence = 0;
  std::vector<int32_t> tokens;
  Origin origin = Origin::sampled;
  FinishReason finish = FinishReason::none;
  int cached_tokens = 0;  // of the prompt, that did not have to be computed
  // By token, if asked for: its log-probability, and the likeliest alternatives.
  std::vector<float> logprobs;
  std::vector<std::vector<TokenLogprob>> top;
  // Of the prompt's tokens but the first, if asked for; in the sequence's first event after it has
  // been computed.
  std::vector<float> prompt_logprobs;
  std::vector<std::vector<TokenLogprob>> prompt_top;
  std::string error;
};

}  // namespace gptoss
