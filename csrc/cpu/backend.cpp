// The forward pass on the CPU, phase by phase.
#include "backend/backend.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "core/aligned_bytes.h"
#include "core/check.h"
#include "core/thread_pool.h"
#include "cpu/attention.h"
#include "cpu/isa/isa.h"
#include "cpu/kv_storage.h"
#include "cpu/ops.h"
#include "cpu/weights.h"

namespace gptoss::cpu {
namespace {

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

Inputs inputs_of(const BackendOptions& options) {
  return options.precision == Precision::reference ? Inputs::exact : Inputs::fast;
}

KvType kv_type_of(const BackendOptions& options) {
  if (options.precision == Precision::reference) return KvType::f32;
  return options.int8_kv_cache ? KvType::int8 : KvType::f16;
}

const ModelConfig& checked(const ModelConfig& config) {
  check(config.head_dim % 16 == 0 && config.head_dim <= ops::kMaxHeadDim,
        "[cpu] head_dim must be a multiple of 16 up to ", ops::kMaxHeadDim, ", got ",
        config.head_dim);
  return config;
}

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

  void reserve(const ModelConfig& config, int tokens, const Matmul& dense, const Matmul& router,
               const Matmul& expert) {
    const auto grow = [](auto& array, int64_t size) {
      if (array.size() < static_cast<size_t>(size)) array.resize(static_cast<size_t>(size));
    };
    const int64_t t = tokens;
    const int64_t n_pairs = t * config.n_active;
    grow(positions, t);
    grow(sequence_of_token, t);
    grow(rotations, t * config.head_dim);
    grow(x, t * config.hidden_size);
    grow(dense_in,
         t * std::max(dense.row_bytes(config.hidden_size), dense.row_bytes(config.q_size())));
    grow(qkv, t * (config.q_size() + 2 * config.kv_size()));
    grow(attended, t * config.q_size());
    grow(normed, t * config.hidden_size);
    grow(router_in, t * router.row_bytes(config.hidden_size));
    grow(router_logits, t * config.n_experts);
    grow(experts, n_pairs);
    grow(expert_weights, n_pairs);
    grow(offsets, config.n_experts + 1);
    grow(pairs, n_pairs);
    grow(row_of_pair, n_pairs);
    grow(gathered, n_pairs * expert.row_bytes(config.hidden_size));
    grow(intermediate, n_pairs * expert.row_bytes(config.intermediate_size));
    grow(expert_out, n_pairs * config.hidden_size);
  }
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(Weights weights, const BackendOptions& options)
      : kernels_(select_kernels()),
        pool_(resolve_thread_count(options.threads)),
        dense_matmul_(kernels_.matmul(options.dense, inputs_of(options))),
        router_matmul_(kernels_.matmul(Format::bf16, Inputs::exact)),  // much depends on it
        expert_matmul_(kernels_.matmul(Format::mxfp4, inputs_of(options))),
        kv_type_(kv_type_of(options)),
        config_(checked(weights.config)),
        weights_(std::move(weights), options.dense, kernels_, pool_),
        rope_table_(config_.rope, config_.head_dim),
        full_(make_storage(false)),
        window_(make_storage(true)) {
    int n_full = 0;
    int n_window = 0;
    for (const bool window : config_.is_window_layer) {
      index_in_kind_.push_back(window ? n_window++ : n_full++);
    }
  }

  std::string description() const override {
    const Format dense = weights_.unembedding.format;
    return concat("cpu, ", kernels_.name, ", ", pool_.size(),
                  pool_.size() == 1 ? " thread" : " threads", ", KV cache ", name_of(kv_type_),
                  ", expert inputs ", expert_matmul_.inputs, ", dense inputs ",
                  dense_matmul_.inputs, dense == Format::bf16 ? "" : ", dense weights ",
                  dense == Format::bf16 ? ""
                  : dense == Format::q8 ? "int8"
                                        : gptoss::name_of(dense));
  }

  int64_t full_page_bytes() const override { return full_.page_bytes(); }
  int64_t window_page_bytes() const override { return window_.page_bytes(); }
  int64_t free_memory_bytes() const override { return available_memory_bytes(); }

  void allocate_kv(int n_full_pages, int n_window_pages) override {
    full_.allocate(n_full_pages);
    window_.allocate(n_window_pages);
  }

  void copy_kv_page(bool window, int32_t from, int32_t to) override {
    (window ? window_ : full_).copy_page(from, to);
  }

  void begin_step(const StepInput& input) override {
    input_ = input;
    tokens_ = static_cast<int>(input.tokens.size());
    step_.reserve(config_, tokens_, dense_matmul_, router_matmul_, expert_matmul_);
    for (size_t s = 0; s + 1 < input.sequence_offsets.size(); ++s) {
      for (int token = input.sequence_offsets[s]; token < input.sequence_offsets[s + 1]; ++token) {
        step_.positions[static_cast<size_t>(token)] =
            input.first_positions[s] + token - input.sequence_offsets[s];
        step_.sequence_of_token[static_cast<size_t>(token)] = static_cast<int>(s);
      }
    }
    pool_.run(tokens_, [&](int64_t token) {
      float* const cos = step_.rotations.data() + token * config_.head_dim;
      rope_table_.rotation(step_.positions[static_cast<size_t>(token)], cos,
                           cos + config_.head_dim / 2);
    });
  }

  void embed() override {
    pool_.run(tokens_, [&](int64_t t) {
      kernels_.from_bf16(weights_.embedding + input_.tokens[static_cast<size_t>(t)] *
                                                  static_cast<int64_t>(config_.hidden_size),
                         config_.hidden_size, step_.x.data() + t * config_.hidden_size);
    });
  }

  void attention_in(int layer) override {
    const PreparedLayer& w = weights_.layers[static_cast<size_t>(layer)];
    const int hidden = config_.hidden_size;
    for_each_group(tokens_, [&](int64_t first, int count) {
      const auto rows = norm_rows(w.attention_norm, first, count);
      dense_matmul_.pack(rows.data(), count, hidden,
                         step_.dense_in.data() + first * dense_matmul_.row_bytes(hidden));
    });
    float* const qkv = step_.qkv.data();
    const MatmulTask tasks[] = {
        dense_task(w.q, w.q_bias, qkv, qkv_size()),
        dense_task(w.k, w.k_bias, qkv + config_.q_size(), qkv_size()),
        dense_task(w.v, w.v_bias, qkv + config_.q_size() + config_.kv_size(), qkv_size())};
    matmul_panels(dense_matmul_, pool_, tasks);

    pool_.run(tokens_, [&](int64_t t) {
      float* const q = qkv + t * qkv_size();
      float* const k = q + config_.q_size();
      const float* const cos = step_.rotations.data() + t * config_.head_dim;
      const float* const sin = cos + config_.head_dim / 2;
      kernels_.rope(q, config_.n_heads, config_.head_dim, cos, sin);
      kernels_.rope(k, config_.n_kv_heads, config_.head_dim, cos, sin);
      const auto token = static_cast<size_t>(t);
      kernels_.store_kv(pages(layer, step_.sequence_of_token[token]), step_.positions[token], k,
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
    banded_attention(
        kernels_, pool_,
        AttentionBatch{.q = step_.qkv.data(),
                       .q_stride = qkv_size(),
                       .sinks = weights_.layers[static_cast<size_t>(layer)].sinks.data(),
                       .out = step_.attended.data(),
                       .heads = config_.n_heads,
                       .kv_heads = config_.n_kv_heads,
                       .head_dim = config_.head_dim,
                       .window = is_window(layer) ? config_.sliding_window : 0,
                       .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim)),
                       .sequences = sequences});
  }

  void attention_out(int layer) override {
    const int q_size = config_.q_size();
    for_each_group(tokens_, [&](int64_t first, int count) {
      dense_matmul_.pack(rows_of(step_.attended.data() + first * q_size, count, q_size).data(),
                         count, q_size,
                         step_.dense_in.data() + first * dense_matmul_.row_bytes(q_size));
    });
    const PreparedLayer& w = weights_.layers[static_cast<size_t>(layer)];
    MatmulTask task = dense_task(w.o, w.o_bias, step_.x.data(), config_.hidden_size);
    task.accumulate = true;
    matmul_panels(dense_matmul_, pool_, {&task, 1});
  }

  void route(int layer) override {
    const PreparedLayer& w = weights_.layers[static_cast<size_t>(layer)];
    const int hidden = config_.hidden_size;
    for_each_group(tokens_, [&](int64_t first, int count) {
      float* const normed = step_.normed.data() + first * hidden;
      for (int i = 0; i < count; ++i) norm_row(w.mlp_norm, first + i, normed + i * hidden);
      router_matmul_.pack(rows_of(normed, count, hidden).data(), count, hidden,
                          step_.router_in.data() + first * router_matmul_.row_bytes(hidden));
    });
    MatmulTask task =
        dense_task(w.router, w.router_bias, step_.router_logits.data(), config_.n_experts);
    task.x = step_.router_in.data();
    matmul_panels(router_matmul_, pool_, {&task, 1});
    route_topk({.logits = step_.router_logits.data(),
                .experts = step_.experts.data(),
                .weights = step_.expert_weights.data(),
                .tokens = tokens_,
                .n_experts = config_.n_experts,
                .n_active = config_.n_active});
    expert_gather({.x = nullptr,
                   .experts = step_.experts.data(),
                   .rows = nullptr,
                   .pairs = step_.pairs.data(),
                   .offsets = step_.offsets.data(),
                   .tokens = tokens_,
                   .n = config_.hidden_size,
                   .n_experts = config_.n_experts,
                   .n_active = config_.n_active});
    for (int row = 0; row < tokens_ * config_.n_active; ++row) {
      step_.row_of_pair[static_cast<size_t>(step_.pairs[static_cast<size_t>(row)])] = row;
    }
    step_.groups.clear();
    for (int e = 0; e < config_.n_experts; ++e) {
      const int end = step_.offsets[static_cast<size_t>(e) + 1];
      for (int row = step_.offsets[static_cast<size_t>(e)]; row < end; row += kGroupTokens) {
        step_.groups.push_back({row, std::min(kGroupTokens, end - row)});
      }
    }
    pool_.run(static_cast<int64_t>(step_.groups.size()), [&](int64_t index) {
      const auto [first, count] = step_.groups[static_cast<size_t>(index)];
      GroupRows rows;
      for (int i = 0; i < count; ++i) {
        const int token = step_.pairs[static_cast<size_t>(first + i)] / config_.n_active;
        rows[static_cast<size_t>(i)] = step_.normed.data() + static_cast<int64_t>(token) * hidden;
      }
      expert_matmul_.pack(rows.data(), count, hidden,
                          step_.gathered.data() + first * expert_matmul_.row_bytes(hidden));
    });
  }

  // Unit: 64 interleaved gate and up rows of one expert, which make one packed block of 32.
  void experts_in(int layer) override {
    const PreparedLayer& w = weights_.layers[static_cast<size_t>(layer)];
    const int gate_up_rows = 2 * config_.intermediate_size;
    for_each_expert_panel(gate_up_rows, [&](int expert, int row_begin, int row_end) {
      constexpr int kChunkTokens = 128;  // 32 kB of scratch
      float gate_up[kChunkTokens * kPanelRows];
      float h[kGroupTokens * kPanelRows / 2] = {};
      MatmulTask task = expert_task(w.gate_up, w.gate_up_bias, expert);
      task.row_begin = row_begin;
      task.row_end = row_end;
      task.y = gate_up;
      task.y_stride = kPanelRows;
      const int begin = step_.offsets[static_cast<size_t>(expert)];
      const int end = step_.offsets[static_cast<size_t>(expert) + 1];
      for (int row = begin; row < end; row += kChunkTokens) {
        task.x = step_.gathered.data() + row * expert_matmul_.row_bytes(config_.hidden_size);
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
              step_.intermediate.data() +
                  (row + t) * expert_matmul_.row_bytes(config_.intermediate_size));
        }
      }
    });
  }

  void experts_out(int layer) override {
    const PreparedLayer& w = weights_.layers[static_cast<size_t>(layer)];
    const int hidden = config_.hidden_size;
    for_each_expert_panel(hidden, [&](int expert, int row_begin, int row_end) {
      MatmulTask task = expert_task(w.down, w.down_bias, expert);
      const int64_t begin = step_.offsets[static_cast<size_t>(expert)];
      task.row_begin = row_begin;
      task.row_end = row_end;
      task.x =
          step_.intermediate.data() + begin * expert_matmul_.row_bytes(config_.intermediate_size);
      task.tokens = static_cast<int>(step_.offsets[static_cast<size_t>(expert) + 1] - begin);
      task.y = step_.expert_out.data() + begin * hidden + row_begin;
      task.y_stride = hidden;
      expert_matmul_.run(task);
    });
    // The router's order, whatever the order in which experts were computed.
    pool_.run(tokens_, [&](int64_t t) {
      for (int a = 0; a < config_.n_active; ++a) {
        const auto pair = static_cast<size_t>(t * config_.n_active + a);
        kernels_.add_scaled(
            step_.expert_out.data() + static_cast<int64_t>(step_.row_of_pair[pair]) * hidden,
            step_.expert_weights[pair], hidden, step_.x.data() + t * hidden);
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
        norm_row(weights_.final_norm, input_.logit_rows[static_cast<size_t>(first + i)],
                 normed + i * hidden);
      }
      dense_matmul_.pack(rows_of(normed, count, hidden).data(), count, hidden,
                         step_.dense_in.data() + first * dense_matmul_.row_bytes(hidden));
    });
    MatmulTask task = dense_task(weights_.unembedding, {}, logits, config_.vocab_size);
    task.tokens = n_rows;
    matmul_panels(dense_matmul_, pool_, {&task, 1});
  }

 private:
  int qkv_size() const { return config_.q_size() + 2 * config_.kv_size(); }

  bool is_window(int layer) const { return config_.is_window_layer[static_cast<size_t>(layer)]; }

  KvStorage make_storage(bool window) const {
    const auto& layers = config_.is_window_layer;
    return {kv_type_, config_.n_kv_heads, config_.head_dim,
            static_cast<int>(std::count(layers.begin(), layers.end(), window))};
  }

  // Where one layer's keys and values of one sequence of the step are stored.
  KvPages pages(int layer, int sequence) const {
    const auto& table = is_window(layer) ? input_.window_pages : input_.full_pages;
    const auto& offsets = is_window(layer) ? input_.window_page_offsets : input_.full_page_offsets;
    const auto s = static_cast<size_t>(sequence);
    return (is_window(layer) ? window_ : full_)
        .view(index_in_kind_[static_cast<size_t>(layer)],
              table.subspan(static_cast<size_t>(offsets[s]),
                            static_cast<size_t>(offsets[s + 1] - offsets[s])));
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
    kernels_.rms_norm(step_.x.data() + token * hidden, weight.data(), config_.rms_norm_eps, hidden,
                      y);
  }
  // rms_norm of tokens of step_.x, in this thread's scratch.
  GroupRows norm_rows(const std::vector<float>& weight, int64_t first, int count) const {
    const int hidden = config_.hidden_size;
    float* const normed = group_scratch();
    for (int i = 0; i < count; ++i) norm_row(weight, first + i, normed + i * hidden);
    return rows_of(normed, count, hidden);
  }

  // y (T, n) = step_.dense_in @ w^T + bias, for all rows of w.
  MatmulTask dense_task(const Matrix& w, const std::vector<float>& bias, float* y,
                        int y_stride) const {
    return {.x = step_.dense_in.data(),
            .tokens = tokens_,
            .w = w,
            .bias = bias.empty() ? nullptr : bias.data(),
            .y = y,
            .y_stride = y_stride,
            .accumulate = false,
            .row_begin = 0,
            .row_end = w.n};
  }

  // One expert's matrix; x, y, tokens and rows are left to the caller.
  static MatmulTask expert_task(const ExpertMatrices& matrices, const std::vector<float>& bias,
                                int64_t expert) {
    const Matrix w = matrices[expert];
    return {.x = nullptr,
            .tokens = 0,
            .w = w,
            .bias = bias.data() + expert * w.n,
            .y = nullptr,
            .y_stride = 0,
            .accumulate = false,
            .row_begin = 0,
            .row_end = 0};
  }

  // f(expert, row_begin, row_end) for panels of the n_rows rows of every expert that has tokens.
  template <class F>
  void for_each_expert_panel(int n_rows, F&& f) {
    step_.active_experts.clear();
    for (int e = 0; e < config_.n_experts; ++e) {
      if (step_.offsets[static_cast<size_t>(e) + 1] > step_.offsets[static_cast<size_t>(e)]) {
        step_.active_experts.push_back(e);
      }
    }
    const int64_t panels = (n_rows + kPanelRows - 1) / kPanelRows;
    pool_.run(static_cast<int64_t>(step_.active_experts.size()) * panels, [&](int64_t unit) {
      const int begin = static_cast<int>(unit % panels) * kPanelRows;
      f(step_.active_experts[static_cast<size_t>(unit / panels)], begin,
        std::min(n_rows, begin + kPanelRows));
    });
  }

  const Kernels& kernels_;
  ThreadPool pool_;
  const Matmul &dense_matmul_, &router_matmul_, &expert_matmul_;
  const KvType kv_type_;
  const ModelConfig config_;
  const PreparedWeights weights_;
  const ops::RopeTable rope_table_;
  KvStorage full_, window_;
  std::vector<int> index_in_kind_;  // (layers): a layer's place among those of its kind
  StepInput input_;
  int tokens_ = 0;  // T
  StepArrays step_;
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
