// The phases of a layer on the CPU.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "backend/layers.h"
#include "core/aligned_bytes.h"
#include "core/thread_pool.h"
#include "cpu/kv_storage.h"
#include "cpu/ops.h"
#include "cpu/weights.h"

namespace gptoss::cpu {

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

// Some of the rows sorted by expert: of one expert, their activations packed together.
struct ExpertGroup {
  int first, count;
};

// What the backend holds of a step. T tokens; sizes only grow, so that an array may be longer than
// the step needs.
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
  std::vector<int32_t> offsets;        // (E + 1): an expert's first row of those sorted by expert
  std::vector<int32_t> pairs;          // (T*A): which pair (t * A + a) each of these rows is
  std::vector<int32_t> row_of_pair;    // (T*A): the inverse of pairs
  std::vector<ExpertGroup> groups;     // all rows, in groups that begin anew with every expert
  std::vector<int> active_experts;     // those that have rows
  AlignedBytes gathered;               // (T*A) the experts' inputs, packed, sorted by expert
  AlignedBytes intermediate;           // (T*A) inputs of their second matmul, likewise
  std::vector<float> expert_out;       // (T*A, hidden), sorted by expert

  // f(array, elements) for every array of a step of so many tokens.
  template <class F>
  void for_each(const ModelConfig& config, int tokens, const Scheme& scheme, F&& f) {
    const Matmul& router = scheme.router;
    const Matmul& expert = scheme.expert;
    const int64_t t = tokens;
    const int64_t n_pairs = t * config.n_active;
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
    f(experts, n_pairs);
    f(expert_weights, n_pairs);
    f(offsets, config.n_experts + 1);
    f(pairs, n_pairs);
    f(row_of_pair, n_pairs);
    f(gathered, n_pairs * expert.row_bytes(config.hidden_size));
    f(intermediate, n_pairs * expert.row_bytes(config.intermediate_size));
    f(expert_out, n_pairs * config.hidden_size);
  }
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
  const StepArrays& arrays() const { return step_; }

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
  KvPages pages(int layer, int sequence) const;

  // f(first token, count) for groups of tokens, in parallel.
  template <class F>
  void for_each_group(int tokens, F&& f);
  // f(expert, row_begin, row_end) for panels of the n_rows rows of every expert that has tokens.
  template <class F>
  void for_each_expert_panel(int n_rows, F&& f);

  using GroupRows = std::array<const float*, kGroupTokens>;
  static GroupRows rows_of(const float* x, int count, int64_t stride);
  float* group_scratch() const;
  void norm_row(const std::vector<float>& weight, int64_t token, float* y) const;
  GroupRows norm_rows(const std::vector<float>& weight, int64_t first, int count) const;
  MatmulTask dense_task(const Matrix& w, const std::vector<float>& bias, float* y,
                        int y_stride) const;
  static MatmulTask expert_task(const ExpertMatrices& matrices, const std::vector<float>& bias,
                                int64_t expert);

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
};

}  // namespace gptoss::cpu
