// Decides what the next step computes: a function of its queues, the pages and the steps in flight.
// It computes nothing itself.
//
// Each step gives every running sequence its next token and spends what is left of the step's
// budget on prompts, in the order in which they came. A sequence is its tokens and how many of them
// the KV cache has seen; prefilling, decoding and recomputing after preemption are the same thing.
// What two prompts have in common is computed once, even if they come at the same time: the later
// one waits until the earlier one has it. With a source of drafts a step may also verify guesses,
// if it has room for them when all else is served.
//
// A step may be planned before the host has seen the tokens of those in flight: a sequence goes on
// from what its slot sampled last. What steps in flight may still read or write stays theirs:
// nobody is preempted for a step that could wait for them.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "engine/drafts.h"
#include "engine/kv_cache.h"
#include "engine/sequence.h"

namespace gptoss {

struct SchedulerOptions {
  StepLimits limits;
  int context_length;
  bool prefix_cache = true;
  StepCost cost;
  // While something decodes, prompts are cut so that a step takes no longer than so many steps
  // without them would.
  double prompt_step_ratio = 4.0;
};

// A sequence's part of a step.
struct Slice {
  Sequence* sequence;
  int first;                         // position of its first token here
  int tokens;                        // tokens, without guesses
  std::vector<int32_t> draft = {};   // guesses of the tokens that follow these
  std::vector<int32_t> scored = {};  // positions whose logits are wanted for themselves, ascending
  bool samples = false;  // the token after the last one, and after each guess, is to be chosen
  int first_row = 0;     // of the step's logit rows: those scored, then those sampled
};

struct StepPlan {
  std::vector<Slice> slices;
  std::vector<int> closed_slots;  // before the step: of preempted sequences
  std::vector<Sequence*> opened;  // before the step: those that begin, or go on after preemption

  bool empty() const { return slices.empty(); }
};

class Scheduler {
 public:
  // `drafts` may be null.
  Scheduler(const SchedulerOptions& options, KvCache& kv, DraftSource* drafts);

  void add(std::unique_ptr<Sequence> sequence) { waiting_.push_back(std::move(sequence)); }

  // The next step. Empty where nothing can be computed before a step in flight has been waited for.
  // Pages are taken at once; everything else of a sequence changes with advance().
  StepPlan next(bool steps_in_flight);
  // The plan has been submitted.
  static void advance(const StepPlan& plan);

  // Takes a sequence out and gives its slot and pages back; with none of its steps in flight. What
  // it has computed stays cached if `keep`.
  void remove(Sequence& sequence, bool keep);

  // In the order of admission, and of arrival.
  const std::vector<std::unique_ptr<Sequence>>& running() const { return running_; }
  const std::deque<std::unique_ptr<Sequence>>& waiting() const { return waiting_; }
  bool idle() const { return running_.empty() && waiting_.empty(); }

  // Counted since it was made.
  int64_t preemptions = 0;
  int64_t requested_tokens = 0, cached_tokens = 0;  // of prompts that have begun

 private:
  bool can_run(const Sequence& sequence) const;
  bool make_room(Sequence& sequence, int length, bool steps_in_flight, StepPlan& plan);
  bool waits_for_prefix(const Sequence& sequence) const;
  void preempt(size_t index, StepPlan& plan);
  bool admit(Sequence& sequence, int tokens, StepPlan& plan);
  int prompt_budget(int budget) const;
  int add_slice(Sequence& sequence, int tokens, int& rows, StepPlan& plan) const;
  int chunk(const Sequence& sequence, int budget, int rows) const;
  void add_drafts(StepPlan& plan, int budget, int rows) const;

  const SchedulerOptions options_;
  KvCache& kv_;
  DraftSource* const drafts_;
  std::vector<std::unique_ptr<Sequence>> running_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<int> free_slots_;
};

}  // namespace gptoss
