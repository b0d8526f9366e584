// The weights of a model by role: views into the checkpoint's bytes.
#pragma once

#include <memory>
#include <vector>

#include "core/tensor.h"
#include "model/config.h"

namespace gptoss {

struct LayerWeights {
  TensorView attention_norm;                  // (hidden) bf16
  TensorView q, k, v;                         // (H*D | G*D | G*D, hidden) bf16
  TensorView q_bias, k_bias, v_bias;          // (H*D | G*D | G*D) bf16
  TensorView sinks;                           // (H) bf16
  TensorView o;                               // (hidden, H*D) bf16
  TensorView o_bias;                          // (hidden) bf16
  TensorView mlp_norm;                        // (hidden) bf16
  TensorView router;                          // (E, hidden) bf16
  TensorView router_bias;                     // (E) bf16
  TensorView gate_up_blocks, gate_up_scales;  // (E, 2I, hidden/32, 16), (E, 2I, hidden/32) u8
  TensorView gate_up_bias;                    // (E, 2I) bf16
  TensorView down_blocks, down_scales;        // (E, hidden, I/32, 16), (E, hidden, I/32) u8
  TensorView down_bias;                       // (E, hidden) bf16
};

struct Weights {
  ModelConfig config;
  TensorView embedding;    // (V, hidden) bf16
  TensorView final_norm;   // (hidden) bf16
  TensorView unembedding;  // (V, hidden) bf16
  std::vector<LayerWeights> layers;
  std::vector<std::shared_ptr<const void>> owners;  // keep the bytes alive
};

// Finds every tensor under its canonical (Hugging Face) name. Throws std::invalid_argument naming
// the tensor where one is absent or has another dtype or shape than the config asks for.
Weights make_weights(const ModelConfig& config, TensorTable table);

}  // namespace gptoss
