#include "model/forward.h"

namespace gptoss {

void forward(Backend& backend, const ModelConfig& config, const StepInput& input, float* logits,
             const std::function<void()>& between_layers) {
  if (backend.run_step(input, logits)) return;
  backend.begin_step(input);
  backend.embed();
  for (int layer = 0; layer < config.n_layers; ++layer) {
    between_layers();
    backend.attention_in(layer);
    backend.attend(layer);
    backend.attention_out(layer);
    backend.route(layer);
    backend.experts_in(layer);
    backend.experts_out(layer);
  }
  backend.unembed(logits);
}

}  // namespace gptoss
