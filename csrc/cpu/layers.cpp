#include "cpu/layers.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "core/ggml.h"
#include "cpu/attention.h"
#include "cpu/isa/isa.h"

namespace gptoss::cpu {
namespace {

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
      rope_table_(config_.rope, config_.head_dim),
      experts_(kernels_, expert_matmul_, pool_, config_) {
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
  ExpertArrays experts;
  experts.for_each(config, tokens, scheme.expert, [&](auto& array, int64_t elements) {
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

void CpuLayers::read(int keep, Activation activation, int layer, void* values) {
  kept_[static_cast<size_t>(keep)].copy_to(values, activation, layer);
}

void CpuLayers::keep_attention(int layer) {
  for (Kept& kept : kept_) {
    uint8_t* const out = kept.find(Activation::attention, layer);
    if (out == nullptr) continue;
    const int sequence = step_.sequence_of_token[static_cast<size_t>(kept.rows().front())];
    attention_shares(
        pool_, AttentionShares{.q = step_.qkv.data(),
                               .q_stride = qkv_size(),
                               .sinks = weights_.layers[static_cast<size_t>(layer)].sinks.data(),
                               .rows = kept.rows(),
                               .positions = step_.positions,
                               .heads = config_.n_heads,
                               .window = is_window(layer) ? config_.sliding_window : 0,
                               .keys = attention_keys(config_, layer, kept.keys()),
                               .scale = attention_scale(),
                               .kv = pages(layer, sequence),
                               .out = reinterpret_cast<float*>(out)});
  }
}

void CpuLayers::keep_routing(int layer) {
  for (Kept& kept : kept_) {
    const auto keep = [&](Activation activation, const auto* values, int width) {
      uint8_t* const out = kept.find(activation, layer);
      if (out == nullptr) return;
      const size_t bytes = sizeof(*values) * static_cast<size_t>(width);
      for (size_t i = 0; i < kept.rows().size(); ++i) {
        std::memcpy(out + i * bytes, values + int64_t{kept.rows()[i]} * width, bytes);
      }
    };
    keep(Activation::router_logits, step_.router_logits.data(), config_.n_experts);
    keep(Activation::experts, step_.experts.data(), config_.n_active);
    keep(Activation::expert_weights, step_.expert_weights.data(), config_.n_active);
  }
}

void CpuLayers::keep_residual(int layer) {
  for (Kept& kept : kept_) {
    uint8_t* const out = kept.find(Activation::residual, layer);
    if (out == nullptr) continue;
    const int hidden = config_.hidden_size;
    const size_t bytes = sizeof(float) * static_cast<size_t>(hidden);
    for (size_t i = 0; i < kept.rows().size(); ++i) {
      std::memcpy(out + i * bytes, step_.x.data() + int64_t{kept.rows()[i]} * hidden, bytes);
    }
  }
}

void CpuLayers::begin(const StepInput& input) {
  input_ = input;
  tokens_ = static_cast<int>(input.tokens.size());
  kept_.clear();
  for (const Keep& keep : input.keeps) kept_.emplace_back(config_, keep);
  // Grown to the largest step so far, within what workspace_bytes() says.
  step_.for_each(config_, tokens_, scheme_, [](auto& array, int64_t elements) {
    if (array.size() < static_cast<size_t>(elements)) array.resize(static_cast<size_t>(elements));
  });
  experts_.reserve(tokens_);
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
  adapted_.of_token.clear();
  if (std::any_of(input.adapters.begin(), input.adapters.end(), [](int32_t id) { return id; })) {
    adapted_.of_token.resize(static_cast<size_t>(tokens_), nullptr);
    for (size_t s = 0; s < input.adapters.size(); ++s) {
      const int32_t id = input.adapters[s];
      if (id == 0) continue;
      const auto found = adapters_.find(id);
      check(found != adapters_.end(), "[cpu] there is no adapter ", id);
      std::fill(adapted_.of_token.begin() + input.sequence_offsets[s],
                adapted_.of_token.begin() + input.sequence_offsets[s + 1], found->second.get());
    }
  }
  pool_.run(tokens_, [&](int64_t token) {
    float* const cos = step_.rotations.data() + token * config_.head_dim;
    rope_table_.rotation(step_.positions[static_cast<size_t>(token)], cos,
                         cos + config_.head_dim / 2);
  });
}

const LowRank* CpuLayers::change_of(int64_t token, LowRank Adapter::* matrix) const {
  if (!has_adapters()) return nullptr;
  const Adapter* const adapter = adapted_.of_token[static_cast<size_t>(token)];
  return adapter == nullptr || (adapter->*matrix).rank == 0 ? nullptr : &(adapter->*matrix);
}

const LowRank* CpuLayers::change_of(int64_t token, int layer,
                                    LowRank AdapterLayer::* matrix) const {
  if (!has_adapters()) return nullptr;
  const Adapter* const adapter = adapted_.of_token[static_cast<size_t>(token)];
  if (adapter == nullptr) return nullptr;
  const LowRank& change = adapter->layers[static_cast<size_t>(layer)].*matrix;
  return change.rank == 0 ? nullptr : &change;
}

LowRankTask CpuLayers::low_rank_task(int layer, LowRank AdapterLayer::* matrix, const float* x,
                                     int k, float* y, int n, int64_t y_stride) const {
  LowRankTask task = {.changes = {}, .x = x, .k = k, .y = y, .n = n, .y_stride = y_stride};
  task.changes.reserve(static_cast<size_t>(tokens_));
  for (int t = 0; t < tokens_; ++t) task.changes.push_back(change_of(t, layer, matrix));
  return task;
}

bool CpuLayers::start_expert_changes(int layer, LowRank AdapterLayer::* matrix, const float* x,
                                     bool is_by_token, int k) {
  int rank = 0;
  for (int t = 0; has_adapters() && t < tokens_; ++t) {
    const LowRank* const change = change_of(t, layer, matrix);
    if (change != nullptr) rank = std::max(rank, change->rank);
  }
  if (rank == 0) return false;
  adapted_.rank = rank;
  const auto size = static_cast<size_t>(tokens_) * static_cast<size_t>(config_.n_active * rank);
  if (adapted_.low.size() < size) adapted_.low.resize(size);
  const int blocks = (rank + kRankRows - 1) / kRankRows;
  const std::vector<ExpertGroup>& groups = experts_.arrays().groups;
  pool_.run(static_cast<int64_t>(groups.size()) * blocks, [&](int64_t unit) {
    const auto [first, count] = groups[static_cast<size_t>(unit / blocks)];
    const int begin = static_cast<int>(unit % blocks) * kRankRows;
    for (int row = first; row < first + count; ++row) {
      const int token = experts_.token_of(row);
      const LowRank* const change = change_of(token, layer, matrix);
      if (change == nullptr || change->rank <= begin) continue;
      const auto pair = static_cast<size_t>(experts_.pair_of(row));
      const int64_t in_row = int64_t{step_.experts[pair]} * change->rank + begin;
      kernels_.low_rank_in(x + int64_t{is_by_token ? token : row} * k, change->in + in_row * k, k,
                           std::min(kRankRows, change->rank - begin),
                           adapted_.low.data() + int64_t{row} * rank + begin);
    }
  });
  return true;
}

void CpuLayers::add_expert_change(int layer, LowRank AdapterLayer::* matrix, int64_t row,
                                  int expert, int n, int begin, int end, float* y) const {
  const LowRank* const change = change_of(experts_.token_of(row), layer, matrix);
  if (change == nullptr) return;
  kernels_.low_rank_out(adapted_.low.data() + row * adapted_.rank,
                        change->out + int64_t{expert} * change->rank * n + begin, n, change->rank,
                        end - begin, y);
}

Experts::Change CpuLayers::expert_change(int layer, LowRank AdapterLayer::* matrix, const float* x,
                                         bool is_by_token, int k, int n) {
  if (!start_expert_changes(layer, matrix, x, is_by_token, k)) return {};
  return [=, this](int64_t row, int expert, int begin, int end, float* y) {
    add_expert_change(layer, matrix, row, expert, n, begin, end, y);
  };
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
    if (const LowRank* const change = change_of(t, &Adapter::embedding)) {
      kernels_.low_rank_out(change->in + token * change->rank, change->out, w.k, change->rank, w.k,
                            x);
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
  if (has_adapters()) {
    const float* const x = step_.normed.data();
    const LowRankTask changes[] = {
        low_rank_task(layer, &AdapterLayer::q, x, hidden, tasks[0].y, w.q.n, qkv_size()),
        low_rank_task(layer, &AdapterLayer::k, x, hidden, tasks[1].y, w.k.n, qkv_size()),
        low_rank_task(layer, &AdapterLayer::v, x, hidden, tasks[2].y, w.v.n, qkv_size())};
    add_low_rank(kernels_, pool_, changes, adapted_.low);
  }

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
                                  .scale = attention_scale(),
                                  .sequences = sequences});
  keep_attention(layer);
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
  if (has_adapters()) {
    const LowRankTask change =
        low_rank_task(layer, &AdapterLayer::o, step_.attended.data(), q_size, step_.x.data(),
                      config_.hidden_size, config_.hidden_size);
    add_low_rank(kernels_, pool_, {&change, 1}, adapted_.low);
  }
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
  if (has_adapters()) {
    const LowRankTask change =
        low_rank_task(layer, &AdapterLayer::router, step_.normed.data(), hidden,
                      step_.router_logits.data(), config_.n_experts, config_.n_experts);
    add_low_rank(kernels_, pool_, {&change, 1}, adapted_.low);
  }
  route_topk({.logits = step_.router_logits.data(),
              .experts = step_.experts.data(),
              .weights = step_.expert_weights.data(),
              .tokens = tokens_,
              .n_experts = config_.n_experts,
              .n_active = config_.n_active});
  keep_routing(layer);
  experts_.gather(step_.normed.data(), step_.experts.data(), tokens_);
}

void CpuLayers::experts_in(int layer) {
  const Experts::Change change =
      expert_change(layer, &AdapterLayer::gate_up, step_.normed.data(), true, config_.hidden_size,
                    2 * config_.intermediate_size);
  if (has_adapters()) {  // h as it is before it is packed
    const auto size = static_cast<size_t>(tokens_) *
                      static_cast<size_t>(config_.n_active * config_.intermediate_size);
    if (adapted_.hidden.size() < size) adapted_.hidden.resize(size);
  }
  experts_.gate_up(weights_.layers[static_cast<size_t>(layer)].experts, change,
                   has_adapters() ? adapted_.hidden.data() : nullptr);
}

void CpuLayers::experts_out(int layer) {
  const int hidden = config_.hidden_size;
  experts_.down(weights_.layers[static_cast<size_t>(layer)].experts,
                expert_change(layer, &AdapterLayer::down, adapted_.hidden.data(), false,
                              config_.intermediate_size, hidden));
  experts_.add_to(step_.x.data(), step_.expert_weights.data());
  for (const Steer& steer : input_.steers) {
    if (steer.layer != layer) continue;
    const auto s = static_cast<size_t>(steer.sequence);
    for (int t = input_.sequence_offsets[s]; t < input_.sequence_offsets[s + 1]; ++t) {
      kernels_.add_scaled(steer.vector, 1.0f, hidden, step_.x.data() + int64_t{t} * hidden);
    }
  }
  keep_residual(layer);
}

void CpuLayers::unembed() {
  const auto n_rows = static_cast<int>(input_.logit_rows.size());
  if (n_rows == 0) return;
  const int hidden = config_.hidden_size;
  const Matmul& matmul = scheme_.dense_of(weights_.unembedding);
  for_each_group(n_rows, [&](int64_t first, int count) {
    float* const normed = has_adapters() ? step_.normed.data() + first * hidden : group_scratch();
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
  if (has_adapters()) {
    LowRankTask change = {.changes = {},
                          .x = step_.normed.data(),
                          .k = hidden,
                          .y = logits_,
                          .n = config_.vocab_size,
                          .y_stride = config_.vocab_size};
    for (const int32_t row : input_.logit_rows) {
      change.changes.push_back(change_of(row, &Adapter::unembedding));
    }
    add_low_rank(kernels_, pool_, {&change, 1}, adapted_.low);
  }
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
                                          int count) {
  const int hidden = config_.hidden_size;
  float* const normed = has_adapters() ? step_.normed.data() + first * hidden : group_scratch();
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

}  // namespace gptoss::cpu
