// Serves sequences: token ids in, token ids out. Knows nothing of text.
//
// A step goes from the scheduler's plan to the backend and comes back as events. With a backend
// that can have several steps in flight, one is submitted before the tokens of the one before are
// known; what a constraint has to say about a step comes between its submission and its sampling:
//   submit(t+1) -> wait(t) -> accept(t), masks of t+1 -> sample(t+1)
//
// With a store of pages, a sequence whose prompt the KV cache does not have is held back until the
// store has said what it has of it; those that it holds meanwhile are not touched. Pages come and
// go between steps, a few at a time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "backend/backend.h"
#include "core/mapped_file.h"
#include "engine/constraint.h"
#include "engine/drafts.h"
#include "engine/events.h"
#include "engine/kv_cache.h"
#include "engine/page_store.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"

namespace gptoss {

struct EngineOptions {
  int context_length = 0;       // tokens of a sequence, prompt and output; 0: as many as fit
  int max_step_tokens = 512;    // new tokens in a step, over all sequences
  int max_sequences = 16;       // running at a time
  bool prefix_cache = true;     // take over what earlier sequences computed of the same beginning
  int64_t kv_memory_bytes = 0;  // for the pages that see everything; 0: from free memory
  bool speculative = false;     // guess tokens from the text, and verify several in a step
  MappedFiles files = {};       // of the weights: checked before and after what is computed
  int max_steps_ahead = -1;     // at most what the backend can; -1: that, and 0 if speculative
};

// Tokens per second of computing.
class Rate {
 public:
  void add(int tokens, double seconds);
  double overall_tps() const { return per_second(total_); }
  double recent_tps() const;  // over the last kRecentSteps

 private:
  static constexpr size_t kRecentSteps = 64;
  struct Work {
    int64_t tokens = 0;
    double seconds = 0;
  };
  static double per_second(const Work& work) {
    return work.seconds > 0 ? static_cast<double>(work.tokens) / work.seconds : 0.0;
  }

  Work total_;
  std::array<Work, kRecentSteps> recent_{};  // a ring
  size_t next_ = 0;
};

// Pages of a KV group; the rest is in use.
struct PageStats {
  int total;
  int free;    // hold nothing
  int cached;  // hold what no running sequence uses: free as soon as they are needed
  int64_t page_bytes;
};

struct EngineStats {
  int running, waiting;
  std::vector<PageStats> pages;  // [group]
  int64_t steps;                 // computed so far
  int64_t preemptions;
  int64_t submitted_sequences;
  int64_t prompt_tokens, generated_tokens;  // computed so far, recomputed ones again
  int64_t requested_tokens;                 // of the prompts of all sequences that have begun
  int64_t cached_tokens;  // of them, not computed, because an earlier sequence had been
  int64_t drafted_tokens, accepted_tokens;  // guessed, and of them those that stood
  Rate prefill;                             // tokens of prompts, in the steps that computed any
  Rate decode;                              // generated tokens, in the other steps
  PhaseSeconds phases;                      // of all steps
};

class Engine {
 public:
  // Throws OutOfMemory if the KV cache for one sequence of context_length cannot fit.
  Engine(std::unique_ptr<Backend> backend, ModelConfig config, std::vector<int32_t> eos_token_ids,
         const EngineOptions& options);
  ~Engine();

  const ModelConfig& config() const { return config_; }
  const Backend& backend() const { return *backend_; }
  const MemoryPlan& memory() const { return memory_; }
  int context_length() const { return options_.context_length; }
  int max_step_tokens() const { return options_.max_step_tokens; }
  int max_sequences() const { return options_.max_sequences; }
  // Rows of logits that a step may have.
  static int logit_rows(int max_sequences);

  // Who is asked about constrained sequences, in the thread that calls step(). Before the first of
  // them is submitted.
  void set_constraints(Constraints* constraints) { constraints_ = constraints; }

  // Where complete pages are kept beyond this engine. Before the first sequence is submitted.
  void set_page_store(PageStore* store) { store_ = store; }
  // What the store has found. Throws std::invalid_argument if a page has the wrong size. May be
  // called while another thread is in step().
  void deliver(FoundPages found);
  // What the store has room for; given to it in the next step. Likewise.
  void want(WantedPages wanted);

  // Gives the device an adapter under an id that was never used before, 1 or more. An event of
  // `sequence`, an id as of a sequence, says when it is there, or why it cannot be. May be called
  // while another thread is in step(). Throws BackendError if the device has no adapters.
  void add_adapter(int64_t sequence, int adapter, std::shared_ptr<const Adapter> weights);
  // From now on no sequence with it is taken. It goes when those that were have ended. Unknown ids
  // are ignored. May be called while another thread is in step().
  void remove_adapter(int adapter);

  // Throws std::invalid_argument for what can never run: an empty or too long prompt, ids outside
  // the vocabulary, parameters out of range.
  void check_request(std::span<const int32_t> prompt, const RequestParams& params) const;
  // `id` is the caller's name for the sequence, never used before. Throws as check_request() does;
  // what passes runs as soon as there is room. The store is asked for the prompt's first
  // `stored_pages` pages, as far as the cache lacks them. May be called while another thread is in
  // step().
  void submit(int64_t id, std::vector<int32_t> prompt, std::shared_ptr<const RequestParams> params,
              uint64_t seed, bool constrained = false, int stored_pages = 0);
  // The logits of a text, or what is inside, as an event without tokens says when they are there.
  // Of the parameters those count that change what is computed. Throws std::invalid_argument
  // likewise.
  void submit_read(int64_t id, std::vector<int32_t> tokens, ReadTarget target,
                   std::shared_ptr<const RequestParams> params);
  // Unknown and finished sequences are ignored. Takes effect before the next step computes
  // anything; a step under way goes on for the sake of others, or is abandoned between two layers
  // if all of its sequences are cancelled. May be called while another thread is in step().
  void cancel(int64_t id);

  // One scheduling iteration; events for every token made. One thread at a time. What it throws
  // has ended all sequences; after a BackendError every later call throws the same.
  std::vector<Event> step();
  // Nothing to do. For the thread that calls step().
  bool idle();

  EngineStats stats();

 private:
  // What was submitted to the backend and not waited for.
  struct Flight {
    StepId id;
    StepPlan plan;
    bool is_sampled = false;
    std::vector<RowSampling> rows;   // what was sampled of it, slice by slice
    std::vector<int> rows_of_slice;  // (slices)
  };

  // A sequence that waits for the store: to look for its own prompt, or for another one's that
  // begins like it.
  struct Held {
    std::unique_ptr<Sequence> sequence;
    bool is_sought = false;
  };

  // An adapter that the device is to be given.
  struct NewAdapter {
    int64_t sequence;
    int id;
    std::shared_ptr<const Adapter> weights;
  };

  void check_prompt(std::span<const int32_t> tokens) const;
  void check_adapter(int adapter) const;
  void drop_adapters();
  void check_changes(const RequestParams& params) const;
  void check_page(const PageRef& ref) const;
  void size_pages();
  void add_to_inbox(std::unique_ptr<Sequence> sequence);
  void take_inbox(std::vector<Event>& events);
  void drop_inbox();
  int unknown_from(const Sequence& sequence) const;
  void take_found();
  void seek_held();
  void give_wanted();
  void offer(std::span<const int32_t> tokens, uint64_t salt);
  void launch(StepPlan plan);
  void read(StepId step, const StepPlan& plan);
  bool can_sample(const Flight& flight) const;
  void sample(Flight& flight, std::vector<Event>& events);
  void land(Flight flight, std::vector<Event>& events);
  int take_slice(const Slice& slice, std::span<const ops::SampledRow* const> scored,
                 std::span<const ops::SampledRow* const> sampled, std::vector<Event>& events);
  void ask(std::span<const Accepted> accepted, std::vector<Event>& events);
  void force(Sequence& sequence, const Verdict& verdict, std::vector<Event>& events);
  void end(Sequence& sequence, FinishReason reason, std::vector<Event>& events,
           std::string error = {});
  void retire(Sequence& sequence);
  void drop_all(const std::exception_ptr& cause);
  void publish();
  Event event_of(const Sequence& sequence) const;
  FinishReason finish_of(const Sequence& sequence, bool may_stop) const;
  bool ends_with(const RequestParams& params, int32_t token) const;

  std::unique_ptr<Backend> backend_;
  const ModelConfig config_;
  const std::vector<int32_t> eos_token_ids_;
  const std::vector<KvGroup> groups_;
  EngineOptions options_;
  MemoryPlan memory_;
  std::unique_ptr<BlockTables> tables_;
  std::unique_ptr<KvCache> kv_;
  std::unique_ptr<DraftSource> drafts_;  // null: none
  std::unique_ptr<Scheduler> scheduler_;
  Constraints* constraints_ = nullptr;
  PageStore* store_ = nullptr;

  std::unordered_map<int64_t, Sequence*> sequences_;  // that have not ended, by their ids
  std::deque<Held> held_;                             // in the order of arrival
  bool held_changed_ = false;                         // since seek_held() looked
  std::deque<Flight> flights_;                        // oldest first
  std::vector<int> leaving_adapters_;                 // that go when no sequence has them
  std::exception_ptr fatal_;                          // why nothing can be computed any more
  EngineStats counters_{};

  std::atomic<bool> abandon_{false};
  mutable std::mutex inbox_mutex_;  // guards what follows: the parts that other threads reach
  std::vector<std::unique_ptr<Sequence>> submitted_;
  std::unordered_set<int64_t> cancelled_;
  std::deque<FoundPages> found_;
  std::deque<WantedPages> wanted_;
  std::vector<NewAdapter> new_adapters_;
  std::vector<int> removed_adapters_;
  std::unordered_set<int> adapters_;  // that sequences may have
  std::vector<int64_t> computing_;    // sequences of the steps in flight
  EngineStats published_{};
};

}  // namespace gptoss
