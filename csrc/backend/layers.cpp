#include "backend/layers.h"

#include <chrono>

namespace gptoss {

void forward(Backend& backend, const ModelConfig& config, const StepInput& input, float* logits,
             PhaseSeconds& seconds, const std::function<void()>& between_layers) {
  if (backend.run_step(input, logits)) return;
  auto last = std::chrono::steady_clock::now();
  // The time since the call before belongs to this phase.
  const auto count_as = [&](Phase phase) {
    const auto now = std::chrono::steady_clock::now();
    seconds[static_cast<size_t>(phase)] += std::chrono::duration<double>(now - last).count();
    last = now;
  };
  backend.begin_step(input);
  count_as(Phase::begin_step);
  backend.embed();
  count_as(Phase::embed);
  for (int layer = 0; layer < config.n_layers; ++layer) {
    between_layers();
    backend.attention_in(layer);
    count_as(Phase::attention_in);
    backend.attend(layer);
    count_as(Phase::attend);
    backend.attention_out(layer);
    count_as(Phase::attention_out);
    backend.route(layer);
    count_as(Phase::route);
    backend.experts_in(layer);
    count_as(Phase::experts_in);
    backend.experts_out(layer);
    count_as(Phase::experts_out);
  }
  backend.unembed(logits);
  count_as(Phase::unembed);
}

}  // namespace gptoss
