// Guesses of the tokens that follow, so that one step can verify several.
//
// A guess changes no result: tokens are chosen from logits that do not depend on how many rows are
// computed together, each with its own random number, and a guess that differs from the choice is
// dropped. Equality keeps outputs identical and needs no probabilities of the draft; it accepts
// less than rejection sampling would at temperature 1.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "backend/backend.h"
#include "engine/drafter.h"

namespace gptoss {

// A sequence that a step gives one token, and room for guesses after it.
struct DraftRow {
  int64_t sequence;
  std::span<const int32_t> tokens;  // prompt and output
  int limit;                        // guesses at most
  std::vector<int32_t> guesses;     // the answer
};

class DraftSource {
 public:
  virtual ~DraftSource() = default;

  virtual void begin(int64_t sequence, std::span<const int32_t> tokens) = 0;
  // Guesses for the whole batch, as far as they pay in the step.
  virtual void propose(std::span<DraftRow> rows, StepYield& step) = 0;
  // The sequence has these tokens now, of which the last `count` are new.
  virtual void observe(int64_t sequence, std::span<const int32_t> tokens, int count) = 0;
  virtual void end(int64_t sequence) = 0;
};

// Prompt lookup (engine/drafter.h).
class NgramDrafts final : public DraftSource {
 public:
  void begin(int64_t sequence, std::span<const int32_t> tokens) override;
  void propose(std::span<DraftRow> rows, StepYield& step) override;
  void observe(int64_t sequence, std::span<const int32_t> tokens, int count) override;
  void end(int64_t sequence) override { drafters_.erase(sequence); }

 private:
  std::unordered_map<int64_t, Drafter> drafters_;
};

}  // namespace gptoss
