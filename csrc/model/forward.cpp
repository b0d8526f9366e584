#include "model/forward.h"

#include <chrono>

namespace gptoss {

void forward(Backend& backend, const ModelConfig& config, const StepInput& input, float* logits,
             PhaseSeconds& seconds, const std::function<void()>& between_layers) {
  if (backend.run_step(input, logits)) return;
  auto last = std::chrono::steady_clock::now();
  // The time since the call before belongs to this phase.
  const auto count_as = [&](size_t phase) {
    const auto now = std::chrono::steady_clock::now();
    seconds[phase] += std::chrono::duration<double>(now - last).count();
    last = now;
  };
  backend.begin_step(input);
  count_as(0);
  backend.embed();
  count_as(1);
  for (int layer = 0; layer < config.n_layers; ++layer) {
    between_layers();
    backend.attention_in(layer);
    count_as(2);
    backend.attend(layer);
    count_as(3);
    backend.attention_out(layer);
    count_as(4);
    backend.route(layer);
    count_as(5);
    backend.experts_in(layer);
    count_as(6);
    backend.experts_out(layer);
    count_as(7);
  }
  backend.unembed(logits);
  count_as(8);
}

}  // namespace gptoss
