// A small random model in memory, the same on every call.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "harness.h"
#include "model/weights.h"

namespace gptoss::test {

inline ModelConfig small_config() {
  return {.hidden_size = 64,
          .intermediate_size = 96,
          .n_layers = 3,
          .n_heads = 4,
          .n_kv_heads = 2,
          .head_dim = 16,
          .vocab_size = 97,
          .n_experts = 5,
          .n_active = 2,
          .sliding_window = 20,
          .rms_norm_eps = 1e-5f,
          .swiglu_limit = 7.0f,
          .max_position_embeddings = 512,
          .rope = {.theta = 150000,
                   .factor = 32,
                   .beta_fast = 32,
                   .beta_slow = 1,
                   .original_context_length = 128,
                   .truncate = false},
          .is_window_layer = {true, false, true}};
}

// Adds random tensors at odd addresses, as a file may hold them.
class RandomTensors {
 public:
  void bf16(const std::string& name, std::vector<int64_t> shape, float scale) {
    uint8_t* const data = add(name, DType::bf16, std::move(shape));
    const int64_t n = elements(name);
    for (int64_t i = 0; i < n; ++i) {
      const float x = random_.uniform() * scale;
      std::memcpy(data + 2 * i, reinterpret_cast<const char*>(&x) + 2, 2);
    }
  }
  void u8(const std::string& name, std::vector<int64_t> shape, int low, int count) {
    uint8_t* const data = add(name, DType::u8, std::move(shape));
    const int64_t n = elements(name);
    for (int64_t i = 0; i < n; ++i) data[i] = static_cast<uint8_t>(low + random_.below(count));
  }

  TensorTable table;

 private:
  int64_t elements(const std::string& name) const {
    int64_t n = 1;
    for (const int64_t size : table.tensors.at(name).shape) n *= size;
    return n;
  }
  uint8_t* add(const std::string& name, DType dtype, std::vector<int64_t> shape) {
    int64_t nbytes = size_of(dtype);
    for (const int64_t size : shape) nbytes *= size;
    const auto bytes = std::make_shared<std::vector<uint8_t>>(static_cast<size_t>(nbytes + 1));
    table.owners.push_back(bytes);
    table.tensors[name] = {bytes->data() + 1, dtype, std::move(shape)};
    return bytes->data() + 1;
  }

  Random random_{31};
};

inline Weights small_weights(const ModelConfig& c) {
  RandomTensors t;
  t.bf16("embedding", {c.vocab_size, c.hidden_size}, 1.0f);
  t.bf16("final_norm", {c.hidden_size}, 2.0f);
  t.bf16("unembedding", {c.vocab_size, c.hidden_size}, 0.5f);
  for (int i = 0; i < c.n_layers; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    const std::string attention = layer + "attention.";
    const std::string experts = layer + "experts.";
    t.bf16(attention + "norm", {c.hidden_size}, 2.0f);
    for (const char* part : {"q", "k", "v"}) {
      const int rows = part[0] == 'q' ? c.q_size() : c.kv_size();
      t.bf16(attention + part, {rows, c.hidden_size}, 0.4f);
      t.bf16(attention + part + "_bias", {rows}, 0.4f);
    }
    t.bf16(attention + "sinks", {c.n_heads}, 2.0f);
    t.bf16(attention + "o", {c.hidden_size, c.q_size()}, 0.4f);
    t.bf16(attention + "o_bias", {c.hidden_size}, 0.2f);
    t.bf16(layer + "mlp.norm", {c.hidden_size}, 2.0f);
    t.bf16(layer + "router", {c.n_experts, c.hidden_size}, 0.4f);
    t.bf16(layer + "router_bias", {c.n_experts}, 0.2f);
    const struct {
      const char* name;
      int64_t rows, columns;
    } matrices[] = {{"gate_up", 2 * c.intermediate_size, c.hidden_size},
                    {"down", c.hidden_size, c.intermediate_size}};
    for (const auto& m : matrices) {
      t.u8(experts + m.name + ".blocks", {c.n_experts, m.rows, m.columns / 32, 16}, 0, 256);
      t.u8(experts + m.name + ".scales", {c.n_experts, m.rows, m.columns / 32}, 121, 3);
      t.bf16(experts + m.name + "_bias", {c.n_experts, m.rows}, 0.2f);
    }
  }
  return make_weights(c, std::move(t.table));
}

}  // namespace gptoss::test
