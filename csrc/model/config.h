// The shape of a model; the fields mirror python/gptoss/config.py, which validates them.
#pragma once

#include <cstdint>
#include <vector>

namespace gptoss {

struct RopeConfig {
  double theta;
  double factor;  // 1: plain RoPE, more: YaRN
  double beta_fast, beta_slow;
  int original_context_length;
  bool truncate;
};

struct ModelConfig {
  int hidden_size;
  int intermediate_size;
  int n_layers;
  int n_heads;         // H
  int n_kv_heads;      // G
  int head_dim;        // D
  int vocab_size;      // V
  int n_experts;       // E
  int n_active;        // A, experts per token
  int sliding_window;  // W
  float rms_norm_eps;
  float swiglu_limit;
  int max_position_embeddings;
  RopeConfig rope;
  std::vector<bool> is_window_layer;  // (n_layers)

  int q_size() const { return n_heads * head_dim; }
  int kv_size() const { return n_kv_heads * head_dim; }
};

}  // namespace gptoss
