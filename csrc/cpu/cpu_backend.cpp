// The forward pass on the CPU. Large weights are used as they lie in the checkpoint, unless dense
// ones are asked for in another form; norms, sinks and biases, which are small, are widened to f32
// when the model is loaded.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "backend/backend.h"
#include "core/aligned_bytes.h"
#include "core/check.h"
#include "core/mapped_file.h"
#include "core/thread_pool.h"
#include "cpu/attention.h"
#include "cpu/isa/isa.h"
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

// A dense matrix as its matmul reads it: bf16 in the checkpoint, or in memory of our own.
struct DenseWeights {
  const void* weights = nullptr;
  const void* scales = nullptr;
};
struct LayerDenseWeights {
  DenseWeights q, k, v, o;
};

const char* name_of(KvType type) {
  switch (type) {
    case KvType::f32:
      return "f32";
    case KvType::f16:
      return "f16";
    case KvType::int8:
      return "int8";
  }
  return "";
}

const Matmul& dense_matmul_of(const Kernels& kernels, const BackendOptions& options) {
  if (options.dense == DenseType::q8) return kernels.q8;
  if (options.dense == DenseType::bf12) return kernels.bf12;
  return options.precision == Precision::reference ? kernels.bf16 : kernels.bf16_fast;
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(Weights weights, const BackendOptions& options)
      : weights_(std::move(weights)),
        config_(weights_.config),
        kernels_(select_kernels()),
        pool_(resolve_thread_count(options.threads)),
        kv_type_(options.precision == Precision::reference ? KvType::f32
                 : options.int8_kv_cache                   ? KvType::int8
                                                           : KvType::f16),
        dense_matmul_(dense_matmul_of(kernels_, options)),
        router_matmul_(kernels_.bf16),  // little work, and much depends on it
        expert_matmul_(options.precision == Precision::reference ? kernels_.mxfp4
                                                                 : kernels_.mxfp4_q8),
        rope_table_(config_.rope, config_.head_dim) {
    check(config_.head_dim % 16 == 0 && config_.head_dim <= ops::kMaxHeadDim,
          "[cpu] head_dim must be a multiple of 16 up to ", ops::kMaxHeadDim, ", got ",
          config_.head_dim);
    widen_small_weights();
    if (options.dense != DenseType::bf16) {
      encode_dense_weights(options.dense);
    } else {
      for (const LayerWeights& w : weights_.layers) {
        dense_.push_back({{w.q.data}, {w.k.data}, {w.v.data}, {w.o.data}});
      }
      unembedding_ = {weights_.unembedding.data};
    }
    for (int i = 0; i < config_.n_layers; ++i) {
      KvPool& pool = kv_pool(i);
      index_in_kind_.push_back(pool.n_layers++);
      pool.layer_bytes = kv_layer_bytes(kv_type_, config_.n_kv_heads, config_.head_dim);
    }
  }

  std::string description() const override {
    return concat("cpu, ", kernels_.name, ", ", pool_.size(),
                  pool_.size() == 1 ? " thread" : " threads", ", KV cache ", name_of(kv_type_),
                  ", expert inputs ", expert_matmul_.inputs, ", dense inputs ",
                  dense_matmul_.inputs,
                  &dense_matmul_ == &kernels_.q8     ? ", dense weights int8"
                  : &dense_matmul_ == &kernels_.bf12 ? ", dense weights bf12"
                                                     : "");
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
    grow(dense_in_, t * static_cast<size_t>(std::max(dense_matmul_.row_bytes(config_.hidden_size),
                                                     dense_matmul_.row_bytes(config_.q_size()))));
    grow(router_in_, t * static_cast<size_t>(router_matmul_.row_bytes(config_.hidden_size)));
    grow(qkv_, t * static_cast<size_t>(qkv_size()));
    grow(attended_, t * static_cast<size_t>(config_.q_size()));
    grow(router_logits_, t * static_cast<size_t>(config_.n_experts));
    grow(expert_weights_, pairs);
    grow(expert_out_, pairs * hidden);
    grow(normed_, t * hidden);
    grow(gathered_, pairs * static_cast<size_t>(expert_matmul_.row_bytes(config_.hidden_size)));
    grow(intermediate_,
         pairs * static_cast<size_t>(expert_matmul_.row_bytes(config_.intermediate_size)));
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
    const LayerDenseWeights& w = dense_[static_cast<size_t>(layer)];
    const SmallWeights& small = small_[static_cast<size_t>(layer)];
    const int hidden = config_.hidden_size;
    for_each_group(tokens_, [&](int64_t first, int count) {
      const auto rows = norm_rows(small.attention_norm, first, count);
      dense_matmul_.pack(rows.data(), count, hidden,
                         dense_in_.data() + first * dense_matmul_.row_bytes(hidden));
    });
    float* const qkv = qkv_.data();
    const MatmulTask tasks[] = {
        dense_task(w.q, small.q_bias, config_.q_size(), qkv, qkv_size()),
        dense_task(w.k, small.k_bias, config_.kv_size(), qkv + config_.q_size(), qkv_size()),
        dense_task(w.v, small.v_bias, config_.kv_size(), qkv + config_.q_size() + config_.kv_size(),
                   qkv_size())};
    matmul_panels(dense_matmul_, pool_, tasks);

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
    for_each_group(tokens_, [&](int64_t first, int count) {
      dense_matmul_.pack(rows_of(attended_.data() + first * q_size, count, q_size).data(), count,
                         q_size, dense_in_.data() + first * dense_matmul_.row_bytes(q_size));
    });
    MatmulTask task =
        dense_task(dense_[static_cast<size_t>(layer)].o, small_[static_cast<size_t>(layer)].o_bias,
                   config_.hidden_size, x_.data(), config_.hidden_size);
    task.k = q_size;
    task.accumulate = true;
    matmul_panels(dense_matmul_, pool_, {&task, 1});
  }

  void route(int layer) override {
    const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
    const SmallWeights& small = small_[static_cast<size_t>(layer)];
    const int hidden = config_.hidden_size;
    for_each_group(tokens_, [&](int64_t first, int count) {
      float* const normed = normed_.data() + first * hidden;
      for (int i = 0; i < count; ++i) norm_row(small.mlp_norm, first + i, normed + i * hidden);
      router_matmul_.pack(rows_of(normed, count, hidden).data(), count, hidden,
                          router_in_.data() + first * router_matmul_.row_bytes(hidden));
    });
    MatmulTask task = dense_task({w.router.data}, small.router_bias, config_.n_experts,
                                 router_logits_.data(), config_.n_experts);
    task.x = router_in_.data();
    matmul_panels(router_matmul_, pool_, {&task, 1});
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
    for (size_t row = 0; row < pairs_.size(); ++row) {
      row_of_pair_[static_cast<size_t>(pairs_[row])] = static_cast<int32_t>(row);
    }
    // Groups begin anew with every expert.
    groups_.clear();
    for (int e = 0; e < config_.n_experts; ++e) {
      const int end = offsets_[static_cast<size_t>(e) + 1];
      for (int row = offsets_[static_cast<size_t>(e)]; row < end; row += kGroupTokens) {
        groups_.push_back({row, std::min(kGroupTokens, end - row)});
      }
    }
    pool_.run(static_cast<int64_t>(groups_.size()), [&](int64_t index) {
      const auto [first, count] = groups_[static_cast<size_t>(index)];
      GroupRows rows;
      for (int i = 0; i < count; ++i) {
        const int token = pairs_[static_cast<size_t>(first + i)] / config_.n_active;
        rows[static_cast<size_t>(i)] = normed_.data() + static_cast<int64_t>(token) * hidden;
      }
      expert_matmul_.pack(rows.data(), count, hidden,
                          gathered_.data() + first * expert_matmul_.row_bytes(hidden));
    });
  }

  // Unit: 64 interleaved gate and up rows of one expert, which make one packed block of 32.
  void experts_in(int layer) override {
    const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
    const SmallWeights& small = small_[static_cast<size_t>(layer)];
    const int gate_up_rows = 2 * config_.intermediate_size;
    for_each_expert_panel(gate_up_rows, [&](int expert, int row_begin, int row_end) {
      constexpr int kChunkTokens = 128;  // 32 kB of scratch
      float gate_up[kChunkTokens * kPanelRows];
      float h[kGroupTokens * kPanelRows / 2] = {};
      MatmulTask task = expert_task(w.gate_up_blocks, w.gate_up_scales, small.gate_up_bias, expert,
                                    gate_up_rows, config_.hidden_size);
      task.row_begin = row_begin;
      task.row_end = row_end;
      task.y = gate_up;
      task.y_stride = kPanelRows;
      const int begin = offsets_[static_cast<size_t>(expert)];
      const int end = offsets_[static_cast<size_t>(expert) + 1];
      for (int row = begin; row < end; row += kChunkTokens) {
        task.x = gathered_.data() + row * expert_matmul_.row_bytes(config_.hidden_size);
        task.tokens = std::min(kChunkTokens, end - row);
        expert_matmul_.run(task);
        for (int t = 0; t < task.tokens; t += kGroupTokens) {
          const int count = std::min(kGroupTokens, task.tokens - t);
          for (int i = 0; i < count; ++i) {
            kernels_.swiglu(gate_up + (t + i) * kPanelRows, kPanelRows / 2, config_.swiglu_limit,
                            h + i * kPanelRows / 2);
          }
          expert_matmul_.pack_block(
              h, kPanelRows / 2, count, config_.intermediate_size, row_begin / kPanelRows,
              intermediate_.data() +
                  (row + t) * expert_matmul_.row_bytes(config_.intermediate_size));
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
      task.x = intermediate_.data() + begin * expert_matmul_.row_bytes(config_.intermediate_size);
      task.tokens = static_cast<int>(offsets_[static_cast<size_t>(expert) + 1] - begin);
      task.y = expert_out_.data() + begin * hidden + row_begin;
      task.y_stride = hidden;
      expert_matmul_.run(task);
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
    const int hidden = config_.hidden_size;
    for_each_group(n_rows, [&](int64_t first, int count) {
      float* const normed = group_scratch();
      for (int i = 0; i < count; ++i) {
        norm_row(final_norm_, input_.logit_rows[static_cast<size_t>(first + i)],
                 normed + i * hidden);
      }
      dense_matmul_.pack(rows_of(normed, count, hidden).data(), count, hidden,
                         dense_in_.data() + first * dense_matmul_.row_bytes(hidden));
    });
    MatmulTask task = dense_task(unembedding_, {}, config_.vocab_size, logits, config_.vocab_size);
    task.tokens = n_rows;
    matmul_panels(dense_matmul_, pool_, {&task, 1});
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

  // Every dense matrix in int8 or bf12, made by all threads from the checkpoint's bf16, whose pages
  // the system may then have back.
  void encode_dense_weights(DenseType type) {
    const auto bytes = [&](const TensorView& w) {
      const int64_t rows = w.shape[0];
      const int64_t k = w.shape[1];
      if (type == DenseType::bf12) return rows * bf12_row_bytes(k);
      check(k % kQ8Block == 0, "[cpu] dense weights in int8 need in-features in whole blocks of ",
            kQ8Block, ", got ", k);
      return rows * (k + k / kQ8Block * int64_t{sizeof(uint16_t)});
    };
    int64_t total = bytes(weights_.unembedding);
    for (const LayerWeights& w : weights_.layers) {
      total += bytes(w.q) + bytes(w.k) + bytes(w.v) + bytes(w.o);
    }
    encoded_ = LazyMemory(total);
    uint8_t* next = encoded_.data();
    const auto encode = [&](const std::string& name, const TensorView& w) {
      uint8_t* const to = next;
      next += bytes(w);
      const auto* const from = reinterpret_cast<const uint16_t*>(w.data);
      const auto rows = static_cast<int>(w.shape[0]);
      const auto k = static_cast<int>(w.shape[1]);
      DenseWeights encoded = {to, nullptr};
      try {
        if (type == DenseType::bf12) {
          std::vector<uint16_t>& escapes = escapes_.emplace_back();
          bf12_encode(pool_, {.w = from, .rows = to, .escapes = &escapes, .n = rows, .k = k});
          encoded.scales = escapes.data();
        } else {
          auto* const codes = reinterpret_cast<int8_t*>(to);
          auto* const scales = reinterpret_cast<uint16_t*>(to + int64_t{rows} * k);
          q8_encode(kernels_, pool_,
                    {.w = from, .codes = codes, .scales = scales, .n = rows, .k = k});
          encoded.scales = scales;
        }
      } catch (const std::invalid_argument& error) {
        throw CheckpointError(concat("tensor ", name, ".weight: ", error.what()));
      }
      if (w.mapped) release_file_pages(w.data, int64_t{rows} * k * size_of(w.dtype));
      return encoded;
    };
    for (const LayerWeights& w : weights_.layers) {
      const std::string attention = concat("model.layers.", dense_.size(), ".self_attn.");
      dense_.push_back({encode(attention + "q_proj", w.q), encode(attention + "k_proj", w.k),
                        encode(attention + "v_proj", w.v), encode(attention + "o_proj", w.o)});
    }
    unembedding_ = encode("lm_head", weights_.unembedding);
  }

  // f(first token, count) for groups of tokens, in parallel.
  template <class F>
  void for_each_group(int tokens, F&& f) {
    pool_.run(group_count(tokens), [&](int64_t group) {
      const int64_t first = group * kGroupTokens;
      f(first, static_cast<int>(std::min<int64_t>(kGroupTokens, tokens - first)));
    });
  }

  using GroupRows = std::array<const float*, kGroupTokens>;
  static GroupRows rows_of(const float* x, int count, int64_t stride) {
    GroupRows rows;
    for (int i = 0; i < count; ++i) rows[static_cast<size_t>(i)] = x + i * stride;
    return rows;
  }

  // This thread's scratch for a group of rows of the residual stream: (16, hidden).
  float* group_scratch() const {
    static thread_local std::vector<float> rows;
    const auto size = static_cast<size_t>(kGroupTokens) * static_cast<size_t>(config_.hidden_size);
    if (rows.size() < size) rows.resize(size);
    return rows.data();
  }
  void norm_row(const std::vector<float>& weight, int64_t token, float* y) const {
    const int hidden = config_.hidden_size;
    kernels_.rms_norm(x_.data() + token * hidden, weight.data(), config_.rms_norm_eps, hidden, y);
  }
  // rms_norm of tokens of x_, in this thread's scratch.
  GroupRows norm_rows(const std::vector<float>& weight, int64_t first, int count) const {
    const int hidden = config_.hidden_size;
    float* const normed = group_scratch();
    for (int i = 0; i < count; ++i) norm_row(weight, first + i, normed + i * hidden);
    return rows_of(normed, count, hidden);
  }

  // y (T, n) = dense_in_ @ w^T + bias, for all rows of w.
  MatmulTask dense_task(const DenseWeights& w, const std::vector<float>& bias, int n, float* y,
                        int y_stride) const {
    return {.x = dense_in_.data(),
            .tokens = tokens_,
            .k = config_.hidden_size,
            .weights = w.weights,
            .scales = w.scales,
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
    const int64_t panels = (n_rows + kPanelRows - 1) / kPanelRows;
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
  const Matmul &dense_matmul_, &router_matmul_, &expert_matmul_;
  const ops::RopeTable rope_table_;
  std::vector<SmallWeights> small_;  // (layers)
  std::vector<float> final_norm_;    // (hidden)

  std::vector<LayerDenseWeights> dense_;  // (layers)
  DenseWeights unembedding_;
  LazyMemory encoded_;                          // dense weights that are not the checkpoint's
  std::vector<std::vector<uint16_t>> escapes_;  // of those in bf12

  KvPool full_, window_;
  std::vector<int> index_in_kind_;  // (layers): a layer's place among those of its kind

  // One step's state.
  StepInput input_;
  int tokens_ = 0;                      // T
  std::vector<int32_t> positions_;      // (T)
  std::vector<int> sequence_of_token_;  // (T)
  std::vector<float> rotations_;        // (T, D): cos (D/2), sin (D/2)
  std::vector<float> x_;                // (T, hidden): the residual stream
  AlignedBytes dense_in_;               // (T) activations of a dense matmul, packed
  std::vector<float> normed_;           // (T, hidden): inputs of router and experts
  AlignedBytes router_in_;              // (T) the same of the router's
  std::vector<float> qkv_;              // (T, (H + 2G) * D)
  std::vector<float> attended_;         // (T, H*D)
  std::vector<float> router_logits_;    // (T, E)
  std::vector<int32_t> experts_;        // (T, A)
  std::vector<float> expert_weights_;   // (T, A)
  std::vector<int32_t> pairs_;          // (T*A): sorted by expert
  std::vector<int32_t> row_of_pair_;    // (T*A): the inverse of pairs_
  std::vector<int32_t> offsets_;        // (E + 1)
  std::vector<int> active_experts_;
  struct Group {
    int first, count;  // of the rows sorted by expert
  };
  std::vector<Group> groups_;      // activations of one expert, packed together
  AlignedBytes gathered_;          // (T*A) experts' inputs, packed, sorted by expert
  AlignedBytes intermediate_;      // (T*A) of the experts' second matmul, likewise
  std::vector<float> expert_out_;  // (T*A, hidden)
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
