#include "cpu/ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "core/aligned_bytes.h"
#include "core/check.h"
#include "core/float16.h"
#include "core/mxfp4.h"
#include "cpu/attention.h"

namespace gptoss::cpu {
namespace {

// x (tokens, k) as the matmul takes it.
AlignedBytes pack_activations(const Matmul& matmul, ThreadPool& pool, const float* x, int tokens,
                              int k) {
  const int64_t row_bytes = matmul.row_bytes(k);
  AlignedBytes packed(static_cast<size_t>(tokens * row_bytes));
  pool.run(group_count(tokens), [&](int64_t group) {
    const int64_t first = group * kGroupTokens;
    const int count = static_cast<int>(std::min<int64_t>(kGroupTokens, tokens - first));
    const float* rows[kGroupTokens];
    for (int i = 0; i < count; ++i) rows[i] = x + (first + i) * k;
    matmul.pack(rows, count, k, packed.data() + first * row_bytes);
  });
  return packed;
}

// Copies k and v (S, G, D) of f16 into pages, in the layout that the kernels read.
void fill_f16_pages(const ops::BandedAttention& op, const KvPages& kv) {
  const auto* const k = static_cast<const uint16_t*>(op.k);
  const auto* const v = static_cast<const uint16_t*>(op.v);
  for (int64_t s = 0; s < op.keys; ++s) {
    uint8_t* const page = kv.base + (s / kPageTokens) * kv.page_bytes;
    for (int64_t g = 0; g < op.kv_heads; ++g) {
      auto* const keys = reinterpret_cast<uint16_t*>(page) + g * op.head_dim * kPageTokens;
      auto* const values = keys + static_cast<int64_t>(op.kv_heads) * op.head_dim * kPageTokens;
      for (int64_t d = 0; d < op.head_dim; ++d) {
        const int64_t from = (s * op.kv_heads + g) * op.head_dim + d;
        keys[d * kPageTokens + s % kPageTokens] = k[from];
        values[(s % kPageTokens) * op.head_dim + d] = v[from];
      }
    }
  }
}

// The same of f32, rounded to what the pages hold.
void store_pages(const Kernels& kernels, const ops::BandedAttention& op, const KvPages& kv) {
  const int64_t row = static_cast<int64_t>(op.kv_heads) * op.head_dim;
  for (int s = 0; s < op.keys; ++s) {
    kernels.store_kv(kv, s, static_cast<const float*>(op.k) + s * row,
                     static_cast<const float*>(op.v) + s * row);
  }
}

}  // namespace

void matmul_panels(const Matmul& matmul, ThreadPool& pool, std::span<const MatmulTask> tasks) {
  const auto [rows, most] = row_units(tasks[0].tokens);
  const auto units_of = [rows](const MatmulTask& task) { return (task.row_end + rows - 1) / rows; };
  int64_t n_units = 0;
  for (const MatmulTask& task : tasks) n_units += units_of(task);
  pool.run_ranges(n_units, most, [&](int64_t begin, int64_t end) {
    int64_t first = 0;  // of the task
    for (const MatmulTask& task : tasks) {
      const int64_t from = std::max<int64_t>(0, begin - first);
      const int64_t to = std::min<int64_t>(units_of(task), end - first);
      first += units_of(task);
      if (from >= to) continue;
      MatmulTask part = task;
      part.row_begin = static_cast<int>(from) * rows;
      part.row_end = std::min(task.row_end, static_cast<int>(to) * rows);
      part.y = task.y + part.row_begin;
      matmul.run(part);
    }
  });
}

namespace {

// A matmul op on its own: packs its activations, then computes all rows.
template <class Op>
void run_matmul(const Kernels& kernels, ThreadPool& pool, const Op& op, Format format,
                Inputs inputs, const void* data, const void* scales = nullptr) {
  const Matmul& matmul = kernels.matmul(format, inputs);
  const AlignedBytes packed = pack_activations(matmul, pool, op.x, op.tokens, op.k);
  const MatmulTask task = {
      .x = packed.data(),
      .tokens = op.tokens,
      .w = {.format = format, .n = op.n, .k = op.k, .data = data, .scales = scales},
      .bias = op.bias,
      .y = op.y,
      .y_stride = op.n,
      .accumulate = false,
      .row_begin = 0,
      .row_end = op.n};
  matmul_panels(matmul, pool, {&task, 1});
}

// Refuses a row of w (N, K) bf16 that an encoder would make finite numbers of.
void check_finite(const char* op, const uint16_t* w, int64_t row, int64_t k) {
  constexpr uint16_t kExponent = 0x7f80;
  const uint16_t* const numbers = w + row * k;
  const auto is_finite = [&](int64_t i) {
    return (load_u16(numbers + i) & kExponent) != kExponent;
  };
  bool all = true;
  for (int64_t i = 0; i < k; ++i) all &= is_finite(i);
  if (all) return;
  int64_t column = 0;
  while (is_finite(column)) ++column;
  check(false, "[", op, "] expected finite w, got NaN or infinity at [", row, ", ", column, "]");
}

}  // namespace

void rms_norm(const Kernels& kernels, ThreadPool& pool, const ops::RmsNorm& op) {
  pool.run(op.tokens, [&](int64_t t) {
    kernels.rms_norm(op.x + t * op.n, op.weight, op.eps, op.n, op.y + t * op.n);
  });
}

void dense_matmul(const Kernels& kernels, ThreadPool& pool, const ops::DenseMatmul& op) {
  run_matmul(kernels, pool, op, Format::bf16, op.fast ? Inputs::fast : Inputs::exact, op.w);
}

namespace {

// f(begin, end) for blocks [begin, end), in parallel.
template <class F>
void for_each_blocks(ThreadPool& pool, int64_t n_blocks, F&& f) {
  constexpr int64_t kBlocksPerUnit = 1024;
  pool.run((n_blocks + kBlocksPerUnit - 1) / kBlocksPerUnit, [&](int64_t unit) {
    f(unit * kBlocksPerUnit, std::min(n_blocks, (unit + 1) * kBlocksPerUnit));
  });
}

}  // namespace

void mxfp4_dequantize(ThreadPool& pool, const ops::Mxfp4Dequantize& op) {
  for_each_blocks(pool, op.n_blocks, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      mxfp4_decode_block(op.blocks + i * kMxfp4BlockBytes, op.scales[i],
                         op.values + i * kMxfp4BlockSize);
    }
  });
}

void mxfp4_quantize(ThreadPool& pool, const ops::Mxfp4Quantize& op) {
  for_each_blocks(pool, op.n_blocks, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      mxfp4_encode_block(op.values + i * kMxfp4BlockSize, op.blocks + i * kMxfp4BlockBytes,
                         op.scales + i, op.least_squares);
    }
  });
}

void mxfp4_matmul(const Kernels& kernels, ThreadPool& pool, const ops::Mxfp4Matmul& op) {
  run_matmul(kernels, pool, op, Format::mxfp4, op.int8_activations ? Inputs::fast : Inputs::exact,
             op.blocks, op.scales);
}

void q8_encode(const Kernels& kernels, ThreadPool& pool, const ops::Q8Encode& op) {
  pool.run((op.n + kPanelRows - 1) / kPanelRows, [&](int64_t panel) {
    const int64_t end = std::min<int64_t>(op.n, (panel + 1) * kPanelRows);
    for (int64_t row = panel * kPanelRows; row < end; ++row) {
      check_finite("q8_encode", op.w, row, op.k);
      kernels.encode_q8_weights(op.w + row * op.k, op.k, op.codes + row * op.k,
                                op.scales + row * (op.k / kQ8Block));
    }
  });
}

void q8_matmul(const Kernels& kernels, ThreadPool& pool, const ops::Q8Matmul& op) {
  run_matmul(kernels, pool, op, op.q8_0 ? Format::q8_0 : Format::q8,
             op.exact ? Inputs::exact : Inputs::fast, op.codes, op.scales);
}

void bf12_encode(ThreadPool& pool, const ops::Bf12Encode& op) {
  const int64_t row_bytes = bf12_row_bytes(op.k);
  const int64_t panels = (op.n + kPanelRows - 1) / kPanelRows;
  std::vector<std::vector<uint16_t>> escapes(static_cast<size_t>(panels));
  const auto rows_of = [&](int64_t panel, auto f) {
    const int64_t end = std::min<int64_t>(op.n, (panel + 1) * kPanelRows);
    for (int64_t row = panel * kPanelRows; row < end; ++row) f(row);
  };
  pool.run(panels, [&](int64_t panel) {
    rows_of(panel, [&](int64_t row) {
      check_finite("bf12_encode", op.w, row, op.k);
      bf12_encode_row(op.w + row * op.k, op.k, op.rows + row * row_bytes,
                      escapes[static_cast<size_t>(panel)]);
    });
  });
  for (int64_t panel = 0; panel < panels; ++panel) {
    const std::vector<uint16_t>& own = escapes[static_cast<size_t>(panel)];
    const size_t before = op.escapes->size() / kBf12Group;
    rows_of(panel,
            [&](int64_t row) { bf12_shift_escapes(op.rows + row * row_bytes, op.k, before); });
    op.escapes->insert(op.escapes->end(), own.begin(), own.end());
  }
}

void bf12_matmul(const Kernels& kernels, ThreadPool& pool, const ops::Bf12Matmul& op) {
  run_matmul(kernels, pool, op, Format::bf12, Inputs::fast, op.rows, op.escapes);
}

void rope(const Kernels& kernels, ThreadPool& pool, const ops::Rope& op) {
  const ops::RopeTable table(op.config, op.head_dim);
  pool.run(op.tokens, [&](int64_t t) {
    std::vector<float> rotation(static_cast<size_t>(op.head_dim));
    float* const sin = rotation.data() + op.head_dim / 2;
    table.rotation(op.positions[t], rotation.data(), sin);
    kernels.rope(op.x + t * op.heads * op.head_dim, op.heads, op.head_dim, rotation.data(), sin);
  });
}

void swiglu(const Kernels& kernels, ThreadPool& pool, const ops::Swiglu& op) {
  pool.run(op.tokens, [&](int64_t t) {
    kernels.swiglu(op.gate_up + t * 2 * op.n, op.n, op.limit, op.h + t * op.n);
  });
}

void banded_attention(const Kernels& kernels, ThreadPool& pool, const ops::BandedAttention& op) {
  const KvType type = op.int8_cache ? KvType::int8 : op.half ? KvType::f16 : KvType::f32;
  const int64_t page_bytes = kv_layer_bytes(type, op.kv_heads, op.head_dim);
  const int n_pages = (op.keys + kPageTokens - 1) / kPageTokens;
  std::vector<uint8_t> cache(static_cast<size_t>(n_pages * page_bytes));
  std::vector<int32_t> table(static_cast<size_t>(n_pages));
  std::iota(table.begin(), table.end(), 0);
  const KvPages kv = {.base = cache.data(),
                      .page_bytes = page_bytes,
                      .table = table.data(),
                      .table_size = n_pages,
                      .type = type,
                      .kv_heads = op.kv_heads,
                      .head_dim = op.head_dim};
  if (op.half) {
    fill_f16_pages(op, kv);
  } else {
    store_pages(kernels, op, kv);
  }
  const AttentionSequence sequence = {0, op.tokens, op.first_position, kv};
  banded_attention(kernels, pool,
                   AttentionBatch{.q = op.q,
                                  .q_stride = static_cast<int64_t>(op.heads) * op.head_dim,
                                  .sinks = op.sinks,
                                  .out = op.out,
                                  .heads = op.heads,
                                  .kv_heads = op.kv_heads,
                                  .head_dim = op.head_dim,
                                  .window = op.window,
                                  .scale = op.scale,
                                  .sequences = {&sequence, 1}});
}

void route_topk(const ops::RouteTopk& op) {
  const auto rank = [](float x) { return std::isnan(x) ? -INFINITY : x; };
  for (int64_t t = 0; t < op.tokens; ++t) {
    const float* const logits = op.logits + t * op.n_experts;
    int32_t* const experts = op.experts + t * op.n_active;
    float* const weights = op.weights + t * op.n_active;
    std::vector<int32_t> order(static_cast<size_t>(op.n_experts));
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + op.n_active, order.end(),
                      [&](int32_t a, int32_t b) {
                        const float x = rank(logits[a]);
                        const float y = rank(logits[b]);
                        return x > y || (x == y && a < b);
                      });
    float sum = 0.0f;
    for (int a = 0; a < op.n_active; ++a) {
      experts[a] = order[static_cast<size_t>(a)];
      weights[a] = std::exp(logits[experts[a]] - logits[experts[0]]);
      sum += weights[a];
    }
    for (int a = 0; a < op.n_active; ++a) weights[a] /= sum;
  }
}

void expert_gather(const ops::ExpertGather& op) {
  const int n_pairs = op.tokens * op.n_active;
  std::fill(op.offsets, op.offsets + op.n_experts + 1, 0);
  for (int i = 0; i < n_pairs; ++i) ++op.offsets[op.experts[i] + 1];
  std::partial_sum(op.offsets, op.offsets + op.n_experts + 1, op.offsets);
  std::vector<int32_t> next(op.offsets, op.offsets + op.n_experts);
  for (int i = 0; i < n_pairs; ++i) op.pairs[next[static_cast<size_t>(op.experts[i])]++] = i;
  if (op.rows == nullptr) return;
  for (int64_t i = 0; i < n_pairs; ++i) {
    std::memcpy(op.rows + i * op.n, op.x + static_cast<int64_t>(op.pairs[i] / op.n_active) * op.n,
                static_cast<size_t>(op.n) * sizeof(float));
  }
}

}  // namespace gptoss::cpu
