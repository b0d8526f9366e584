#include "backend/layers.h"

#include <chrono>

namespace gptoss {

bool run_layers(Layers& layers, int n_layers, const StepInput& input,
                const std::atomic<bool>& abandon, PhaseSeconds& seconds) {
  auto last = std::chrono::steady_clock::now();
  // The time since the call before belongs to this phase.
  const auto count_as = [&](Phase phase) {
    const auto now = std::chrono::steady_clock::now();
    seconds[static_cast<size_t>(phase)] += std::chrono::duration<double>(now - last).count();
    last = now;
  };
  layers.begin(input);
  count_as(Phase::begin_step);
  layers.embed();
  count_as(Phase::embed);
  for (int layer = 0; layer < n_layers; ++layer) {
    if (abandon.load(std::memory_order_relaxed)) return false;
    layers.attention_in(layer);
    count_as(Phase::attention_in);
    layers.attend(layer);
    count_as(Phase::attend);
    layers.attention_out(layer);
    count_as(Phase::attention_out);
    layers.route(layer);
    count_as(Phase::route);
    layers.experts_in(layer);
    count_as(Phase::experts_in);
    layers.experts_out(layer);
    count_as(Phase::experts_out);
  }
  layers.unembed();
  count_as(Phase::unembed);
  return true;
}

}  // namespace gptoss
