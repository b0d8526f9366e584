// The forward pass, once for all backends.
#pragma once

#include <array>
#include <cstdint>
#include <functional>

#include "backend/backend.h"

namespace gptoss {

// The phases of a step, as Backend has them, and what they are called.
enum class Phase : uint8_t {
  begin_step,
  embed,
  attention_in,
  attend,
  attention_out,
  route,
  experts_in,
  experts_out,
  unembed
};
inline constexpr std::array kPhaseNames = {"begin_step", "embed",         "attention_in",
                                           "attend",     "attention_out", "route",
                                           "experts_in", "experts_out",   "unembed"};
// Seconds spent in each.
using PhaseSeconds = std::array<double, kPhaseNames.size()>;

// Runs one step; logits (n_logit_rows, V) f32. Adds to `seconds`, unless the backend takes over the
// whole step. `between_layers` may throw to abandon the step: the cache then holds garbage only at
// positions of this step.
void forward(Backend& backend, const ModelConfig& config, const StepInput& input, float* logits,
             PhaseSeconds& seconds, const std::function<void()>& between_layers);

}  // namespace gptoss
