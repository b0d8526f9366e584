#include "cuda/cpu_experts.h"

#include <utility>

namespace gptoss::cuda {

CpuExperts::CpuExperts(const Context& context, const Stream& stream, HostExperts& experts,
                       std::mutex& turn, const ModelConfig& config, const Scheme& scheme,
                       const Part& part, int max_tokens, int n_flights)
    : context_(context),
      stream_(stream),
      experts_(experts),
      turn_(turn),
      act_(scheme.act),
      hidden_(config.hidden_size),
      n_active_(config.n_active),
      x_(context, max_tokens * hidden_ * size_of(act_), "the CPU's experts"),
      chosen_(context, max_tokens * n_active_ * int64_t{sizeof(int32_t)}, "the CPU's experts"),
      weights_(context, max_tokens * n_active_ * int64_t{sizeof(float)}, "the CPU's experts"),
      y_(context, max_tokens * hidden_ * int64_t{sizeof(float)}, "the CPU's experts"),
      flights_(static_cast<size_t>(n_flights)),
      n_layers_(part.cpu_experts(scheme)),
      queue_(std::make_unique<Queue>()) {
  queue_->self = this;
  for (int flight = 0; flight < n_flights; ++flight) {
    for (int layer = 0; layer < n_layers_; ++layer) {
      queue_->calls.push_back({queue_.get(), flight, part.begin + layer});
    }
  }
}

CpuExperts::~CpuExperts() {
  if (!context_.is_own()) return;  // a fork has none of the driver's threads, whatever they held
  const bool is_done = stream_.drain();
  const std::lock_guard<std::mutex> lock(queue_->mutex);
  queue_->self = nullptr;
  // The driver of a device that failed may still have the calls: they are left to it.
  if (!is_done) static_cast<void>(queue_.release());
}

void CpuExperts::begin(int flight, int tokens) {
  FlightState& state = flights_[static_cast<size_t>(flight)];
  state.tokens = tokens;
  state.error = nullptr;
}

void CpuExperts::queue(int flight, int layer, const Workspace& work) {
  FlightState& state = flights_[static_cast<size_t>(flight)];
  const int64_t tokens = state.tokens;
  stream_.download(x_.data(), work.normed.address(), tokens * hidden_ * size_of(act_));
  stream_.download(chosen_.data(), work.experts.address(),
                   tokens * n_active_ * int64_t{sizeof(int32_t)});
  stream_.download(weights_.data(), work.expert_weights.address(),
                   tokens * n_active_ * int64_t{sizeof(float)});
  stream_.call(&CpuExperts::run, &queue_->calls[static_cast<size_t>(flight * n_layers_ + layer)]);
  stream_.upload(work.expert_out.address(), y_.data(), tokens * hidden_ * int64_t{sizeof(float)});
}

void CpuExperts::run(void* data) noexcept {
  const Call& call = *static_cast<const Call*>(data);
  const std::lock_guard<std::mutex> lock(call.queue->mutex);
  if (call.queue->self == nullptr) return;
  CpuExperts& self = *call.queue->self;
  FlightState& state = self.flights_[static_cast<size_t>(call.flight)];
  if (state.error) return;
  try {
    const std::lock_guard<std::mutex> turn(self.turn_);
    self.experts_.run({.layer = call.layer,
                       .tokens = state.tokens,
                       .x = self.x_.data(),
                       .is_bf16 = self.act_ == Act::bf16,
                       .experts = reinterpret_cast<const int32_t*>(self.chosen_.data()),
                       .weights = reinterpret_cast<const float*>(self.weights_.data()),
                       .y = reinterpret_cast<float*>(self.y_.data())});
  } catch (...) {
    state.error = std::current_exception();
  }
}

void CpuExperts::rethrow(int flight) {
  FlightState& state = flights_[static_cast<size_t>(flight)];
  if (state.error) std::rethrow_exception(std::exchange(state.error, nullptr));
}

}  // namespace gptoss::cuda
