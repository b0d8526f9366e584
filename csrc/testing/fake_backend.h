// A backend without a model, to test the engine against.
//
// Its pages hold token ids, and a row of logits is a hash of the tokens that the block tables of
// all KV groups lead to, as the device has them: its own copies, kept up to date by dirty ranges
// alone. A wrong page, a missing copy, a stale slot, a range that was left out, or pages of another
// adapter give another token. What the contract of Backend forbids is an error: a page that two
// sequences write, one that is handed on while a step in flight uses it, a slot that is not open, a
// token that was not sampled, an adapter that is not there or goes while a step in flight uses it.
//
// Work is put off until a step is waited for, or done at once, as a seed decides.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "cpu/sample.h"

namespace gptoss::testing {

struct FakeOptions {
  int vocab_size = 97;
  std::vector<KvGroup> groups = {{.window = 0, .n_layers = 1}, {.window = 20, .n_layers = 2}};
  int max_steps_ahead = 0;
  uint64_t seed = 1;
  StepCost cost = {.fixed = 1.0, .per_token = 0.05};
  int32_t poison = kNoToken;      // a token that makes activations of all that see it NaN
  int32_t nan_logits = kNoToken;  // a token whose own row of logits is NaN
  int fails_in_step = 0;          // this step throws a BackendError
  // Where there are any, rows have no logits and a sequence gets these tokens in turn, from one
  // that its seed decides on: for measuring what is around a backend.
  std::vector<int32_t> script = {};
};

// Logits (V) f32 after these tokens, as a sequence gets them that is computed alone.
std::vector<float> fake_logits(const FakeOptions& options, std::span<const int32_t> tokens,
                               int adapter);

class FakeBackend final : public Backend {
 public:
  explicit FakeBackend(FakeOptions options);

  std::string description() const override { return "fake"; }
  std::string arithmetic() const override { return "fake"; }
  const BackendTraits& traits() const override { return traits_; }
  StepCost cost() const override { return options_.cost; }
  MemoryPlan plan(const StepLimits& limits) const override;
  void prepare(const StepLimits& limits, std::span<const int> n_pages) override;
  void open_slot(int slot, std::span<const int32_t> prompt,
                 std::span<const int32_t> output) override;
  void append_output(int slot, std::span<const int32_t> tokens) override;
  void close_slot(int slot) override;
  void add_adapter(int id, const std::shared_ptr<const Adapter>& adapter) override;
  void remove_adapter(int id) override;
  void copy_pages(std::span<const PageCopy> copies) override;
  std::string kv_layout() const override { return "fake"; }
  void read_pages(int group, std::span<const int32_t> pages, uint8_t* bytes) override;
  void write_pages(int group, std::span<const int32_t> pages, const uint8_t* bytes) override;
  StepId submit(const StepInput& input, const std::atomic<bool>& abandon) override;
  void sample(StepId step, const SampleInput& input) override;
  StepResult wait(StepId step) override;
  void read_logits(StepId step, int first_row, int n_rows, float* logits) override;
  void read(StepId step, int keep, Activation activation, int layer, void* values) override;
  PhaseSeconds phase_seconds() const override { return {}; }

  // What the steps so far have cost, by FakeOptions::cost.
  double clock() const { return clock_; }
  // Those that are there.
  const std::set<int>& adapters() const { return adapters_; }
  // Steps that were submitted.
  int64_t steps() const { return last_step_; }

 private:
  using Entry = uint64_t;                 // of a token of a page: what it is and whose
  using Place = std::pair<int, int32_t>;  // group, page

  // Of the host's view of a step that has been submitted.
  struct InFlight {
    StepId id = 0;
    std::map<Place, std::set<int64_t>> reads, writes;  // by which runs of a slot
    std::set<int> slots, adapters;
    bool is_sampled = false;
  };
  struct Slot {
    int64_t run = 0;  // 0: not open
    std::vector<int32_t> prompt, output;
    bool failed = false;  // the last row that was sampled gave no token
  };
  struct Step {  // a copy of a StepInput, and what became of it
    std::vector<int32_t> tokens, offsets, positions, slots, adapters, logit_rows;
    std::vector<BlockTables::Range> dirty;
    std::vector<int32_t> dirty_pages;
    std::vector<float> logits;
    StepResult result;
    std::string error;
  };

  void enqueue(std::function<void()> work);
  void run_all();
  void note_uses(const StepInput& input, InFlight& flight) const;
  void check_uses(const InFlight& flight) const;
  void check_unused(int group, int32_t page, const char* what) const;
  void execute(Step& step);
  std::vector<float> logits_of(int slot, int position) const;
  Entry& entry(int group, int slot, int position);
  const Entry& entry(int group, int slot, int position) const {
    return const_cast<FakeBackend*>(this)->entry(group, slot, position);
  }

  FakeOptions options_;
  BackendTraits traits_;
  StepLimits limits_{};
  std::mt19937_64 random_;

  // The host's view, at the time of the call.
  std::vector<int64_t> runs_;  // [slot]; 0: not open
  int64_t next_run_ = 1;
  std::set<int> adapters_;
  std::deque<InFlight> flights_;
  StepId last_step_ = 0, last_waited_ = 0;
  bool fatal_ = false;

  // The device's, at the time of the work.
  std::deque<std::function<void()>> queue_;
  std::vector<std::vector<Entry>> pages_;     // [group] (pages, kPageTokens)
  std::vector<std::vector<int32_t>> tables_;  // [group] (slots, row_pages)
  std::vector<int> row_pages_;                // [group]
  std::vector<Slot> slots_;
  std::map<StepId, Step> steps_;
  cpu::SampleScratch scratch_;
  double clock_ = 0;
};

}  // namespace gptoss::testing
