// The forward pass, written once for backends that are driven layer by layer.
//
// Its phases are coarse on purpose, so that each can be one fused kernel; activations stay with the
// backend from begin() to unembed().
#pragma once

#include <atomic>

#include "backend/backend.h"

namespace gptoss {

class Layers {
 public:
  virtual ~Layers() = default;

  virtual void begin(const StepInput& input) = 0;  // every token is an id
  virtual void embed() = 0;
  virtual void attention_in(int layer) = 0;   // norm, QKV, bias, RoPE, KV write
  virtual void attend(int layer) = 0;         // banded attention with sinks
  virtual void attention_out(int layer) = 0;  // output projection, bias, residual
  virtual void route(int layer) = 0;          // norm, router, top-k
  virtual void experts_in(int layer) = 0;     // gate and up, SwiGLU
  virtual void experts_out(int layer) = 0;    // down, weighted sum, residual
  virtual void unembed() = 0;                 // logits of the step's logit rows
};

// Runs the pass, and adds to `seconds` what each phase took. False if it was left between two
// layers because of `abandon`.
bool run_layers(Layers& layers, int n_layers, const StepInput& input,
                const std::atomic<bool>& abandon, PhaseSeconds& seconds);

}  // namespace gptoss
