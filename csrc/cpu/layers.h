// The phases of a layer on the CPU.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <vector>

#include "backend/kept.h"
#include "backend/layers.h"
#include "core/aligned_bytes.h"
#include "core/thread_pool.h"
#include "cpu/experts.h"
#include "cpu/kv_storage.h"
#include "cpu/low_rank.h"
#include "cpu/ops.h"
#include "cpu/weights.h"

namespace gptoss::cpu {

inline Inputs inputs_of(const BackendOptions& options) {
  return options.precision == Precision::reference ? Inputs::exact : Inputs::fast;
}

// How a model is computed: what options ask for, on this instruction set.
struct Scheme {
  Scheme(const Kernels& kernels, const BackendOptions& options);

  // The dense matmul of such a matrix: one in the format that was asked for, or in q8_0.
  const Matmul& dense_of(const Matrix& w) const { return w.format == Format::q8_0 ? q8_0 : dense; }
  // Bytes of a token's activations, whichever it is.
  int64_t dense_row_bytes(int64_t k) const {
    return std::max(dense.row_bytes(k), q8_0.row_bytes(k));
  }

  const Kernels& kernels;
  const Matmul &dense, &q8_0, &router, &expert;
  KvType kv_type;
  Format dense_format;
};

// What the backend holds of a step, beside the experts' own arrays. T tokens; sizes only grow, so
// that an array may be longer than the step needs.
struct StepArrays {
  std::vector<int32_t> positions;      // (T)
  std::vector<int> sequence_of_token;  // (T)
  std::vector<float> rotations;        // (T, D): cos (D/2), sin (D/2); the same in every layer
  std::vector<float> x;                // (T, hidden): the residual stream
  AlignedBytes dense_in;               // (T) activations of a dense matmul, packed
  std::vector<float> qkv;              // (T, (H + 2G) * D)
  std::vector<float> attended;         // (T, H*D)
  std::vector<float> normed;           // (T, hidden): inputs of router and experts
  AlignedBytes router_in;              // (T) the same, packed for the router
  std::vector<float> router_logits;    // (T, E)
  std::vector<int32_t> experts;        // (T, A)
  std::vector<float> expert_weights;   // (T, A)

  // f(array, elements) for every array of a step of so many tokens.
  template <class F>
  void for_each(const ModelConfig& config, int tokens, const Scheme& scheme, F&& f) {
    const Matmul& router = scheme.router;
    const int64_t t = tokens;
    f(positions, t);
    f(sequence_of_token, t);
    f(rotations, t * config.head_dim);
    f(x, t * config.hidden_size);
    f(dense_in, t * std::max(scheme.dense_row_bytes(config.hidden_size),
                             scheme.dense_row_bytes(config.q_size())));
    f(qkv, t * (config.q_size() + 2 * config.kv_size()));
    f(attended, t * config.q_size());
    f(normed, t * config.hidden_size);
    f(router_in, t * router.row_bytes(config.hidden_size));
    f(router_logits, t * config.n_experts);
    f(experts, t * config.n_active);
    f(expert_weights, t * config.n_active);
  }
};

// What it holds beside them of a step in which there are adapters. Grown when one needs it.
struct AdapterArrays {
  std::vector<const Adapter*> of_token;  // (T); null: none. Empty where no token has one
  std::vector<float> low;                // (tokens or pairs, rank): between a change's two factors
  int rank = 0;                          // of the experts' rows in it: the highest
  std::vector<float> hidden;             // (T*A, I): inputs of the experts' second matmul, as f32
};

class CpuLayers final : public Layers {
 public:
  // Throws std::invalid_argument where the CPU cannot compute a model of this shape.
  CpuLayers(Weights weights, const BackendOptions& options, ThreadPool& pool);

  std::string description() const;
  std::string arithmetic() const;
  const ModelConfig& config() const { return config_; }
  int64_t allocated_weight_bytes() const {
    return PreparedWeights::allocated_bytes(config_, scheme_.dense_format);
  }
  // Bytes of arrays for a step of so many tokens.
  static int64_t workspace_bytes(const ModelConfig& config, const Scheme& scheme, int tokens);

  KvStorage& storage(int group) { return storage_[static_cast<size_t>(group)]; }

  // Where the next step's logits (rows, V) f32 go.
  void write_logits_to(float* logits) { logits_ = logits; }
  // (S) of the last step: a sequence's tokens before the first that is not finite.
  std::vector<int32_t> finite_tokens();
  // Of the last step, as Backend::read says.
  void read(int keep, Activation activation, int layer, void* values);

  void add_adapter(int id, std::shared_ptr<const Adapter> adapter) {
    adapters_[id] = std::move(adapter);
  }
  void remove_adapter(int id) { adapters_.erase(id); }

  void begin(const StepInput& input) override;
  void embed() override;
  void attention_in(int layer) override;
  void attend(int layer) override;
  void attention_out(int layer) override;
  void route(int layer) override;
  void experts_in(int layer) override;
  void experts_out(int layer) override;
  void unembed() override;

 private:
  std::string formats() const;
  int qkv_size() const { return config_.q_size() + 2 * config_.kv_size(); }
  bool is_window(int layer) const { return config_.is_window_layer[static_cast<size_t>(layer)]; }
  float attention_scale() const { return 1.0f / std::sqrt(static_cast<float>(config_.head_dim)); }
  KvPages pages(int layer, int sequence) const;
  void keep_attention(int layer);
  void keep_routing(int layer);
  void keep_residual(int layer);

  bool has_adapters() const { return !adapted_.of_token.empty(); }
  // What the token's adapter changes of a matrix; null: nothing.
  const LowRank* change_of(int64_t token, LowRank Adapter::* matrix) const;
  const LowRank* change_of(int64_t token, int layer, LowRank AdapterLayer::* matrix) const;
  // Adds to y (T, N), rows y_stride apart, what adapters make of x (T, K).
  LowRankTask low_rank_task(int layer, LowRank AdapterLayer::* matrix, const float* x, int k,
                            float* y, int n, int64_t y_stride) const;
  // The rows sorted by expert through the first factor of their change. x: (T, K), or (T*A, K) of
  // the rows. Returns whether any has one.
  bool start_expert_changes(int layer, LowRank AdapterLayer::* matrix, const float* x,
                            bool is_by_token, int k);
  // And through the second: adds outputs [begin, end) of N to y.
  void add_expert_change(int layer, LowRank AdapterLayer::* matrix, int64_t row, int expert, int n,
                         int begin, int end, float* y) const;
  // Both, as Experts takes them; empty where no row has one.
  Experts::Change expert_change(int layer, LowRank AdapterLayer::* matrix, const float* x,
                                bool is_by_token, int k, int n);

  // f(first token, count) for groups of tokens, in parallel.
  template <class F>
  void for_each_group(int tokens, F&& f);

  using GroupRows = std::array<const float*, kGroupTokens>;
  static GroupRows rows_of(const float* x, int count, int64_t stride);
  float* group_scratch() const;
  void norm_row(const std::vector<float>& weight, int64_t token, float* y) const;
  GroupRows norm_rows(const std::vector<float>& weight, int64_t first, int count);
  MatmulTask dense_task(const Matrix& w, const std::vector<float>& bias, float* y,
                        int y_stride) const;

  const Scheme scheme_;
  const Kernels& kernels_;
  ThreadPool& pool_;
  const Matmul &router_matmul_, &expert_matmul_;
  const ModelConfig config_;
  const PreparedWeights weights_;
  const ops::RopeTable rope_table_;
  std::vector<KvStorage> storage_;   // [group]
  std::vector<int> group_of_layer_;  // (layers)
  std::vector<int> index_in_group_;  // (layers): a layer's place in its group
  StepInput input_;
  int tokens_ = 0;  // T
  float* logits_ = nullptr;
  StepArrays step_;
  Experts experts_;
  std::unordered_map<int, std::shared_ptr<const Adapter>> adapters_;
  AdapterArrays adapted_;
  std::vector<Kept> kept_;  // [keep]
};

}  // namespace gptoss::cpu
