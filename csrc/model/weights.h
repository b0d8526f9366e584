// The weights of a model by role: views into the checkpoint's bytes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/matrix.h"
#include "model/tensor_table.h"

namespace gptoss {

// The roles of layer i are, after "layers.<i>.": attention.{norm, q, q_bias, k, k_bias, v, v_bias,
// sinks, o, o_bias}, mlp.norm, router, router_bias, and experts.{gate_up, down}.{blocks, scales},
// experts.{gate_up_bias, down_bias}.
//
// q, k, v and o, the embedding and the unembedding are bf16, or in q8_0, as <role>.{codes, scales};
// q, k and v of a layer alike.
struct LayerWeights {
  Vector attention_norm;          // (hidden)
  Matrix q, k, v;                 // (H*D | G*D | G*D, hidden)
  Vector q_bias, k_bias, v_bias;  // (H*D | G*D | G*D)
  Vector sinks;                   // (H)
  Matrix o;                       // (hidden, H*D)
  Vector o_bias;                  // (hidden)
  Vector mlp_norm;                // (hidden)
  Matrix router;                  // (E, hidden)
  Vector router_bias;             // (E)
  ExpertMatrices gate_up;         // (E, 2I, hidden), rows of gate and up interleaved
  Vector gate_up_bias;            // (E, 2I)
  ExpertMatrices down;            // (E, hidden, I)
  Vector down_bias;               // (E, hidden)
};

// Further roles: embedding, final_norm, unembedding.
struct Weights {
  ModelConfig config;
  Matrix embedding;    // (V, hidden)
  Vector final_norm;   // (hidden)
  Matrix unembedding;  // (V, hidden)
  std::vector<LayerWeights> layers;
  std::vector<std::shared_ptr<const void>> owners;  // keep the bytes alive
};

// Finds every tensor under its role. Throws std::invalid_argument naming the role that is absent or
// has another dtype or shape than the config asks for.
Weights make_weights(const ModelConfig& config, TensorTable table);

// Without data: shapes and formats of what plans are made of. `q8_0`: roles of the matrices that
// are in that format; the embedding, the unembedding, and q, k, v and o of layers.
Weights shapes_of(const ModelConfig& config, const std::vector<std::string>& q8_0);

}  // namespace gptoss
