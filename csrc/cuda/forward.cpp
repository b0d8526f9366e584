#include "cuda/forward.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/kv_page.h"
#include "cuda/plan.h"
#include "ops/rope.h"

namespace gptoss::cuda {

std::vector<float> make_rotations(const ModelConfig& config, int positions) {
  const ops::RopeTable table(config.rope, config.head_dim);
  const auto width = static_cast<size_t>(config.head_dim);
  std::vector<float> rotations(static_cast<size_t>(positions) * width);
  for (int position = 0; position < positions; ++position) {
    float* const cos = rotations.data() + static_cast<size_t>(position) * width;
    table.rotation(position, cos, cos + width / 2);
  }
  return rotations;
}

Forward::Forward(const ModelConfig& config, const Scheme& scheme, const Part& part,
                 const DeviceWeights& weights, const StepMemory& memory,
                 const std::vector<DeviceMemory>& pages, Module& module, const Stream& stream)
    : config_(config),
      scheme_(scheme),
      part_(part),
      weights_(weights),
      memory_(memory),
      work_(memory.work),
      pages_(pages),
      module_(module),
      stream_(stream),
      groups_(kv_groups_of(config, part)),
      index_in_group_(config.is_window_layer.size(), 0) {
  std::vector<int> layers_of_group(groups_.size(), 0);
  for (auto i = static_cast<size_t>(part.begin); i < static_cast<size_t>(part.end); ++i) {
    index_in_group_[i] = layers_of_group[config.is_window_layer[i] ? 1 : 0]++;
  }
}

int Forward::count_splits(int n_tokens, int highest_position) const {
  if (!has_fast_attention(scheme_.act, config_.n_heads, config_.n_kv_heads, config_.head_dim)) {
    return 0;
  }
  const int64_t row_bytes = config_.head_dim * int64_t{sizeof(float)};
  const auto positions = static_cast<int>(memory_.slots.rotations.size_bytes() / row_bytes);
  return cuda::count_splits(n_tokens, highest_position, positions);
}

void Forward::run(const Step& step, std::span<const int> row_pages, int n_splits, int segment,
                  const Inspection& inspection) {
  // What it names is the caller's: nothing of it stays.
  struct Borrowed {
    Inspection& here;
    ~Borrowed() { here = {}; }
  } const borrowed{inspection_};
  inspection_ = inspection;
  queue_segment(step, row_pages, n_splits, segment);
}

void Forward::queue_segment(const Step& step, std::span<const int> row_pages, int n_splits,
                            int segment) {
  const int first = part_.begin + segment;
  if (segment > 0) {
    combine(step, first - 1, work_.ones, 1);
    end_layer(step, first - 1);
  } else if (part_.is_first()) {
    embed(step);
  } else {
    // The sum with nothing, by the kernel that a single card has there, for the same bits.
    combine(step, first - 1, work_.expert_weights, 0);
  }
  if (segment + 1 < n_segments()) {
    attention(step, row_pages, n_splits, first);
    route(step, first);
    return;
  }
  for (int layer = first; layer < part_.end; ++layer) {
    attention(step, row_pages, n_splits, layer);
    route(step, layer);
    experts(step, layer);
    end_layer(step, layer);
  }
  if (!part_.is_last() || step.n_logit_rows == 0) return;
  if (!ends_with_all_rows(step)) norm(weights_.final_norm, step.n_logit_rows, step.logit_rows);
  dense(work_.normed, weights_.unembedding, work_.logits, step.n_logit_rows, config_.vocab_size,
        config_.hidden_size, {.norm = row_norm(), .ranges = logit_ranges(step.n_logit_rows)});
}

bool Forward::finishes_experts(const Step& step) const {
  return cuda::finishes_experts(scheme_.act, step.n_tokens * config_.n_active, config_.n_experts);
}

bool Forward::ends_with_all_rows(const Step& step) const {
  return part_.is_last() && step.n_logit_rows == step.n_tokens && finishes_experts(step) &&
         scheme_.cpu_experts < config_.n_layers;
}

LogitRange* Forward::logit_ranges(int n_rows) const {
  return scheme_.act == Act::f32 || n_rows > kRangeRows ? nullptr
                                                        : work_.logit_ranges.as<LogitRange>();
}

RowNorm Forward::row_norm() const {
  return {.squares = scheme_.act == Act::f32 ? nullptr : work_.squares.as<const float>(),
          .n_parts = n_square_parts_,
          .eps = config_.rms_norm_eps};
}

void Forward::begins_norm(int n_square_parts, bool has_codes) {
  n_square_parts_ = n_square_parts;
  has_codes_ = has_codes;
}

void Forward::embed(const Step& step) {
  const DeviceMemory& weight = weights_.layers.front().attention_norm;
  const bool is_f32 = scheme_.act == Act::f32;
  module_.run(stream_, EmbedArgs{.step = step,
                                 .embedding = weights_.embedding.data.as<const void>(),
                                 .scales = weights_.embedding.scales.as<const void>(),
                                 .x = work_.x.as<float>(),
                                 .weight = is_f32 ? nullptr : weight.as<const float>(),
                                 .y = work_.normed.as<void>(),
                                 .squares = work_.squares.as<float>(),
                                 .hidden = config_.hidden_size});
  if (is_f32) {
    norm(weight, step.n_tokens, nullptr);
  } else {
    begins_norm(1, false);
  }
}

// From the normed residual stream.
void Forward::attention(const Step& step, std::span<const int> row_pages, int n_splits, int layer) {
  const LayerMemory& w = weights_.layers[static_cast<size_t>(layer)];
  const int qkv_size = config_.q_size() + 2 * config_.kv_size();
  dense(work_.normed, w.qkv, work_.qkv, step.n_tokens, qkv_size, config_.hidden_size,
        {.bias = &w.qkv_bias, .norm = row_norm()});

  const bool is_window = config_.is_window_layer[static_cast<size_t>(layer)];
  const size_t group = is_window ? 1 : 0;
  const KvLayer kv = {.base = pages_[group].as<void>(index_in_group_[static_cast<size_t>(layer)] *
                                                     layer_page_bytes(config_, scheme_.kv)),
                      .page_stride = page_bytes(config_, scheme_.kv, groups_[group]),
                      .table = memory_.slots.tables[group].as<const int32_t>(),
                      .row_pages = row_pages[group],
                      .kv_heads = config_.n_kv_heads,
                      .head_dim = config_.head_dim,
                      .kv = scheme_.kv};
  const bool is_fast =
      has_fast_attention(scheme_.act, config_.n_heads, config_.n_kv_heads, config_.head_dim);
  const auto* const rotations = memory_.slots.rotations.as<const float>();
  const bool is_looked_at = is_asked(Activation::attention, layer);  // which needs q rotated
  const bool rotates =
      is_fast && step.n_tokens == step.n_sequences && !is_looked_at;  // in attention's kernel
  if (!rotates) {
    module_.run(stream_, RopeKvArgs{.step = step,
                                    .qkv = work_.qkv.as<float>(),
                                    .qkv_stride = qkv_size,
                                    .heads = config_.n_heads,
                                    .rotations = rotations,
                                    .kv = kv});
  }
  const bool makes_codes = is_fast && takes_int8(w.o) && config_.head_dim % 32 == 0 &&
                           config_.q_size() == q8_columns(config_.q_size());
  AttentionArgs attention = {.step = step,
                             .qkv = work_.qkv.as<const float>(),
                             .qkv_stride = qkv_size,
                             .heads = config_.n_heads,
                             .kv = kv,
                             .sinks = w.sinks.as<const float>(),
                             .rotations = rotates ? rotations : nullptr,
                             .out = work_.attended.as<void>(),
                             .codes = makes_codes ? work_.codes.as<int8_t>() : nullptr,
                             .code_scales = makes_codes ? work_.code_scales.as<float>() : nullptr,
                             .window = is_window ? config_.sliding_window : 0,
                             .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim)),
                             .act = scheme_.act,
                             .n_splits = 0,
                             .partials = nullptr,
                             .arrived = nullptr};
  if (!is_window && n_splits > 0) {
    attention.n_splits = n_splits;
    attention.partials = work_.partials.as<float>();
    attention.arrived = work_.splits_arrived.as<int32_t>();
    module_.run(stream_, AttentionSplitArgs{attention});
  } else {
    module_.run(stream_, attention);
  }
  if (is_looked_at) keep_shares(attention, layer);
  has_codes_ = makes_codes;
  dense(work_.attended, w.o, work_.x, step.n_tokens, config_.hidden_size, config_.q_size(),
        {.bias = &w.o_bias, .accumulate = true});
}

void Forward::route(const Step& step, int layer) {
  const LayerMemory& w = weights_.layers[static_cast<size_t>(layer)];
  const bool sorts = step.n_tokens <= kRouteSharedTokens;
  module_.run(stream_, RouteArgs{.x = work_.x.as<const float>(),
                                 .weight = w.mlp_norm.as<const float>(),
                                 .router = w.router.as<const uint16_t>(),
                                 .bias = w.router_bias.as<const float>(),
                                 .normed = work_.normed.as<void>(),
                                 .logits = work_.router_logits.as<float>(),
                                 .experts = work_.experts.as<int32_t>(),
                                 .weights = work_.expert_weights.as<float>(),
                                 .pairs = sorts ? work_.pairs.as<int32_t>() : nullptr,
                                 .offsets = sorts ? work_.offsets.as<int32_t>() : nullptr,
                                 .arrived = work_.arrived.as<int32_t>(),
                                 .tokens = step.n_tokens,
                                 .hidden = config_.hidden_size,
                                 .n_experts = config_.n_experts,
                                 .n_active = config_.n_active,
                                 .eps = config_.rms_norm_eps,
                                 .act = scheme_.act});
  constexpr int64_t kBytes = 4;  // f32 and i32 alike
  keep(Activation::router_logits, layer, work_.router_logits, kBytes * config_.n_experts);
  keep(Activation::experts, layer, work_.experts, kBytes * config_.n_active);
  keep(Activation::expert_weights, layer, work_.expert_weights, kBytes * config_.n_active);
}

void Forward::experts(const Step& step, int layer) {
  const LayerMemory& w = weights_.layers[static_cast<size_t>(layer)];
  const int hidden = config_.hidden_size;
  const int n_pairs = step.n_tokens * config_.n_active;
  if (step.n_tokens > kRouteSharedTokens) {
    module_.run(stream_, ExpertSortArgs{.experts = work_.experts.as<const int32_t>(),
                                        .pairs = work_.pairs.as<int32_t>(),
                                        .offsets = work_.offsets.as<int32_t>(),
                                        .n_pairs = n_pairs,
                                        .n_experts = config_.n_experts});
  }
  module_.run(stream_, GateUpArgs{.x = work_.normed.as<const void>(),
                                  .w = w.gate_up.view(),
                                  .pairs = work_.pairs.as<const int32_t>(),
                                  .offsets = work_.offsets.as<const int32_t>(),
                                  .h = work_.h.as<void>(),
                                  .n_pairs = n_pairs,
                                  .n_experts = config_.n_experts,
                                  .n_active = config_.n_active,
                                  .n = 2 * config_.intermediate_size,
                                  .k = hidden,
                                  .limit = config_.swiglu_limit,
                                  .act = scheme_.act});
  // Where few tokens make it worth while, what follows is done by the last product.
  const bool finishes = finishes_experts(step);
  const bool is_last = layer + 1 == part_.end;  // of the model's, or another card goes on
  const DeviceMemory* norm_weight = nullptr;
  if (!is_last) {
    norm_weight = &weights_.layers[static_cast<size_t>(layer) + 1].attention_norm;
  } else if (ends_with_all_rows(step)) {
    norm_weight = &weights_.final_norm;
  }
  FinishArgs finish = {};
  if (finishes) {
    const bool makes_codes =
        hidden % 32 == 0 &&
        takes_int8(is_last ? weights_.unembedding
                           : weights_.layers[static_cast<size_t>(layer) + 1].qkv);
    finish = {.combine = combine_args(step, work_.expert_weights, config_.n_active),
              .weight = norm_weight == nullptr ? nullptr : norm_weight->as<const float>(),
              .y = work_.normed.as<void>(),
              .codes = makes_codes ? work_.codes.as<int8_t>() : nullptr,
              .code_scales = makes_codes ? work_.code_scales.as<float>() : nullptr,
              .squares = work_.squares.as<float>(),
              .arrived = work_.down_arrived.as<int32_t>()};
  }
  module_.run(stream_, DownArgs{.h = work_.h.as<const void>(),
                                .w = w.down.view(),
                                .pairs = work_.pairs.as<const int32_t>(),
                                .offsets = work_.offsets.as<const int32_t>(),
                                .out = work_.expert_out.as<float>(),
                                .n_pairs = n_pairs,
                                .n_experts = config_.n_experts,
                                .n = hidden,
                                .k = config_.intermediate_size,
                                .act = scheme_.act,
                                .finish = finish});
  if (!finishes) {
    combine(step, layer, work_.expert_weights, config_.n_active);
  } else if (norm_weight != nullptr) {
    begins_norm(static_cast<int>(ceil_div(hidden, kNormColumns)), finish.codes != nullptr);
  }
}

CombineArgs Forward::combine_args(const Step& step, const DeviceMemory& weights,
                                  int n_active) const {
  return {.out = work_.expert_out.as<const float>(),
          .weights = weights.as<const float>(),
          .x = work_.x.as<float>(),
          .tokens = step.n_tokens,
          .n_active = n_active,
          .n = config_.hidden_size};
}

void Forward::combine(const Step& step, int layer, const DeviceMemory& weights, int n_active) {
  const CombineArgs combine = combine_args(step, weights, n_active);
  // Another card goes on, or, of what follows, only some rows are wanted.
  if (n_active > 0 && layer + 1 == part_.end) {
    module_.run(stream_, combine);
    return;
  }
  const LayerMemory& next = weights_.layers[static_cast<size_t>(layer) + 1];
  module_.run(stream_, CombineNormArgs{.combine = combine,
                                       .weight = next.attention_norm.as<const float>(),
                                       .y = work_.normed.as<void>(),
                                       .squares = work_.squares.as<float>(),
                                       .eps = config_.rms_norm_eps,
                                       .act = scheme_.act});
  begins_norm(1, false);
}

void Forward::norm(const DeviceMemory& weight, int rows, const int32_t* row_index) {
  module_.run(stream_, RmsNormArgs{.x = work_.x.as<const float>(),
                                   .weight = weight.as<const float>(),
                                   .y = work_.normed.as<void>(),
                                   .squares = work_.squares.as<float>(),
                                   .row_index = row_index,
                                   .rows = rows,
                                   .n = config_.hidden_size,
                                   .eps = config_.rms_norm_eps,
                                   .act = scheme_.act});
  begins_norm(1, false);
}

bool Forward::is_asked(Activation activation, int layer) const {
  return std::ranges::any_of(inspection_.kept,
                             [&](Kept& kept) { return kept.find(activation, layer) != nullptr; });
}

namespace {

// f(first, count) of rows that follow each other.
template <class F>
void for_each_run(std::span<const int32_t> rows, F&& f) {
  for (size_t i = 0; i < rows.size();) {
    size_t end = i + 1;
    while (end < rows.size() && rows[end] == rows[end - 1] + 1) ++end;
    f(rows[i], static_cast<int>(end - i));
    i = end;
  }
}

}  // namespace

void Forward::keep(Activation activation, int layer, const DeviceMemory& rows,
                   int64_t row_bytes) const {
  for (Kept& kept : inspection_.kept) {
    uint8_t* to = kept.find(activation, layer);
    if (to == nullptr) continue;
    for_each_run(kept.rows(), [&](int first, int count) {
      const auto from = rows.address() + static_cast<CUdeviceptr>(first * row_bytes);
      stream_.download(to, from, count * row_bytes);
      to += count * row_bytes;
    });
  }
}

// The experts' output has room for them meanwhile, some pairs of a token and a head at a time.
void Forward::keep_shares(const AttentionArgs& attention, int layer) const {
  const DeviceMemory& room = work_.expert_out;
  for (Kept& kept : inspection_.kept) {
    uint8_t* to = kept.find(Activation::attention, layer);
    if (to == nullptr) continue;
    const int keys = attention_keys(config_, layer, kept.keys());
    const int64_t pair_bytes = (int64_t{keys} + 1) * int64_t{sizeof(float)};
    const auto most = static_cast<int>(std::min<int64_t>(room.size_bytes() / pair_bytes, 1 << 20));
    check(most > 0, "[cuda] attention of ", keys, " keys was not planned for");
    for_each_run(kept.rows(), [&](int first, int count) {
      const int end = (first + count) * config_.n_heads;
      for (int pair = first * config_.n_heads; pair < end; pair += most) {
        const int n_pairs = std::min(most, end - pair);
        module_.run(stream_, AttentionSharesArgs{.step = attention.step,
                                                 .qkv = attention.qkv,
                                                 .qkv_stride = attention.qkv_stride,
                                                 .heads = attention.heads,
                                                 .kv = attention.kv,
                                                 .sinks = attention.sinks,
                                                 .out = room.as<float>(),
                                                 .first_pair = pair,
                                                 .n_pairs = n_pairs,
                                                 .keys = keys,
                                                 .window = attention.window,
                                                 .scale = attention.scale});
        stream_.download(to, room.address(), n_pairs * pair_bytes);
        to += n_pairs * pair_bytes;
      }
    });
  }
}

void Forward::end_layer(const Step& step, int layer) {
  const int hidden = config_.hidden_size;
  const int64_t row_bytes = hidden * int64_t{sizeof(float)};
  bool is_steered = false;
  for (const Steer& steer : inspection_.steers) {
    if (steer.layer != layer) continue;
    const auto s = static_cast<size_t>(steer.sequence);
    const int begin = inspection_.sequence_offsets[s];
    const int rows = inspection_.sequence_offsets[s + 1] - begin;
    // The experts' output has been added up, and has room for the vector.
    stream_.upload_copy(work_.expert_out.address(), steer.vector, row_bytes);
    module_.run(stream_, SteerArgs{.x = work_.x.as<float>(begin * row_bytes),
                                   .vector = work_.expert_out.as<const float>(),
                                   .rows = rows,
                                   .n = hidden});
    is_steered = true;
  }
  keep(Activation::residual, layer, work_.x, row_bytes);
  if (!is_steered) return;
  // What was begun of the next norm, it was of the stream without the vectors.
  if (layer + 1 < part_.end) {
    norm(weights_.layers[static_cast<size_t>(layer) + 1].attention_norm, step.n_tokens, nullptr);
  } else if (ends_with_all_rows(step)) {
    norm(weights_.final_norm, step.n_tokens, nullptr);
  }
}

bool Forward::takes_int8(const DenseMemory& w) const {
  return scheme_.act != Act::f32 && w.format != Format::bf16;
}

void Forward::quantize(const DeviceMemory& x, int rows, int k) {
  module_.run(stream_, QuantizeArgs{.x = x.as<const void>(),
                                    .codes = work_.codes.as<int8_t>(),
                                    .scales = work_.code_scales.as<float>(),
                                    .rows = rows,
                                    .k = k,
                                    .x_stride = k,
                                    .act = scheme_.act});
}

void Forward::dense(const DeviceMemory& x, const DenseMemory& w, const DeviceMemory& y, int rows,
                    int n, int k, const DenseEnd& end) {
  const auto* const bias = end.bias == nullptr ? nullptr : end.bias->as<const float>();
  if (!takes_int8(w)) {
    module_.run(stream_, DenseMatmulArgs{.x = x.as<const void>(),
                                         .w = w.data.as<const void>(),
                                         .scales = w.scales.as<const void>(),
                                         .bias = bias,
                                         .y = y.as<float>(),
                                         .ranges = end.ranges,
                                         .norm = end.norm,
                                         .rows = rows,
                                         .n = n,
                                         .k = k,
                                         .x_stride = k,
                                         .y_stride = n,
                                         .accumulate = end.accumulate ? 1 : 0,
                                         .act = scheme_.act});
    return;
  }
  if (!has_codes_) quantize(x, rows, k);
  module_.run(stream_, Q8MatmulArgs{.x = work_.codes.as<const int8_t>(),
                                    .x_scales = work_.code_scales.as<const float>(),
                                    .codes = w.data.as<const void>(),
                                    .scales = w.scales.as<const void>(),
                                    .bias = bias,
                                    .y = y.as<float>(),
                                    .ranges = end.ranges,
                                    .norm = end.norm,
                                    .rows = rows,
                                    .n = n,
                                    .k = k,
                                    .y_stride = n,
                                    .accumulate = end.accumulate ? 1 : 0,
                                    .is_q8_0 = w.format == Format::q8_0 ? 1 : 0});
}

}  // namespace gptoss::cuda
