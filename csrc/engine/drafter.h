// Prompt-lookup speculation: guesses a sequence's next tokens from its own text, so that one step
// can verify several. Where its last tokens occurred before, what followed them then may
// follow again: quotations, edited files, repeated names.
//
// A guess changes no result. Tokens are chosen from logits that do not depend on how many rows are
// computed together, each with its own random number, and a guess that differs is dropped.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace gptoss {

// The rule for how much to guess. A guess pays if it is right more often than the step's tokens
// yield for the same time: p > per_token * tokens / time. The more tokens a step has anyway, the
// likelier a guess must be: where a further token costs 0.4 steps of one token, 40 % in a step of
// one sequence, 84 % in one of eight.
class StepYield {
 public:
  StepYield(const StepCost& cost, int tokens)
      : tokens_(tokens), time_(cost.of(tokens)), per_token_(cost.per_token) {}

  // Adds a guess that is right with this probability to the step, or returns false.
  bool add(double probability) {
    if (probability * time_ <= per_token_ * tokens_) return false;
    tokens_ += probability;
    time_ += per_token_;
    return true;
  }

 private:
  double tokens_;  // expected to stand
  double time_;
  double per_token_;
};

class Drafter {
 public:
  // Guesses at a time. More gain little even where all are right (24: 3 %), and steps of 16 tokens
  // fit the KV cache's pages, which they must not cross (Scheduler::add_drafts).
  static constexpr int kMaxTokens = 15;

  // Indexes a prompt.
  explicit Drafter(std::span<const int32_t> prompt);

  // The sequence has one more token, the last of `tokens`.
  void push(std::span<const int32_t> tokens);

  // The tokens that may follow `tokens`: as many as pay in the step, which they are added to, and
  // no more than `limit`.
  std::vector<int32_t> draft(std::span<const int32_t> tokens, int limit, StepYield& step) const;

 private:
  struct Match {
    size_t next = 0;  // index of the token after the earlier occurrence of the last `length` ones
    int length = 0;   // 0: there is none
  };

  size_t slot(std::span<const int32_t> gram) const;
  void reserve(std::span<const int32_t> tokens);
  void index(std::span<const int32_t> tokens, size_t next);
  Match look_up(std::span<const int32_t> tokens) const;

  // Where the tokens of a hash occurred last: the index of the token after them. Lossy: of two that
  // meet in a slot, the later stays.
  std::vector<int32_t> slots_;
  Match match_;
  // How often the token after a match was right lately, by the match's length. Learnt from every
  // token of the output, whether it was guessed in a step or not: it costs nothing to look.
  std::array<float, 6> hit_rates_;
};

}  // namespace gptoss
