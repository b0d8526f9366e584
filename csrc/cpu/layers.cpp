#include "cpu/layers.h"

#include <bit>
#include <cmath>
#include <utility>

#include "core/check.h"
#include "core/ggml.h"
#include "cpu/attention.h"
#include "cpu/isa/isa.h"

namespace gptoss::cpu {
namespace {

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

}  // namespace

Scheme::Scheme(const Kernels& table, const BackendOptions& options)
    : kernels(table),
      dense(kernels.matmul(options.dense, inputs_of(options))),
      q8_0(kernels.matmul(Format::q8_0, inputs_of(options))),
      router(kernels.matmul(Format::bf16, Inputs::exact)),  // much depends on it
      expert(kernels.matmul(Format::mxfp4, inputs_of(options))),
      kv_type(kv_type_of(options)),
      dense_format(options.dense) {}

CpuLayers::CpuLayers(Weights weights, const BackendOptions& options, ThreadPool& pool)
    : scheme_(select_kernels(), options),
      kernels_(scheme_.kernels),
      pool_(pool),
      router_matmul_(scheme_.router),
      expert_matmul_(scheme_.expert),
      config_(checked(weights.config)),
      weights_(std::move(weights), options.dense, kernels_, pool_),
      rope_table_(config_.rope, config_.head_dim) {
  const std::vector<KvGroup> groups = kv_groups(config_);
  for (const KvGroup& group : groups) {
    storage_.emplace_back(scheme_.kv_type, config_.n_kv_heads, config_.head_dim, group.n_layers);
  }
  std::vector<int> layers_of_group(groups.size(), 0);
  for (int layer = 0; layer < config_.n_layers; ++layer) {
    const int group = is_window(layer) ? 1 : 0;
    group_of_layer_.push_back(group);
    index_in_group_.push_back(layers_of_group[static_cast<size_t>(group)]++);
  }
}

std::string CpuLayers::description() const {
  return concat(kernels_.name, ", ", pool_.size(), pool_.size() == 1 ? " thread" : " threads", ", ",
                formats());
}

std::string CpuLayers::arithmetic() const { return concat(kernels_.name, ", ", formats()); }

std::string CpuLayers::formats() const {
  std::string text =
      concat("KV cache ", name_of(scheme_.kv_type), ", expert inputs ", expert_matmul_.inputs,
             ", dense inputs ", scheme_.dense.inputs,
             scheme_.dense_format == Format::bf16 ? "" : ", dense weights ",
             scheme_.dense_format == Format::bf16 ? ""
             : scheme_.dense_format == Format::q8 ? "int8"
                                                  : gptoss::name_of(scheme_.dense_format));
  int in_q8_0 = weights_.unembedding.format == Format::q8_0;
  for (const PreparedLayer& w : weights_.layers) {
    for (const Matrix* matrix : {&w.q, &w.k, &w.v, &w.o}) in_q8_0 += matrix->format == Format::q8_0;
  }
  if (in_q8_0 > 0) {
    text += concat(", ", in_q8_0, " dense weights in q8_0 with inputs ", scheme_.q8_0.inputs);
  }
  return text;
}

int64_t CpuLayers::workspace_bytes(const ModelConfig& config, const Scheme& scheme, int tokens) {
  StepArrays arrays;
  int64_t total = 0;
  arrays.for_each(config, tokens, scheme, [&](auto& array, int64_t elements) {
    total += elements * static_cast<int64_t>(sizeof(*array.data()));
  });
  return total;
}

std::vector<int32_t> CpuLayers::finite_tokens() {
  constexpr uint32_t kInfinity = 0x7f800000;
  std::vector<uint8_t> is_finite(static_cast<size_t>(tokens_));
  pool_.run(tokens_, [&](int64_t token) {
    const float* const row = step_.x.data() + token * config_.hidden_size;
    uint32_t largest = 0;
    for (int i = 0; i < config_.hidden_size; ++i) {
      largest = std::max(largest, std::bit_cast<uint32_t>(row[i]) & ~(uint32_t{1} << 31));
    }
    is_finite[static_cast<size_t>(token)] = largest < kInfinity;
  });
  std::vector<int32_t> counts;
  for (size_t s = 0; s + 1 < input_.sequence_offsets.size(); ++s) {
    const auto begin = is_finite.begin() + input_.sequence_offsets[s];
    const auto end = is_finite.begin() + input_.sequence_offsets[s + 1];
    counts.push_back(static_cast<int32_t>(std::find(begin, end, 0) - begin));
  }
  return counts;
}

void CpuLayers::begin(const StepInput& input) {
  input_ = input;
  tokens_ = static_cast<int>(input.tokens.size());
  // Grown to the largest step so far, within what workspace_bytes() says.
  step_.for_each(config_, tokens_, scheme_, [](auto& array, int64_t elements) {
    if (array.size() < static_cast<size_t>(elements)) array.resize(static_cast<size_t>(elements));
  });
  for (size_t s = 0; s + 1 < input.sequence_offsets.size(); ++s) {
    for (int token = input.sequence_offsets[s]; token < input.sequence_offsets[s + 1]; ++token) {
      step_.positions[static_cast<size_t>(token)] =
          input.first_positions[s] + token - input.sequence_offsets[s];
      step_.sequence_of_token[static_cast<size_t>(token)] = static_cast<int>(s);
    }
    const int first = input.first_positions[s];
    const int end = first + input.sequence_offsets[s + 1] - input.sequence_offsets[s];
    for (size_t group = 0; group < storage_.size(); ++group) {
      const auto row = input.tables->row(static_cast<int>(group), input.slots[s]);
      for (int entry = first / kPageTokens; entry * kPageTokens < end; ++entry) {
        storage_[group].open_page(row[static_cast<size_t>(entry) % row.size()]);
      }
    }
  }
  pool_.run(tokens_, [&](int64_t token) {
    float* const cos = step_.rotations.data() + token * config_.head_dim;
    rope_table_.rotation(step_.positions[static_cast<size_t>(token)], cos,
                         cos + config_.head_dim / 2);
  });
}

void CpuLayers::embed() {
  const Matrix& w = weights_.embedding;
  pool_.run(tokens_, [&](int64_t t) {
    const int64_t token = input_.tokens[static_cast<size_t>(t)];
    float* const x = step_.x.data() + t * w.k;
    if (w.format == Format::q8_0) {
      q8_0_decode_row(static_cast<const int8_t*>(w.data) + token * w.k,
                      static_cast<const uint16_t*>(w.scales) + token * (w.k / kQ8Block), w.k, x);
    } else {
      kernels_.from_bf16(static_cast<const uint16_t*>(w.data) + token * w.k, w.k, x);
    }
  });
}

void CpuLayers::attention_in(int layer) {
  const PreparedLayer& w = weights_.layers[static_cast<size_t>(layer)];
  const int hidden = config_.hidden_size;
  const Matmul& matmul = scheme_.dense_of(w.q);  // k and v are in the same format
  for_each_group(tokens_, [&](int64_t first, int count) {
    const auto rows = norm_rows(w.attention_norm, first, count);
    matmul.pack(rows.data(), count, hidden,
                step_.dense_in.data() + first * matmul.row_bytes(hidden));
  });
  float* const qkv = step_.qkv.data();
  const MatmulTask tasks[] = {
      dense_task(w.q, w.q_bias, qkv, qkv_size()),
      dense_task(w.k, w.k_bias, qkv + config_.q_size(), qkv_size()),
      dense_task(w.v, w.v_bias, qkv + config_.q_size() + config_.kv_size(), qkv_size())};
  matmul_panels(matmul, pool_, tasks);

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

void CpuLayers::attend(int layer) {
  std::vector<AttentionSequence> sequences;
  for (size_t s = 0; s + 1 < input_.sequence_offsets.size(); ++s) {
    sequences.push_back({input_.sequence_offsets[s],
                         input_.sequence_offsets[s + 1] - input_.sequence_offsets[s],
                         input_.first_positions[s], pages(layer, static_cast<int>(s))});
  }
  banded_attention(kernels_, pool_,
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

void CpuLayers::attention_out(int layer) {
  const int q_size = config_.q_size();
  const PreparedLayer& w = weights_.layers[static_cast<size_t>(layer)];
  const Matmul& matmul = scheme_.dense_of(w.o);
  for_each_group(tokens_, [&](int64_t first, int count) {
    matmul.pack(rows_of(step_.attended.data() + first * q_size, count, q_size).data(), count,
                q_size, step_.dense_in.data() + first * matmul.row_bytes(q_size));
  });
  MatmulTask task = dense_task(w.o, w.o_bias, step_.x.data(), config_.hidden_size);
  task.accumulate = true;
  matmul_panels(matmul, pool_, {&task, 1});
}

void CpuLayers::route(int layer) {
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
void CpuLayers::experts_in(int layer) {
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

void CpuLayers::experts_out(int layer) {
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

void CpuLayers::unembed() {
  const auto n_rows = static_cast<int>(input_.logit_rows.size());
  if (n_rows == 0) return;
  const int hidden = config_.hidden_size;
  const Matmul& matmul = scheme_.dense_of(weights_.unembedding);
  for_each_group(n_rows, [&](int64_t first, int count) {
    float* const normed = group_scratch();
    for (int i = 0; i < count; ++i) {
      norm_row(weights_.final_norm, input_.logit_rows[static_cast<size_t>(first + i)],
               normed + i * hidden);
    }
    matmul.pack(rows_of(normed, count, hidden).data(), count, hidden,
                step_.dense_in.data() + first * matmul.row_bytes(hidden));
  });
  MatmulTask task = dense_task(weights_.unembedding, {}, logits_, config_.vocab_size);
  task.tokens = n_rows;
  matmul_panels(matmul, pool_, {&task, 1});
}

// Where one layer's keys and values of one sequence of the step are stored.
KvPages CpuLayers::pages(int layer, int sequence) const {
  const auto l = static_cast<size_t>(layer);
  const int group = group_of_layer_[l];
  const int slot = input_.slots[static_cast<size_t>(sequence)];
  return storage_[static_cast<size_t>(group)].view(index_in_group_[l],
                                                   input_.tables->row(group, slot));
}

template <class F>
void CpuLayers::for_each_group(int tokens, F&& f) {
  pool_.run(group_count(tokens), [&](int64_t group) {
    const int64_t first = group * kGroupTokens;
    f(first, static_cast<int>(std::min<int64_t>(kGroupTokens, tokens - first)));
  });
}

template <class F>
void CpuLayers::for_each_expert_panel(int n_rows, F&& f) {
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

CpuLayers::GroupRows CpuLayers::rows_of(const float* x, int count, int64_t stride) {
  GroupRows rows;
  for (int i = 0; i < count; ++i) rows[static_cast<size_t>(i)] = x + i * stride;
  return rows;
}

float* CpuLayers::group_scratch() const {
  static thread_local std::vector<float> rows;
  const auto size = static_cast<size_t>(kGroupTokens) * static_cast<size_t>(config_.hidden_size);
  if (rows.size() < size) rows.resize(size);
  return rows.data();
}

void CpuLayers::norm_row(const std::vector<float>& weight, int64_t token, float* y) const {
  const int hidden = config_.hidden_size;
  kernels_.rms_norm(step_.x.data() + token * hidden, weight.data(), config_.rms_norm_eps, hidden,
                    y);
}

CpuLayers::GroupRows CpuLayers::norm_rows(const std::vector<float>& weight, int64_t first,
                                          int count) const {
  const int hidden = config_.hidden_size;
  float* const normed = group_scratch();
  for (int i = 0; i < count; ++i) norm_row(weight, first + i, normed + i * hidden);
  return rows_of(normed, count, hidden);
}

MatmulTask CpuLayers::dense_task(const Matrix& w, const std::vector<float>& bias, float* y,
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

MatmulTask CpuLayers::expert_task(const ExpertMatrices& matrices, const std::vector<float>& bias,
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

}  // namespace gptoss::cpu
