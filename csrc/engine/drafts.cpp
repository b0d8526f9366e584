#include "engine/drafts.h"

namespace gptoss {

void NgramDrafts::begin(int64_t sequence, std::span<const int32_t> tokens) {
  drafters_.try_emplace(sequence, tokens);
}

void NgramDrafts::propose(std::span<DraftRow> rows, StepYield& step) {
  for (DraftRow& row : rows) {
    row.guesses = drafters_.at(row.sequence).draft(row.tokens, row.limit, step);
  }
}

void NgramDrafts::observe(int64_t sequence, std::span<const int32_t> tokens, int count) {
  Drafter& drafter = drafters_.at(sequence);
  for (int i = count - 1; i >= 0; --i) {
    drafter.push(tokens.first(tokens.size() - static_cast<size_t>(i)));
  }
}

}  // namespace gptoss
