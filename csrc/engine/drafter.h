// Prompt-lookup speculation: guesses a request's next tokens from its own text, so that one step
// can verify several. Where the request's last tokens occurred before, what followed them then may
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

namespace gptoss {

// The rule for how much to guess. A step of T tokens takes 1 + kTokenCost (T - 1) times as long as
// one of a single token, so a guess pays if it is right more often than the step's tokens yield for
// the same time: p > kTokenCost * tokens / time. The more tokens a step has anyway, the likelier a
// guess must be: at 0.4, 40 % in a step of one request, 84 % in one of eight.
class StepYield {
 public:
  // Mostly experts that no other token of the step needs: by bytes 0.27 to 0.37 for gpt-oss-20b.
  // Timed at its size with random weights, on 2 CPU cores that others used too: steps of 4, 8 and
  // 16 tokens took 1.8, 3.1 and 4.6 times as long as one of a single token, 0.24 to 0.30 for each
  // further token, but the second alone 0.44. Single guesses are the most frequent, and on the
  // texts of bench_speculative.py 0.4 loses nowhere with either cost, and gains at most 1 % less
  // than 0.3.
  static constexpr double kTokenCost = 0.4;

  explicit StepYield(int tokens) : tokens_(tokens), time_(1.0 + kTokenCost * (tokens - 1)) {}

  // Adds a guess that is right with this probability to the step, or returns false.
  bool add(double probability) {
    if (probability * time_ <= kTokenCost * tokens_) return false;
    tokens_ += probability;
    time_ += kTokenCost;
    return true;
  }

 private:
  double tokens_;  // expected to stand
  double time_;    // of a step of one token
};

class Drafter {
 public:
  // Guesses at a time. More gain little even where all are right (24: 3 %), and steps of 16 tokens
  // fit the KV cache's pages, which they must not cross (Engine::add_drafts).
  static constexpr int kMaxTokens = 15;

  // Indexes a prompt.
  explicit Drafter(std::span<const int32_t> prompt);

  // The request has one more token, the last of `tokens`.
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
