#include "cpu/weights.h"

#include <utility>

#include "core/bf12.h"
#include "core/check.h"
#include "core/q8.h"
#include "cpu/ops.h"

namespace gptoss::cpu {
namespace {

std::vector<float> widened(const Kernels& kernels, const TensorView& tensor) {
  int64_t n = 1;
  for (const int64_t size : tensor.shape) n *= size;
  std::vector<float> values(static_cast<size_t>(n));
  kernels.from_bf16(reinterpret_cast<const uint16_t*>(tensor.data), n, values.data());
  return values;
}

// Bytes of a dense matrix in one of the forms that are made when a model is loaded.
int64_t encoded_bytes(DenseType type, const TensorView& w) {
  const int64_t rows = w.shape[0];
  const int64_t k = w.shape[1];
  if (type == DenseType::bf12) return rows * bf12_row_bytes(k);
  check(k % kQ8Block == 0, "[cpu] dense weights in int8 need in-features in whole blocks of ",
        kQ8Block, ", got ", k);
  return rows * (k + k / kQ8Block * int64_t{sizeof(uint16_t)});
}

}  // namespace

PreparedWeights::PreparedWeights(Weights weights, DenseType dense, const Kernels& kernels,
                                 ThreadPool& pool)
    : embedding(reinterpret_cast<const uint16_t*>(weights.embedding.data)),
      checkpoint_(std::move(weights)) {
  if (dense != DenseType::bf16) {
    int64_t total = encoded_bytes(dense, checkpoint_.unembedding);
    for (const LayerWeights& w : checkpoint_.layers) {
      for (const TensorView* matrix : {&w.q, &w.k, &w.v, &w.o}) {
        total += encoded_bytes(dense, *matrix);
      }
    }
    encoded_ = LazyMemory(total);
  }
  uint8_t* next = encoded_.data();
  // A dense matrix where it is, or encoded from there by all threads; the system may then have back
  // the pages of the file that it came from.
  const auto prepare = [&](const TensorView& w) -> DenseWeights {
    if (dense == DenseType::bf16) return {w.data, nullptr};
    uint8_t* const to = next;
    next += encoded_bytes(dense, w);
    const auto* const from = reinterpret_cast<const uint16_t*>(w.data);
    const auto rows = static_cast<int>(w.shape[0]);
    const auto k = static_cast<int>(w.shape[1]);
    DenseWeights encoded = {to, nullptr};
    if (dense == DenseType::bf12) {
      std::vector<uint16_t>& escapes = escapes_.emplace_back();
      bf12_encode(pool, {.w = from, .rows = to, .escapes = &escapes, .n = rows, .k = k});
      encoded.scales = escapes.data();
    } else {
      auto* const codes = reinterpret_cast<int8_t*>(to);
      auto* const scales = reinterpret_cast<uint16_t*>(to + int64_t{rows} * k);
      q8_encode(kernels, pool, {.w = from, .codes = codes, .scales = scales, .n = rows, .k = k});
      encoded.scales = scales;
    }
    if (w.mapped) release_file_pages(w.data, int64_t{rows} * k * size_of(w.dtype));
    return encoded;
  };
  const auto widen = [&](const TensorView& tensor) { return widened(kernels, tensor); };
  for (const LayerWeights& w : checkpoint_.layers) {
    layers.push_back({.attention_norm = widen(w.attention_norm),
                      .q = prepare(w.q),
                      .k = prepare(w.k),
                      .v = prepare(w.v),
                      .q_bias = widen(w.q_bias),
                      .k_bias = widen(w.k_bias),
                      .v_bias = widen(w.v_bias),
                      .sinks = widen(w.sinks),
                      .o = prepare(w.o),
                      .o_bias = widen(w.o_bias),
                      .mlp_norm = widen(w.mlp_norm),
                      .router = {w.router.data, nullptr},  // little work, and much depends on it
                      .router_bias = widen(w.router_bias),
                      .gate_up = {w.gate_up_blocks.data, w.gate_up_scales.data},
                      .gate_up_bias = widen(w.gate_up_bias),
                      .down = {w.down_blocks.data, w.down_scales.data},
                      .down_bias = widen(w.down_bias)});
  }
  final_norm = widen(checkpoint_.final_norm);
  unembedding = prepare(checkpoint_.unembedding);
}

}  // namespace gptoss::cpu
