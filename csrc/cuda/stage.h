// A card and the part of a model on it: consecutive layers, which hand the residual stream to those
// of the next card.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/host_experts.h"
#include "cuda/cpu_experts.h"
#include "cuda/forward.h"
#include "cuda/graphs.h"
#include "cuda/memory.h"
#include "cuda/module.h"
#include "cuda/plan.h"
#include "cuda/step_memory.h"
#include "cuda/weights.h"

namespace gptoss::cuda {

// What is on a card before it is known what else will be: it takes memory itself.
class Card {
 public:
  explicit Card(const DeviceInfo& device);

  const DeviceInfo& device() const { return context_.device(); }
  const Context& context() const { return context_; }
  const Stream& stream() const { return *stream_; }
  Module& module() { return *module_; }
  // As it is now. Not in a Scope.
  DeviceRoom room() const;
  // What is known to have gone wrong in its work, which is not waited for. Not in a Scope.
  std::optional<std::string> failure() const;
  // Whether work that a model was left with is still there (leave). Not in a Scope.
  bool has_left_work() const;
  // Gives nothing back from now on, whoever destroys it. `has_ended`: whether its own work has; if
  // not, the device takes no other model before that.
  void leave(bool has_ended);
  // Whether a message begins with its number, as those of run() do.
  bool is_named_in(const std::string& message) const;

  // Runs f() in the card's context; what the driver says of it names the card.
  template <class F>
  void run(F&& f) const {
    try {
      const Context::Scope scope(context_);
      f();
    } catch (const OutOfMemory& error) {
      throw OutOfMemory(named(error.what()));
    } catch (const BackendError& error) {
      throw BackendError(named(error.what()));
    }
  }

 private:
  std::string named(const std::string& message) const;

  Context context_;
  std::optional<Stream> stream_;
  std::optional<Module> module_;
};

// What all stages of a model have in common.
struct StageOptions {
  const ModelConfig& config;
  const Scheme& scheme;
  const Weights& source;
  bool has_int8_inputs;
  const StepLimits& limits;
  std::span<const int> n_pages;  // [group]
  HostExperts* host_experts;     // null: no layer's experts are on the CPU
  std::mutex& turn;              // CpuExperts
};

// Calls are made in the card's context (Card::run), but where it says otherwise.
class Stage {
 public:
  // Allocates all that the part needs, and uploads it. Card, config and scheme are kept by
  // reference. Throws OutOfMemory, CheckpointError.
  Stage(Card& card, const Part& part, const StageOptions& options);

  // In any context.
  const Card& card() const { return card_; }
  Module& module() { return card_.module(); }
  const Stream& stream() const { return card_.stream(); }
  const Part& part() const { return part_; }
  const StepMemory& memory() const { return memory_; }
  FlightMemory& flight(int flight) { return memory_.flights[static_cast<size_t>(flight)]; }
  // What has been queued of a step in this flight, to its end.
  const Event& done(int flight) const { return *done_[static_cast<size_t>(flight)]; }
  int64_t weight_bytes() const { return weight_bytes_; }
  // Bytes of the part's layers in a page, which are the page's from `offset` on.
  int64_t page_bytes(int group) const { return page_bytes_[static_cast<size_t>(group)]; }
  CUdeviceptr page(int group, int32_t index) const;

  // Takes over these parts of the tables.
  void upload_tables(int flight, const BlockTables& tables,
                     std::span<const BlockTables::Range> ranges);
  // The arrays of a step, on the card.
  Step upload(int flight, const StepInput& input);
  // Queues the part of a step. What is to be kept of its layers goes to `kept`: once this stream
  // has been waited for, it is there.
  void run(int flight, const Step& step, const StepInput& input, std::span<Kept> kept);
  // Queues that the next card takes over from here, once it is done with the step before.
  void hand_over(const Stage& next, int flight_before, int n_tokens);
  // As Forward has them, on the last card.
  LogitRange* logit_ranges(int n_rows) const { return forward_->logit_ranges(n_rows); }
  // Throws what went wrong in the host's calls of a step that has been waited for.
  void rethrow(int flight);

 private:
  void queue_segment(const Step& step, const StepShape& shape, const Inspection& inspection);

  Card& card_;
  const Part part_;
  const ModelConfig& config_;
  const Scheme& scheme_;
  const StepLimits limits_;
  const int64_t weight_bytes_;
  DeviceWeights weights_;
  StepMemory memory_;
  std::vector<int64_t> page_bytes_;  // [group]
  std::vector<DeviceMemory> pages_;  // [group]
  std::optional<Forward> forward_;
  std::optional<StepGraphs> graphs_;
  std::optional<CpuExperts> cpu_experts_;     // where some of the part's are on the CPU
  std::vector<std::unique_ptr<Event>> done_;  // [flight]
  // Goes first: the driver need not wait for work that uses what it is given back.
  const Drain drain_{stream()};
};

}  // namespace gptoss::cuda
