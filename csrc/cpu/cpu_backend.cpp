// The forward pass on the CPU. Large weights are used as they lie in the checkpoint; norms, sinks
// and biases, which are small, are widened to f32 when the model is loaded.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "backend/backend.h"
#include "core/check.h"
#include "core/mapped_file.h"
#include "core/thread_pool.h"
#include "cpu/attention.h"
#include "cpu/isa.h"
#include "cpu/ops.h"

namespace gptoss::cpu {
namespace {

struct SmallWeights {
  std::vector<float> attention_norm, mlp_norm;  // (hidden)
  std::vector<float> q_bias, k_bias, v_bias;    // (H*D | G*D | G*D)
  std::vector<float> sinks;                     // (H)
  std::vector<float> o_bias;                    // (hidden)
  std::vector<float> router_bias;               // (E)
  std::vector<float> gate_up_bias, down_bias;   // (E, 2I), (E, hidden)
};

// Pages of one kind of layer. A page holds all layers of the kind: layer l of the kind starts at
// l * layer_bytes.
struct KvPool {
  int64_t layer_bytes = 0;
  int n_layers = 0;
  LazyMemory memory;

  int64_t page_bytes() const { return layer_bytes * n_layers; }
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(Weights weights, const BackendOptions& options)
      : weights_(std::move(weights)),
        config_(weights_.config),
        kernels_(select_kernels()),
        pool_(resolve_thread_count(options.threads)),
        kv_type_(options.precision == Precision::reference ? KvType::f32 : KvType::f16),
        int8_experts_(options.precision == Precision::automatic),
        rope_table_(config_.rope, config_.head_dim) {
    check(config_.head_dim % 16 == 0 && config_.head_dim <= ops::kMaxHeadDim,
          "[cpu] head_dim must be a multiple of 16 up to ", ops::kMaxHeadDim, ", got ",
          config_.head_dim);
    widen_small_weights();
    for (int i = 0; i < config_.n_layers; ++i) {
      KvPool& pool = kv_pool(i);
      index_in_kind_.push_back(pool.n_layers++);
      pool.layer_bytes = int64_t{2} * config_.kv_size() * kPageTokens * size_of(kv_type_);
    }
  }

  std::string description() const override {
    return concat("cpu, ", kernels_.name, ", ", pool_.size(),
                  pool_.size() == 1 ? " thread" : " threads", ", KV cache ",
                  kv_type_ == KvType::f32 ? "f32" : "f16", ", expert inputs ",
                  int8_experts_ ? "int8" : "f32");
  }

  int64_t full_page_bytes() const override { return full_.page_bytes(); }
  int64_t window_page_bytes() const override { return window_.page_bytes(); }
  int64_t free_memory_bytes() const override { return available_memory_bytes(); }

  void allocate_kv(int n_full_pages, int n_window_pages) override {
    full_.memory = LazyMemory(n_full_pages * full_.page_bytes());
    window_.memory = LazyMemory(n_window_pages * window_.page_bytes());
  }

  void copy_kv_page(bool window, int32_t from, int32_t to) override {
    const KvPool& pool = window ? window_ : full_;
    std::memcpy(pool.memory.data() + to * pool.page_bytes(),
                pool.memory.data() + from * pool.page_bytes(),
                static_cast<size_t>(pool.page_bytes()));
  }

  void begin_step(const StepInput& input) override {
    input_ = input;
    tokens_ = static_cast<int>(input.tokens.size());
    const auto t = static_cast<size_t>(tokens_);
    const auto pairs = t * static_cast<size_t>(config_.n_active);
    const auto hidden = static_cast<size_t>(config_.hidden_size);
    const auto grow = [](auto& buffer, size_t size) {
      if (buffer.size() < size) buffer.resize(size);
    };
    grow(x_, t * hidden);
    grow(normed_, t * static_cast<size_t>(packed_size(config_.hidden_size)));
    grow(qkv_, t * static_cast<size_t>(qkv_size()));
    grow(attended_, t * static_cast<size_t>(config_.q_size()));
    grow(attended_packed_, t * static_cast<size_t>(packed_size(config_.q_size())));
    grow(router_logits_, t * static_cast<size_t>(config_.n_experts));
    grow(expert_weights_, pairs);
    grow(expert_out_, pairs * hidden);
    // Zero at first, and so stays the padding of int8 rows.
    grow(expert_in_, t * static_cast<size_t>(expert_row_bytes(config_.hidden_size)));
    grow(gathered_, pairs * static_cast<size_t>(expert_row_bytes(config_.hidden_size)));
    grow(intermediate_, pairs * static_cast<size_t>(expert_row_bytes(config_.intermediate_size)));
    experts_.resize(pairs);
    pairs_.resize(pairs);
    row_of_pair_.resize(pairs);
    offsets_.resize(static_cast<size_t>(config_.n_experts) + 1);

    // Angles are the same in every layer.
    grow(rotations_, t * static_cast<size_t>(config_.head_dim));
    positions_.resize(t);
    sequence_of_token_.resize(t);
    for (size_t s = 0; s + 1 < input.sequence_offsets.size(); ++s) {
      for (int token = input.sequence_offsets[s]; token < input.sequence_offsets[s + 1]; ++token) {
        positions_[static_cast<size_t>(token)] =
            input.first_positions[s] + token - input.sequence_offsets[s];
        sequence_of_token_[static_cast<size_t>(token)] = static_cast<int>(s);
      }
    }
    pool_.run(tokens_, [&](int64_t token) {
      float* const cos = rotations_.data() + token * config_.head_dim;
      rope_table_.rotation(positions_[static_cast<size_t>(token)], cos, cos + config_.head_dim / 2);
    });
  }

  void embed() override {
    const auto* const table = reinterpret_cast<const uint16_t*>(weights_.embedding.data);
    pool_.run(tokens_, [&](int64_t t) {
      kernels_.from_bf16(
          table + input_.tokens[static_cast<size_t>(t)] * static_cast<int64_t>(config_.hidden_size),
          config_.hidden_size, x_.data() + t * config_.hidden_size);
    });
  }

  void attention_in(int layer) override {
    const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
    const SmallWeights& small = small_[static_cast<size_t>(layer)];
    pool_.run(tokens_, [&](int64_t t) { norm_row(small.attention_norm, t, t); });
    float* const qkv = qkv_.data();
    const MatmulTask tasks[] = {
        hidden_task(w.q, small.q_bias, config_.q_size(), qkv, qkv_size()),
        hidden_task(w.k, small.k_bias, config_.kv_size(), qkv + config_.q_size(), qkv_size()),
        hidden_task(w.v, small.v_bias, config_.kv_size(),
                    qkv + config_.q_size() + config_.kv_size(), qkv_size())};
    matmul_panels(kernels_.matmul_bf16, pool_, tasks);

    pool_.run(tokens_, [&](int64_t t) {
      float* const q = qkv + t * qkv_size();
      float* const k = q + config_.q_size();
      const float* const cos = rotations_.data() + t * config_.head_dim;
      const float* const sin = cos + config_.head_dim / 2;
      kernels_.rope(q, config_.n_heads, config_.head_dim, cos, sin);
      kernels_.rope(k, config_.n_kv_heads, config_.head_dim, cos, sin);
      const auto token = static_cast<size_t>(t);
      kernels_.store_kv(pages(layer, sequence_of_token_[token]), positions_[token], k,
                        k + config_.kv_size());
    });
  }

  void attend(int layer) override {
    std::vector<AttentionSequence> sequences;
    for (size_t s = 0; s + 1 < input_.sequence_offsets.size(); ++s) {
      sequences.push_back({input_.sequence_offsets[s],
                           input_.sequence_offsets[s + 1] - input_.sequence_offsets[s],
                           input_.first_positions[s], pages(layer, static_cast<int>(s))});
    }
    const bool is_window = config_.is_window_layer[static_cast<size_t>(layer)];
    banded_attention(kernels_, pool_,
                     AttentionBatch{.q = qkv_.data(),
                                    .q_stride = qkv_size(),
                                    .sinks = small_[static_cast<size_t>(layer)].sinks.data(),
                                    .out = attended_.data(),
                                    .heads = config_.n_heads,
                                    .kv_heads = config_.n_kv_heads,
                                    .head_dim = config_.head_dim,
                                    .window = is_window ? config_.sliding_window : 0,
                                    .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim)),
                                    .sequences = sequences});
  }

  void attention_out(int layer) override {
    const int q_size = config_.q_size();
    pool_.run(tokens_, [&](int64_t t) {
      kernels_.pack(attended_.data() + t * q_size, q_size,
                    attended_packed_.data() + t * packed_size(q_size));
    });
    const MatmulTask task = {.x = attended_packed_.data(),
                             .x_stride_bytes = packed_size(q_size) * int64_t{sizeof(float)},
                             .tokens = tokens_,
                             .k = q_size,
                             .weights = weights_.layers[static_cast<size_t>(layer)].o.data,
                             .scales = nullptr,
                             .bias = small_[static_cast<size_t>(layer)].o_bias.data(),
                             .y = x_.data(),
                             .y_stride = config_.hidden_size,
                             .accumulate = true,
                             .row_begin = 0,
                             .row_end = config_.hidden_size};
    matmul_panels(kernels_.matmul_bf16, pool_, {&task, 1});
  }

  void route(int layer) override {
    const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
    const SmallWeights& small = small_[static_cast<size_t>(layer)];
    const int64_t row_bytes = expert_row_bytes(config_.hidden_size);
    pool_.run(tokens_, [&](int64_t t) {
      const float* const normed = norm_row(small.mlp_norm, t, t);
      write_expert_row(normed, config_.hidden_size, expert_in_.data() + t * row_bytes);
    });
    const MatmulTask task = hidden_task(w.router, small.router_bias, config_.n_experts,
                                        router_logits_.data(), config_.n_experts);
    matmul_panels(kernels_.matmul_bf16, pool_, {&task, 1});
    route_topk({.logits = router_logits_.data(),
                .experts = experts_.data(),
                .weights = expert_weights_.data(),
                .tokens = tokens_,
                .n_experts = config_.n_experts,
                .n_active = config_.n_active});
    expert_gather({.x = nullptr,
                   .experts = experts_.data(),
                   .rows = nullptr,
                   .pairs = pairs_.data(),
                   .offsets = offsets_.data(),
                   .tokens = tokens_,
                   .n = config_.hidden_size,
                   .n_experts = config_.n_experts,
                   .n_active = config_.n_active});
    pool_.run(static_cast<int64_t>(pairs_.size()), [&](int64_t row) {
      const int pair = pairs_[static_cast<size_t>(row)];
      row_of_pair_[static_cast<size_t>(pair)] = static_cast<int32_t>(row);
      std::memcpy(gathered_.data() + row * row_bytes,
                  expert_in_.data() + pair / config_.n_active * row_bytes,
                  static_cast<size_t>(row_bytes));
    });
  }

  // Unit: 64 interleaved gate and up rows of one expert, which make one packed block of 32.
  void experts_in(int layer) override {
    const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
    const SmallWeights& small = small_[static_cast<size_t>(layer)];
    const int gate_up_rows = 2 * config_.intermediate_size;
    for_each_expert_panel(gate_up_rows, [&](int expert, int row_begin, int row_end) {
      constexpr int kChunkTokens = 64;  // 16 kB of scratch
      float gate_up[kChunkTokens * kPanelRows];
      float h[kPanelRows / 2];
      MatmulTask task = expert_task(w.gate_up_blocks, w.gate_up_scales, small.gate_up_bias, expert,
                                    gate_up_rows, config_.hidden_size);
      task.row_begin = row_begin;
      task.row_end = row_end;
      task.y = gate_up;
      task.y_stride = kPanelRows;
      const int begin = offsets_[static_cast<size_t>(expert)];
      const int end = offsets_[static_cast<size_t>(expert) + 1];
      for (int row = begin; row < end; row += kChunkTokens) {
        task.x = gathered_.data() + row * expert_row_bytes(config_.hidden_size);
        task.tokens = std::min(kChunkTokens, end - row);
        expert_matmul(task);
        for (int t = 0; t < task.tokens; ++t) {
          kernels_.swiglu(gate_up + t * kPanelRows, kPanelRows / 2, config_.swiglu_limit, h);
          uint8_t* const out =
              intermediate_.data() + (row + t) * expert_row_bytes(config_.intermediate_size);
          if (int8_experts_) {
            kernels_.quantize_q8_block(h, config_.intermediate_size, row_begin / kPanelRows, out);
          } else {
            kernels_.pack(h, kPanelRows / 2, reinterpret_cast<float*>(out) + row_begin / 2);
          }
        }
      }
    });
  }

  void experts_out(int layer) override {
    const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
    const SmallWeights& small = small_[static_cast<size_t>(layer)];
    const int hidden = config_.hidden_size;
    for_each_expert_panel(hidden, [&](int expert, int row_begin, int row_end) {
      MatmulTask task = expert_task(w.down_blocks, w.down_scales, small.down_bias, expert, hidden,
                                    config_.intermediate_size);
      const int64_t begin = offsets_[static_cast<size_t>(expert)];
      task.row_begin = row_begin;
      task.row_end = row_end;
      task.x = intermediate_.data() + begin * expert_row_bytes(config_.intermediate_size);
      task.tokens = static_cast<int>(offsets_[static_cast<size_t>(expert) + 1] - begin);
      task.y = expert_out_.data() + begin * hidden + row_begin;
      task.y_stride = hidden;
      expert_matmul(task);
    });
    // The router's order, whatever the order in which experts were computed.
    pool_.run(tokens_, [&](int64_t t) {
      for (int a = 0; a < config_.n_active; ++a) {
        const auto pair = static_cast<size_t>(t * config_.n_active + a);
        kernels_.add_scaled(expert_out_.data() + static_cast<int64_t>(row_of_pair_[pair]) * hidden,
                            expert_weights_[pair], hidden, x_.data() + t * hidden);
      }
    });
  }

  void unembed(float* logits) override {
    const auto n_rows = static_cast<int>(input_.logit_rows.size());
    if (n_rows == 0) return;
    pool_.run(n_rows, [&](int64_t i) {
      norm_row(final_norm_, input_.logit_rows[static_cast<size_t>(i)], i);
    });
    MatmulTask task =
        hidden_task(weights_.unembedding, {}, config_.vocab_size, logits, config_.vocab_size);
    task.tokens = n_rows;
    matmul_panels(kernels_.matmul_bf16, pool_, {&task, 1});
  }

 private:
  int qkv_size() const { return config_.q_size() + 2 * config_.kv_size(); }

  KvPool& kv_pool(int layer) {
    return config_.is_window_layer[static_cast<size_t>(layer)] ? window_ : full_;
  }

  KvPages pages(int layer, int sequence) {
    const bool is_window = config_.is_window_layer[static_cast<size_t>(layer)];
    const auto& table = is_window ? input_.window_pages : input_.full_pages;
    const auto& offsets = is_window ? input_.window_page_offsets : input_.full_page_offsets;
    const auto s = static_cast<size_t>(sequence);
    const KvPool& pool = kv_pool(layer);
    return {
        .base = pool.memory.data() + index_in_kind_[static_cast<size_t>(layer)] * pool.layer_bytes,
        .page_bytes = pool.page_bytes(),
        .table = table.data() + offsets[s],
        .table_size = offsets[s + 1] - offsets[s],
        .type = kv_type_,
        .kv_heads = config_.n_kv_heads,
        .head_dim = config_.head_dim};
  }

  std::vector<float> widen(const TensorView& tensor) const {
    int64_t n = 1;
    for (const int64_t size : tensor.shape) n *= size;
    std::vector<float> values(static_cast<size_t>(n));
    kernels_.from_bf16(reinterpret_cast<const uint16_t*>(tensor.data), n, values.data());
    return values;
  }

  void widen_small_weights() {
    final_norm_ = widen(weights_.final_norm);
    for (const LayerWeights& w : weights_.layers) {
      small_.push_back({widen(w.attention_norm), widen(w.mlp_norm), widen(w.q_bias),
                        widen(w.k_bias), widen(w.v_bias), widen(w.sinks), widen(w.o_bias),
                        widen(w.router_bias), widen(w.gate_up_bias), widen(w.down_bias)});
    }
  }

  // Row `to` of normed_ = packed rms_norm of row `from` of x_. Returns it unpacked, valid until
  // this thread's next call.
  const float* norm_row(const std::vector<float>& weight, int64_t from, int64_t to) {
    static thread_local std::vector<float> row;
    const int hidden = config_.hidden_size;
    row.resize(static_cast<size_t>(hidden));
    kernels_.rms_norm(x_.data() + from * hidden, weight.data(), config_.rms_norm_eps, hidden,
                      row.data());
    kernels_.pack(row.data(), hidden, normed_.data() + to * packed_size(hidden));
    return row.data();
  }

  // What the experts' matmuls read: Q8 rows or packed f32.
  int64_t expert_row_bytes(int64_t k) const {
    return int8_experts_ ? q8_row_bytes(k) : packed_size(k) * int64_t{sizeof(float)};
  }
  void write_expert_row(const float* x, int k, uint8_t* row) const {
    if (int8_experts_) {
      kernels_.quantize_q8(x, k, row);
    } else {
      kernels_.pack(x, k, reinterpret_cast<float*>(row));
    }
  }
  void expert_matmul(const MatmulTask& task) const {
    if (int8_experts_) {
      kernels_.matmul_mxfp4_q8(task);
    } else {
      kernels_.matmul_mxfp4(task);
    }
  }

  // y (T, n) = normed_ @ w^T + bias, for all rows of w.
  MatmulTask hidden_task(const TensorView& w, const std::vector<float>& bias, int n, float* y,
                         int y_stride) const {
    return {.x = normed_.data(),
            .x_stride_bytes = packed_size(config_.hidden_size) * int64_t{sizeof(float)},
            .tokens = tokens_,
            .k = config_.hidden_size,
            .weights = w.data,
            .scales = nullptr,
            .bias = bias.empty() ? nullptr : bias.data(),
            .y = y,
            .y_stride = y_stride,
            .accumulate = false,
            .row_begin = 0,
            .row_end = n};
  }

  // One expert's matrix (n, k); x, y, tokens and rows are left to the caller.
  MatmulTask expert_task(const TensorView& blocks, const TensorView& scales,
                         const std::vector<float>& bias, int64_t expert, int n, int k) const {
    return {.x = nullptr,
            .x_stride_bytes = expert_row_bytes(k),
            .tokens = 0,
            .k = k,
            .weights = blocks.data + expert * n * (k / kMxfp4BlockSize) * kMxfp4BlockBytes,
            .scales = scales.data + expert * n * (k / kMxfp4BlockSize),
            .bias = bias.data() + expert * n,
            .y = nullptr,
            .y_stride = 0,
            .accumulate = false,
            .row_begin = 0,
            .row_end = 0};
  }

  // f(expert, row_begin, row_end) for panels of the n_rows rows of every expert that has tokens.
  template <class F>
  void for_each_expert_panel(int n_rows, F&& f) {
    active_experts_.clear();
    for (int e = 0; e < config_.n_experts; ++e) {
      if (offsets_[static_cast<size_t>(e) + 1] > offsets_[static_cast<size_t>(e)]) {
        active_experts_.push_back(e);
      }
    }
    const int panels = (n_rows + kPanelRows - 1) / kPanelRows;
    pool_.run(static_cast<int64_t>(active_experts_.size()) * panels, [&](int64_t unit) {
      const int begin = static_cast<int>(unit % panels) * kPanelRows;
      f(active_experts_[static_cast<size_t>(unit / panels)], begin,
        std::min(n_rows, begin + kPanelRows));
    });
  }

  const Weights weights_;
  const ModelConfig& config_;
  const Kernels& kernels_;
  ThreadPool pool_;
  const KvType kv_type_;
  const bool int8_experts_;
  const ops::RopeTable rope_table_;
  std::vector<SmallWeights> small_;  // (layers)
  std::vector<float> final_norm_;    // (hidden)

  KvPool full_, window_;
  std::vector<int> index_in_kind_;  // (layers): a layer's place among those of its kind

  // One step's state.
  StepInput input_;
  int tokens_ = 0;                      // T
  std::vector<int32_t> positions_;      // (T)
  std::vector<int> sequence_of_token_;  // (T)
  std::vector<float> rotations_;        // (T, D): cos (D/2), sin (D/2)
  std::vector<float> x_;                // (T, hidden): the residual stream
  std::vector<float> normed_;           // (T, hidden) packed
  std::vector<float> qkv_;              // (T, (H + 2G) * D)
  std::vector<float> attended_;         // (T, H*D)
  std::vector<float> attended_packed_;  // (T, H*D) packed
  std::vector<float> router_logits_;    // (T, E)
  std::vector<int32_t> experts_;        // (T, A)
  std::vector<float> expert_weights_;   // (T, A)
  std::vector<int32_t> pairs_;          // (T*A): sorted by expert
  std::vector<int32_t> row_of_pair_;    // (T*A): the inverse of pairs_
  std::vector<int32_t> offsets_;        // (E + 1)
  std::vector<int> active_experts_;
  std::vector<uint8_t> expert_in_;     // (T) expert rows of hidden
  std::vector<uint8_t> gathered_;      // (T*A) expert rows of hidden, sorted by expert
  std::vector<uint8_t> intermediate_;  // (T*A) expert rows of I, likewise
  std::vector<float> expert_out_;      // (T*A, hidden)
};

}  // namespace

BackendInfo info() {
  try {
    const Kernels& kernels = select_kernels();
    return {"cpu", true, concat(kernels.name, ", ", resolve_thread_count(0), " threads")};
  } catch (const std::exception& error) {
    return {"cpu", false, error.what()};
  }
}

std::unique_ptr<Backend> make(Weights weights, const BackendOptions& options) {
  return std::make_unique<CpuBackend>(std::move(weights), options);
}

}  // namespace gptoss::cpu
