// The forward pass, once for all backends.
#pragma once

#include <functional>

#include "backend/backend.h"

namespace gptoss {

// Runs one step; logits (n_logit_rows, V) f32. `between_layers` may throw to abandon the step: the
// cache then holds garbage only at positions of this step.
void forward(Backend& backend, const ModelConfig& config, const StepInput& input, float* logits,
             const std::function<void()>& between_layers);

}  // namespace gptoss
