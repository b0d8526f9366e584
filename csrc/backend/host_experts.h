// Experts of some layers, in the host's memory and on its CPU, for a backend whose device has the
// rest of the model.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "model/weights.h"

namespace gptoss {

// Of the rows of a step that are in one layer; arrays in host memory. T tokens.
struct HostExpertRows {
  int layer;
  int tokens;              // T
  const void* x;           // (T, hidden): what the experts take, normed
  bool is_bf16;            // x, else f32
  const int32_t* experts;  // (T, A)
  const float* weights;    // (T, A)
  float* y;                // (T, hidden), overwritten: the sum of weight * expert(x)
};

class HostExperts {
 public:
  virtual ~HostExperts() = default;

  // What the bits of a result depend on: kernels and number formats.
  virtual std::string arithmetic() const = 0;
  // Makes room for steps of so many tokens; once.
  virtual void prepare(int max_tokens) = 0;
  // In any thread, one at a time. Bits of a row do not depend on the others.
  virtual void run(const HostExpertRows& rows) = 0;
};

namespace cpu {
// Of the first n_layers of a model.
std::unique_ptr<HostExperts> make_host_experts(const Weights& weights, int n_layers,
                                               const BackendOptions& options);
}  // namespace cpu

}  // namespace gptoss
