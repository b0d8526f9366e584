#include "cpu/weights.h"

#include <stdexcept>
#include <string>
#include <utility>

#include "core/bf12.h"
#include "core/check.h"
#include "core/q8.h"
#include "cpu/ops.h"
#include "platform/platform.h"

namespace gptoss::cpu {
namespace {

// What a matrix in `format` takes in memory of our own, escapes aside.
int64_t encoded_bytes(Format format, int64_t n, int64_t k) {
  return data_bytes(format, n, k) + scales_bytes(format, n, k);
}

int64_t encoded_bytes(Format format, const Matrix& w) {
  check(format != Format::q8 || w.k % kQ8Block == 0,
        "[cpu] dense weights in int8 need in-features in whole blocks of ", kQ8Block, ", got ",
        w.k);
  return encoded_bytes(format, w.n, w.k);
}

std::vector<float> widened(const Vector& vector, const Kernels& kernels) {
  std::vector<float> values(static_cast<size_t>(vector.size));
  kernels.from_bf16(vector.data, vector.size, values.data());
  return values;
}

}  // namespace

ExpertWeights prepare_experts(const LayerWeights& layer, const Kernels& kernels) {
  return {.gate_up = layer.gate_up,
          .gate_up_bias = widened(layer.gate_up_bias, kernels),
          .down = layer.down,
          .down_bias = widened(layer.down_bias, kernels)};
}

int64_t PreparedWeights::allocated_bytes(const ModelConfig& c, Format dense) {
  int64_t encoded = 0;
  if (dense != Format::bf16) {
    encoded = encoded_bytes(dense, c.vocab_size, c.hidden_size) +
              c.n_layers * (encoded_bytes(dense, c.q_size() + 2 * c.kv_size(), c.hidden_size) +
                            encoded_bytes(dense, c.hidden_size, c.q_size()));
  }
  const int64_t expert_biases = c.n_experts * (2 * c.intermediate_size + c.hidden_size);
  const int64_t small = 3 * c.hidden_size + c.q_size() + 2 * c.kv_size() + c.n_heads + c.n_experts;
  const int64_t widened = c.n_layers * (expert_biases + small) + c.hidden_size;
  return encoded + widened * int64_t{sizeof(float)};
}

PreparedWeights::PreparedWeights(Weights weights, Format dense, const Kernels& kernels,
                                 ThreadPool& pool)
    : embedding(weights.embedding), checkpoint_(std::move(weights)) {
  // Those in q8_0 stay.
  const auto is_encoded = [&](const Matrix& w) {
    return dense != Format::bf16 && w.format == Format::bf16;
  };
  int64_t total = 0;
  const auto count = [&](const Matrix& w) {
    if (is_encoded(w)) total += encoded_bytes(dense, w);
  };
  count(checkpoint_.unembedding);
  for (const LayerWeights& w : checkpoint_.layers) {
    for (const Matrix* matrix : {&w.q, &w.k, &w.v, &w.o}) count(*matrix);
  }
  if (total > 0) {
    encoded_ = LazyMemory(total);
    encoded_.commit(0, total);
  }
  uint8_t* next = encoded_.data();
  // A dense matrix where it is, or encoded from there by all threads; the system may then have back
  // the pages of the file that it came from.
  const auto prepare = [&](const std::string& role, const Matrix& w) {
    if (!is_encoded(w)) return w;
    const auto* const from = static_cast<const uint16_t*>(w.data);
    uint8_t* const data = next;
    uint8_t* const scales = data + data_bytes(dense, w.n, w.k);
    next += encoded_bytes(dense, w);
    Matrix encoded = {.format = dense, .n = w.n, .k = w.k, .data = data, .scales = scales};
    try {
      if (dense == Format::bf12) {
        std::vector<uint16_t>& escapes = escapes_.emplace_back();
        bf12_encode(pool, {.w = from, .rows = data, .escapes = &escapes, .n = w.n, .k = w.k});
        encoded.scales = escapes.data();
      } else {
        q8_encode(kernels, pool,
                  {.w = from,
                   .codes = reinterpret_cast<int8_t*>(data),
                   .scales = reinterpret_cast<uint16_t*>(scales),
                   .n = w.n,
                   .k = w.k});
      }
    } catch (const std::invalid_argument& error) {
      throw CheckpointError(concat(role, ": ", error.what()));
    }
    if (w.mapped) {
      platform::drop_file_pages(static_cast<const uint8_t*>(w.data),
                                data_bytes(w.format, w.n, w.k));
    }
    return encoded;
  };
  const auto widen = [&](const Vector& vector) { return widened(vector, kernels); };
  for (const LayerWeights& w : checkpoint_.layers) {
    const std::string attention = concat("layers.", layers.size(), ".attention.");
    layers.push_back({.attention_norm = widen(w.attention_norm),
                      .q = prepare(attention + "q", w.q),
                      .k = prepare(attention + "k", w.k),
                      .v = prepare(attention + "v", w.v),
                      .q_bias = widen(w.q_bias),
                      .k_bias = widen(w.k_bias),
                      .v_bias = widen(w.v_bias),
                      .sinks = widen(w.sinks),
                      .o = prepare(attention + "o", w.o),
                      .o_bias = widen(w.o_bias),
                      .mlp_norm = widen(w.mlp_norm),
                      .router = w.router,  // little work, and much depends on it
                      .router_bias = widen(w.router_bias),
                      .experts = prepare_experts(w, kernels)});
  }
  final_norm = widen(checkpoint_.final_norm);
  unembedding = prepare("unembedding", checkpoint_.unembedding);
}

}  // namespace gptoss::cpu
