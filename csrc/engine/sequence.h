// What a request asks for, and one sequence of it while it is computed.
//
// A request is what a user submits; a sequence is what the scheduler runs: one continuation of the
// request's prompt, or a text to be scored.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/step.h"
#include "engine/kv_cache.h"
#include "ops/sample.h"

namespace gptoss {

// When a sequence ends.
struct StopRule {
  int max_tokens = -1;  // -1: when the context is full; 0: the prompt is only scored
  int min_tokens = 0;   // before so many no token of the next two lines is chosen
  std::vector<int32_t> token_ids;
  bool ignore_eos = false;
};

// A vector that is added to the residual stream after a layer, at every token.
struct Steering {
  int32_t layer;
  std::vector<float> vector;  // (hidden)
};

// A request's parameters, shared by its samples.
struct RequestParams {
  ops::SamplingRule rule;  // the seed is each sample's own
  StopRule stop;
  std::vector<TokenBias> biases;
  std::vector<int32_t> allowed_token_ids;  // empty: all
  int prompt_logprobs = -1;                // alternatives of every token of the prompt; -1: none
  uint64_t salt = 0;                       // pages are shared with sequences of the same salt
  int adapter = 0;                         // 0: none
  std::vector<Steering> steering;          // ascending layers
};

// What is inside the layers at some positions of a text. Arrays are (positions, ...), as Activation
// has it; null what is not wanted.
struct Trace {
  std::vector<int32_t> positions;                          // ascending
  std::vector<int32_t> layers;                             // ascending
  uint32_t activations;                                    // bits
  int keys;                                                // of attention, see attention_keys()
  std::vector<std::array<uint8_t*, kActivations>> arrays;  // [place of the layer][activation]
};

// What a text is computed for, instead of being continued: its raw logits, or what is inside.
struct ReadTarget {
  std::vector<int32_t> positions;  // of logits, ascending
  int chunk_tokens;                // most tokens of the text in a step
  float* logits;                   // (positions, V) f32
  std::shared_ptr<void> owner;     // keeps all arrays alive
  std::optional<Trace> trace = {};
};

struct Sequence {
  int64_t id;
  std::vector<int32_t> tokens;  // prompt, then output as far as it is known
  int prompt_length;
  std::shared_ptr<const RequestParams> params;
  ops::SamplingRule rule;  // with the sample's seed
  bool constrained = false;
  std::unique_ptr<ReadTarget> target;  // null: it is continued
  // Masks of its own: allowed_token_ids, and the same without what ends it, for min_tokens. Empty
  // where nothing is masked.
  std::shared_ptr<const std::vector<uint32_t>> allowed_mask, unending_mask;

  int slot = -1;  // while it runs
  SequencePages pages;
  int cached_tokens = -1;  // of the prompt, that came from other sequences; -1: not begun

  int computed = 0;         // tokens whose keys and values are known to be in its pages
  int submitted = 0;        // and those that will be when the steps in flight are done
  int ahead = 0;            // tokens that steps in flight choose
  int in_flight = 0;        // steps in flight that it is part of
  bool drafted = false;     // one of them verifies guesses: how far it gets is not known yet
  bool ended = false;       // its last event has been made; it waits for its steps in flight
  bool keeps_pages = true;  // what it has computed may be cached when it is gone
  int stored_pages = 0;     // of its prompt, that a store seems to have
  bool offered = false;     // its prompt's pages have been, to the store

  int uncounted = 0;                           // forced tokens of the output that do not count
  int free = 0;                                // Verdict::free, less what was given since
  bool reported = false;                       // its prompt's log-probabilities have been delivered
  std::vector<ops::SampledRow> prompt_scores;  // [position]: of the token after it

  int length() const { return static_cast<int>(tokens.size()) + ahead; }
  int pending() const { return length() - submitted; }
  int generated() const { return static_cast<int>(tokens.size()) - prompt_length - uncounted; }
  // Logits of the tokens that come next are wanted for themselves.
  bool is_scored() const {
    return target != nullptr || (params->prompt_logprobs >= 0 && submitted < prompt_length);
  }
  // Its prompt may come from elsewhere than from computing it.
  bool is_cacheable() const { return target == nullptr && params->prompt_logprobs < 0; }
  bool is_continued() const { return target == nullptr && params->stop.max_tokens != 0; }
};

}  // namespace gptoss
