#include "engine/scheduler.h"

#include <algorithm>
#include <utility>

namespace gptoss {
namespace {

// Guesses in a step, over all sequences. Bounds their logits: 0.8 MB each with the published
// vocabulary.
constexpr int kMaxStepGuesses = 48;

// A prompt is never cut into less than this while something decodes: a step has a cost of its own.
constexpr int kMinChunkTokens = 16;

// A sequence waits for another to compute their common beginning if that saves it so many tokens,
// or its whole prompt: about what a step costs in which it could have begun.
constexpr int kWorthWaitingTokens = 16;

// Waiting sequences that are looked at in a step. Those behind have no place to run in anyway,
// unless all before them wait for a prefix.
constexpr size_t kWaitingWindow = 64;

// The token that a step would choose is not wanted any more: the sequence is full.
bool is_complete(const Sequence& sequence, int context_length) {
  const int generated = sequence.generated() + sequence.ahead;
  const int limit = sequence.params->stop.max_tokens;
  return sequence.is_continued() && sequence.ahead > 0 &&
         ((limit >= 0 && generated >= limit) || sequence.length() >= context_length);
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, KvCache& kv, DraftSource* drafts)
    : options_(options), kv_(kv), drafts_(drafts) {
  // The lowest slot is handed out first.
  for (int slot = options_.limits.max_sequences - 1; slot >= 0; --slot) {
    free_slots_.push_back(slot);
  }
}

bool Scheduler::can_run(const Sequence& sequence) const {
  return !sequence.ended && !sequence.drafted && sequence.pending() > 0 &&
         !is_complete(sequence, options_.context_length);
}

void Scheduler::preempt(size_t index, StepPlan& plan) {
  auto sequence = std::move(running_[index]);
  running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(index));
  std::erase_if(plan.slices, [&](const Slice& slice) { return slice.sequence == sequence.get(); });
  kv_.release(sequence->pages);
  plan.closed_slots.push_back(sequence->slot);
  free_slots_.push_back(std::exchange(sequence->slot, -1));
  sequence->computed = sequence->submitted = 0;
  waiting_.push_front(std::move(sequence));
  ++preemptions;
}

// Pages for `length` tokens of a running sequence, taken from those admitted after it if need be.
// False if the sequence itself was the last and had to go, or if steps in flight would have to end
// first.
bool Scheduler::make_room(Sequence& sequence, int length, bool steps_in_flight, StepPlan& plan) {
  while (!kv_.extend(sequence.pages, length)) {
    if (steps_in_flight) return false;
    const bool is_last = running_.back().get() == &sequence;
    preempt(running_.size() - 1, plan);
    if (is_last) return false;
  }
  return true;
}

void Scheduler::remove(Sequence& sequence, bool keep) {
  if (keep && options_.prefix_cache && sequence.target == nullptr) {
    kv_.finish(sequence.pages, sequence.tokens, sequence.computed);
  } else {
    kv_.release(sequence.pages);
  }
  if (sequence.slot >= 0) free_slots_.push_back(sequence.slot);
  const auto is_it = [&](const auto& other) { return other.get() == &sequence; };
  if (std::erase_if(running_, is_it) == 0) std::erase_if(waiting_, is_it);
}

// Whether a running sequence is about to compute more of this one's beginning than is cached. That
// one never waits for anything but its turn, and this one goes on once it has it, or is gone. Those
// that overtake it meanwhile have less in common with it, so it does not wait for them next.
bool Scheduler::waits_for_prefix(const Sequence& sequence) const {
  if (!options_.prefix_cache || sequence.is_scored()) return false;
  const auto needed = std::span(sequence.tokens).first(sequence.tokens.size() - 1);
  int shared = 0;
  for (const auto& other : running_) {
    if (other->ended || other->computed >= other->prompt_length || other->target != nullptr ||
        other->params->salt != sequence.params->salt) {
      continue;
    }
    const auto common = static_cast<int>(common_length(needed, other->tokens));
    if (common > other->computed) shared = std::max(shared, common);
  }
  if (shared == 0) return false;
  const int saved = shared - kv_.known_length(needed, sequence.params->salt);
  return saved >= kWorthWaitingTokens ||
         (saved > 0 && static_cast<size_t>(shared) == needed.size());
}

// How much of the budget prompts may have: while something decodes, as much as keeps the step
// within its bound.
int Scheduler::prompt_budget(int budget) const {
  const auto decoding =
      static_cast<double>(std::count_if(running_.begin(), running_.end(), [](const auto& sequence) {
        return !sequence->ended && sequence->submitted >= sequence->prompt_length &&
               sequence->is_continued();
      }));
  if (decoding == 0) return budget;
  const StepCost& cost = options_.cost;
  const double bound = options_.prompt_step_ratio * cost.of(decoding);
  const double tokens = cost.per_token > 0 ? (bound - cost.fixed) / cost.per_token - decoding
                                           : static_cast<double>(budget);
  return std::min(budget, std::max(kMinChunkTokens, static_cast<int>(std::min(tokens, 1e6))));
}

// How many of a sequence's pending tokens a step can have.
int Scheduler::chunk(const Sequence& sequence, int budget, int rows) const {
  int tokens = std::min(sequence.pending(), budget);
  if (sequence.target != nullptr) tokens = std::min(tokens, sequence.target->chunk_tokens);
  if (!sequence.is_scored()) return rows > 0 ? tokens : std::min(tokens, sequence.pending() - 1);
  // As far as there are rows for the positions that are wanted.
  if (sequence.target == nullptr) return std::min(tokens, rows);
  const std::vector<int32_t>& wanted = sequence.target->positions;
  const auto first = std::lower_bound(wanted.begin(), wanted.end(), sequence.submitted);
  if (wanted.end() - first <= rows) return tokens;
  return std::min(tokens, first[rows] - sequence.submitted);
}

// Adds `tokens` of a sequence to the step; returns them.
int Scheduler::add_slice(Sequence& sequence, int tokens, int& rows, StepPlan& plan) const {
  Slice slice = {.sequence = &sequence, .first = sequence.submitted, .tokens = tokens};
  const int end = slice.first + tokens;
  if (sequence.target != nullptr) {
    for (const int32_t position : sequence.target->positions) {
      if (position >= slice.first && position < end) slice.scored.push_back(position);
    }
  } else if (sequence.params->prompt_logprobs >= 0) {
    for (int p = slice.first; p < std::min(end, sequence.prompt_length - 1); ++p) {
      slice.scored.push_back(p);
    }
  }
  slice.samples = end == sequence.length() && sequence.is_continued();
  rows -= static_cast<int>(slice.scored.size()) + (slice.samples ? 1 : 0);
  plan.slices.push_back(std::move(slice));
  return tokens;
}

// Pages, a slot and a place among those that run for a waiting sequence and its next tokens; only
// into free pages: an older sequence is never disturbed by a newer one. All pages of the prompt
// must be there, otherwise two partly prefilled prompts could deadlock on pages.
bool Scheduler::admit(Sequence& sequence, int tokens, StepPlan& plan) {
  const int pages = KvCache::pages_for(static_cast<int>(sequence.tokens.size()) + 1) -
                    KvCache::pages_for(sequence.submitted);
  if (pages > kv_.available_pages(0) || !kv_.extend(sequence.pages, sequence.submitted + tokens)) {
    return false;
  }
  if (sequence.cached_tokens < 0) {
    sequence.cached_tokens = sequence.submitted;
    cached_tokens += sequence.submitted;
    requested_tokens += sequence.prompt_length;
  }
  sequence.slot = free_slots_.back();
  free_slots_.pop_back();
  plan.opened.push_back(&sequence);
  return true;
}

StepPlan Scheduler::next(bool steps_in_flight) {
  int budget = options_.limits.max_tokens;
  int rows = options_.limits.max_logit_rows;
  StepPlan plan;
  // Sequences that are decoding come first: one token each. Then prompts, oldest first.
  for (const bool decoding : {true, false}) {
    if (!decoding) budget = prompt_budget(budget);
    for (size_t i = 0; i < running_.size() && budget > 0; ++i) {
      Sequence& sequence = *running_[i];
      if (!can_run(sequence)) continue;
      const bool decodes = sequence.pending() == 1 && !sequence.is_scored();
      if (decodes != decoding) continue;
      const int tokens = chunk(sequence, budget, rows);
      if (tokens <= 0) continue;
      if (!make_room(sequence, sequence.submitted + tokens, steps_in_flight, plan)) {
        // What it lacks, steps in flight may give back: it is not to be overtaken meanwhile.
        if (steps_in_flight) return {};
        break;
      }
      budget -= add_slice(sequence, tokens, rows, plan);
    }
  }
  size_t looked_at = 0;
  for (size_t i = 0; i < waiting_.size() && budget > 0 && rows > 0 && !free_slots_.empty() &&
                     looked_at < kWaitingWindow;
       ++looked_at) {
    Sequence& sequence = *waiting_[i];
    // A slot that was closed for this step cannot be opened in it before; and pages that a
    // preempted sequence gave back go to whoever needed them.
    if (waits_for_prefix(sequence)) {
      ++i;
      continue;
    }
    if (options_.prefix_cache && !sequence.is_scored()) {
      sequence.submitted = kv_.reuse(sequence.pages, sequence.tokens, sequence.params->salt);
    }
    sequence.computed = sequence.submitted;
    sequence.pages.salt = sequence.params->salt;
    sequence.pages.border = sequence.prompt_length;
    const int tokens = chunk(sequence, budget, rows);
    if (tokens <= 0 || !admit(sequence, tokens, plan)) {
      kv_.release(sequence.pages);
      sequence.computed = sequence.submitted = 0;
      break;
    }
    running_.push_back(std::move(waiting_[i]));
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    budget -= add_slice(*running_.back(), tokens, rows, plan);
  }
  add_drafts(plan, budget, rows);
  int row = 0;
  for (Slice& slice : plan.slices) {
    slice.first_row = row;
    row += static_cast<int>(slice.scored.size());
    if (slice.samples) row += 1 + static_cast<int>(slice.draft.size());
  }
  return plan;
}

// Guesses take nothing from anybody: no token of the step's budget that a prompt could have, and no
// page. They end with the page of the token before them, so that a wrong guess leaves nothing but
// values that are overwritten, and no window has moved on too far. Where a constraint masks or
// forces a token, it is not guessed.
void Scheduler::add_drafts(StepPlan& plan, int budget, int rows) const {
  if (drafts_ == nullptr) return;
  int tokens = 0;
  for (const Slice& slice : plan.slices) tokens += slice.tokens;
  StepYield step(options_.cost, tokens);
  budget = std::min({budget, rows, kMaxStepGuesses});
  std::vector<DraftRow> draft_rows;
  std::vector<Slice*> drafted;
  for (Slice& slice : plan.slices) {
    const Sequence& sequence = *slice.sequence;
    if (!slice.samples || slice.tokens != 1 || sequence.ahead > 0 || sequence.is_scored()) continue;
    const int length = static_cast<int>(sequence.tokens.size());
    int limit =
        std::min(kPageTokens - 1 - slice.first % kPageTokens, options_.context_length - length - 1);
    if (sequence.params->stop.max_tokens >= 0) {
      limit = std::min(limit, sequence.params->stop.max_tokens - sequence.generated() - 1);
    }
    if (sequence.generated() < sequence.params->stop.min_tokens) limit = 0;
    if (sequence.constrained) limit = std::min(limit, sequence.free - 1);
    if (limit <= 0) continue;
    draft_rows.push_back({sequence.id, sequence.tokens, std::min(limit, budget), {}});
    drafted.push_back(&slice);
  }
  drafts_->propose(draft_rows, step);
  for (size_t i = 0; i < draft_rows.size(); ++i) {
    auto& guesses = draft_rows[i].guesses;
    if (guesses.size() > static_cast<size_t>(budget)) guesses.resize(static_cast<size_t>(budget));
    budget -= static_cast<int>(guesses.size());
    drafted[i]->draft = std::move(guesses);
  }
}

void Scheduler::advance(const StepPlan& plan) {
  for (const Slice& slice : plan.slices) {
    Sequence& sequence = *slice.sequence;
    sequence.submitted = slice.first + slice.tokens;
    if (slice.samples) ++sequence.ahead;
    sequence.drafted = !slice.draft.empty();
    ++sequence.in_flight;
  }
}

}  // namespace gptoss
