// Experts that the CPU computes, as a part of the stream: what the router chose goes to the host,
// a call of the host computes, and the sum comes back. Nobody waits but the stream itself.
#pragma once

#include <exception>
#include <memory>
#include <mutex>
#include <vector>

#include "backend/host_experts.h"
#include "cuda/memory.h"
#include "cuda/step_memory.h"

namespace gptoss::cuda {

class CpuExperts {
 public:
  // Of the part's layers. Context, stream, experts, which are prepared, and `turn` are kept by
  // reference; of all objects with the same `turn`, one computes at a time. In a Scope.
  CpuExperts(const Context& context, const Stream& stream, HostExperts& experts, std::mutex& turn,
             const ModelConfig& config, const Scheme& scheme, const Part& part, int max_tokens,
             int n_flights);
  // Calls of the host that are queued end first.
  ~CpuExperts();
  CpuExperts(const CpuExperts&) = delete;
  CpuExperts& operator=(const CpuExperts&) = delete;

  // Before the layers of a step in this flight, which no queued work belongs to any more.
  void begin(int flight, int tokens);
  // From the routing of a layer, counted from the part's first, to Workspace.expert_out,
  // (T, hidden).
  void queue(int flight, int layer, const Workspace& work);
  // Throws what went wrong in the host's calls of a step that has been waited for.
  void rethrow(int flight);

 private:
  struct Queue;
  struct Call {
    Queue* queue;
    int flight, layer;  // of the model
  };
  // What the driver's thread comes to first.
  struct Queue {
    std::mutex mutex;            // held while experts are computed
    CpuExperts* self = nullptr;  // null again once it is destroyed
    std::vector<Call> calls;     // [flight][layer]: what the driver hands to run()
  };
  struct FlightState {
    int tokens = 0;
    std::exception_ptr error;
  };

  static void run(void* call) noexcept;

  const Context& context_;
  const Stream& stream_;
  HostExperts& experts_;
  std::mutex& turn_;
  const Act act_;
  const int64_t hidden_, n_active_;
  // Of the one layer that the stream is at. T tokens.
  PinnedMemory x_;                 // (T, hidden), as Workspace.normed
  PinnedMemory chosen_, weights_;  // (T, A)
  PinnedMemory y_;                 // (T, hidden) f32
  std::vector<FlightState> flights_;
  const int n_layers_;
  std::unique_ptr<Queue> queue_;
};

}  // namespace gptoss::cuda
