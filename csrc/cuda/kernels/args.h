// What the host hands to each kernel: one struct per operation, passed by value as its only
// parameter, and how the kernel is launched. Plain data; nvcc and the host's compiler read it
// alike.
//
// Rules for all kernels:
//   - One extern "C" entry per variant, named by launch_of(); `__launch_bounds__` of its threads.
//   - Every array begins at a multiple of 256 bytes, unless it says less; rows are dense unless
//     there is a stride, which counts elements.
//   - A grid may be larger than the work: blocks without any leave. Nothing is written behind what
//     a struct names, nothing that it names need be initialised but inputs.
//   - Sums have a fixed order that depends on neither the number of rows, nor on which row a token
//     is in, nor on the grid. No float atomics.
//   - Activations are f32 where the suffix is _f32 (precision "reference"), and bf16 where it is
//     _bf16: what comes out of a norm, of attention and of SwiGLU. The residual stream, QKV, the
//     experts' outputs and logits are f32 always.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define GPTOSS_BOTH_SIDES __host__ __device__
#else
#define GPTOSS_BOTH_SIDES
#endif

namespace gptoss::cuda {

inline constexpr int kKernelPageTokens = 64;  // core/kv_page.h, checked against it
inline constexpr int kMaxTop = 20;            // ops/sample.h: kMaxLogprobs
inline constexpr int kMaxExperts = 256;
inline constexpr int kMaxHidden = 12000;  // a row of the residual stream in shared memory
inline constexpr uint32_t kSeen = 0x80000000u;

// Of activations: what norms, attention and SwiGLU write, and matmuls read.
enum class Act : int32_t { f32, bf16 };
inline constexpr int size_of(Act act) { return act == Act::f32 ? 4 : 2; }

// Of keys and values in pages. int8 has a scale for each token and head.
enum class Kv : int32_t { f32, f16, int8 };
// Of one layer in a page: KvLayer.
inline constexpr int64_t kv_layer_bytes(Kv kv, int kv_heads, int head_dim) {
  const int64_t row = kv == Kv::f32 ? 4 * head_dim : kv == Kv::f16 ? 2 * head_dim : head_dim + 4;
  return int64_t{2} * kKernelPageTokens * kv_heads * row;
}

struct Launch {
  const char* entry;
  int grid_x, grid_y, grid_z;
  int threads;         // per block
  int dynamic_shared;  // bytes
};

GPTOSS_BOTH_SIDES inline constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// ---- A step ------------------------------------------------------------------------------------

// What the device remembers of a slot's sequence.
struct SlotState {
  int32_t last_token;  // sampled or decided last
  int32_t unused;
  uint64_t index;  // of the next token in the output
};

// The ragged batch (backend/step.h: StepInput), in device memory.
struct Step {
  const int32_t* tokens;            // (T): ids, or -1: the slot's last token
  const int32_t* positions;         // (T)
  const int32_t* token_slots;       // (T)
  const int32_t* sequence_offsets;  // (S + 1)
  const int32_t* first_positions;   // (S)
  const int32_t* sequence_slots;    // (S)
  const int32_t* logit_rows;        // (R): tokens, ascending
  const SlotState* slots;           // (slots)
  int32_t n_tokens;                 // T
  int32_t n_sequences;              // S
  int32_t n_logit_rows;             // R
};

// x (T, hidden) f32 = rows of the embedding (V, hidden), bf16 or, if it has scales, in q8_0 as
// core/q8.h has it. With a weight it begins the norm of x, as RmsNormArgs does in bf16.
struct EmbedArgs {
  Step step;
  const void* embedding;
  const void* scales;  // (V, hidden/32) f16, nullable
  float* x;
  const float* weight;  // (hidden), nullable
  void* y;              // (T, hidden) bf16
  float* squares;       // (T)
  int32_t hidden;
};
inline Launch launch_of(const EmbedArgs& a) {
  return {
      a.scales == nullptr ? "gptoss_embed" : "gptoss_embed_q8_0", a.step.n_tokens, 1, 1, 256, 0};
}

// ---- Norm --------------------------------------------------------------------------------------

// y (rows, n) = x / sqrt(mean(x^2) + eps) * weight; row r of y is of x's row `row_index[r]`, or r
// where that is null. In bf16 (`act`) the norm is only begun: y = x * weight, which needs nothing
// of other columns, and the product that reads y divides (RowNorm). n up to kMaxHidden.
struct RmsNormArgs {
  const float* x;  // (?, n)
  const float* weight;
  void* y;
  float* squares;            // (rows): the sum of x^2, with bf16
  const int32_t* row_index;  // nullable
  int32_t rows, n;
  float eps;
  Act act;
};
inline Launch launch_of(const RmsNormArgs& a) {
  return {a.act == Act::f32 ? "gptoss_rms_norm_f32" : "gptoss_rms_norm_bf16", a.rows, 1, 1, 256, 0};
}

// Of rows whose norm was begun: what is made of them is divided by sqrt(sum / k + eps), where the
// sum is that of a row of `squares`. All that make or add squares have one order: over 16 columns
// as a tree, then those, as sum_of_parts() of block.cuh does.
struct RowNorm {
  const float* squares;  // (rows, n_parts), nullable: nothing is divided
  int32_t n_parts;       // 1: sums of whole rows; else ceil(k / 16)
  float eps;
};
inline constexpr int kNormColumns = 16;

// ---- Dense matmul ------------------------------------------------------------------------------

// What is highest and lowest of 16 logits, -inf left out, which is not possible; +inf in place of
// the highest if it or NaN is among them.
struct LogitRange {
  float highest, lowest;
};
inline constexpr int kRangeLogits = 16;
inline constexpr int kRangeRows = 64;  // at most

// y (rows, n) f32 = x (rows, k) @ w^T, divided (`norm`) (+ bias) (+ what y holds, if `accumulate`).
//   Act::f32:  x f32, w (n, k) bf16 row-major, any n and k; products and sums in f32. With scales
//              w is in q8_0 as core/q8.h has it, k % 32 == 0
//   Act::bf16: x bf16, k % 8 == 0 and x_stride % 8 == 0, w as ShuffleDenseArgs leaves it; sums in
//              f32, in an order that depends on k alone. `ranges` of y for up to kRangeRows rows
struct DenseMatmulArgs {
  const void* x;
  const void* w;
  const void* scales;  // (n, k/32) f16, nullable; null with Act::bf16
  const float* bias;   // (n), nullable
  float* y;
  LogitRange* ranges;  // (rows, ceil(n / 16)), nullable; with Act::f32 null, as norm.squares is
  RowNorm norm;
  int32_t rows, n, k;
  int32_t x_stride, y_stride;
  int32_t accumulate;
  Act act;
};
inline Launch launch_of(const DenseMatmulArgs& a) {
  if (a.act == Act::f32) {  // a warp per output row of w, and per row of x
    return {a.scales == nullptr ? "gptoss_dense_matmul_f32" : "gptoss_dense_matmul_q8_0_f32",
            static_cast<int>(ceil_div(a.n, 8)),
            a.rows,
            1,
            256,
            0};
  }
  if (a.rows > 64) {  // 128 rows of w, 64 of x
    return {"gptoss_dense_matmul_bf16_64",
            static_cast<int>(ceil_div(a.n, 128)),
            static_cast<int>(ceil_div(a.rows, 64)),
            1,
            128,
            0};
  }
  return {a.rows > 8 ? "gptoss_dense_matmul_bf16_32" : "gptoss_dense_matmul_bf16_8",
          static_cast<int>(ceil_div(a.n, 16)),
          static_cast<int>(ceil_div(a.rows, a.rows > 8 ? 32 : 8)),
          1,
          256,
          0};
}

// Weights in fragments of mma.m16n8k16 as A (fragments.cuh), padded with zeros to 16 rows and 64
// columns. Rows from a multiple of 16 on are bytes from shuffled_dense_bytes(row, k) on.
GPTOSS_BOTH_SIDES inline constexpr int64_t shuffled_dense_bytes(int64_t n, int64_t k) {
  return ceil_div(n, 16) * ceil_div(k, 64) * 16 * 64 * 2;
}
// On the device, when a model is loaded.
struct ShuffleDenseArgs {
  const uint16_t* from;  // (n, k) bf16, row-major; at any multiple of 2 bytes
  void* to;              // shuffled_dense_bytes(n, k)
  int32_t n, k;
};
inline Launch launch_of(const ShuffleDenseArgs& a) {
  return {"gptoss_shuffle_dense",
          static_cast<int>(ceil_div(a.n, 16)),
          static_cast<int>(ceil_div(a.k, 64)),
          1,
          32,
          0};
}

// ---- Dense matmul in int8 ----------------------------------------------------------------------

// codes, scales = x (rows, k) in int8, 32 numbers with a scale: x = code * 2 * scale, codes in
// [-127, 127]. What is not finite makes its scale so. k % 32 == 0.
GPTOSS_BOTH_SIDES inline constexpr int64_t q8_columns(int64_t k) { return ceil_div(k, 64) * 64; }
struct QuantizeArgs {
  const void* x;  // f32 or bf16 (`act`)
  int8_t* codes;  // (rows, q8_columns(k)); zeros beyond k
  float* scales;  // (rows, q8_columns(k) / 32)
  int32_t rows, k;
  int32_t x_stride;
  Act act;
};
inline Launch launch_of(const QuantizeArgs& a) {  // a warp per 32 numbers
  return {a.act == Act::f32 ? "gptoss_quantize_f32" : "gptoss_quantize_bf16",
          a.rows,
          static_cast<int>(ceil_div(q8_columns(a.k), 256)),
          1,
          256,
          0};
}

// y (rows, n) f32 = x (rows, k) @ w^T, divided (`norm`) (+ bias) (+ what y holds, if `accumulate`).
// Products within 32 columns are exact integers, sums over them f32, as in ops/q8_matmul.h.
struct Q8MatmulArgs {
  const int8_t* x;  // as QuantizeArgs leaves them
  const float* x_scales;
  const void* codes;  // as ShuffleQ8Args or ShuffleQ8_0Args leaves them
  const void* scales;
  const float* bias;  // (n), nullable
  float* y;
  LogitRange* ranges;  // as in DenseMatmulArgs
  RowNorm norm;
  int32_t rows, n, k;
  int32_t y_stride;
  int32_t accumulate;
  int32_t is_q8_0;  // w = code * scale, in f16; else code * scale / 2, in bf16
};
inline constexpr int kQ8TiledShared = 53760;  // bytes
inline Launch launch_of(const Q8MatmulArgs& a) {
  const bool is_q8_0 = a.is_q8_0 != 0;
  if (a.rows > 64) {  // 128 rows of w, 128 of x
    return {is_q8_0 ? "gptoss_q8_0_matmul_128" : "gptoss_q8_matmul_128",
            static_cast<int>(ceil_div(a.n, 128)),
            static_cast<int>(ceil_div(a.rows, 128)),
            1,
            256,
            kQ8TiledShared};
  }
  return {is_q8_0 ? (a.rows > 8 ? "gptoss_q8_0_matmul_32" : "gptoss_q8_0_matmul_8")
                  : (a.rows > 8 ? "gptoss_q8_matmul_32" : "gptoss_q8_matmul_8"),
          static_cast<int>(ceil_div(a.n, 16)),
          static_cast<int>(ceil_div(a.rows, a.rows > 8 ? 32 : 8)),
          1,
          256,
          0};
}

// A bf16 matrix in int8 (core/q8.h, the codes and scales of the CPU's), in fragments of
// mma.m16n8k32 (fragments.cuh), padded with zeros to 16 rows and 64 columns. k % 32 == 0.
GPTOSS_BOTH_SIDES inline constexpr int64_t shuffled_q8_code_bytes(int64_t n, int64_t k) {
  return ceil_div(n, 16) * ceil_div(k, 64) * 16 * 64;
}
GPTOSS_BOTH_SIDES inline constexpr int64_t shuffled_q8_scale_bytes(int64_t n, int64_t k) {
  return ceil_div(n, 16) * ceil_div(k, 64) * 16 * 4;
}
struct ShuffleQ8Args {
  const uint16_t* from;  // (n, k) bf16, row-major; at any multiple of 2 bytes
  void* codes;           // shuffled_q8_code_bytes(n, k)
  void* scales;          // shuffled_q8_scale_bytes(n, k)
  int32_t n, k;
};
inline Launch launch_of(const ShuffleQ8Args& a) {
  return {"gptoss_shuffle_q8",
          static_cast<int>(ceil_div(a.n, 16)),
          static_cast<int>(ceil_div(a.k, 64)),
          1,
          32,
          0};
}
// Likewise a matrix in q8_0 as core/q8.h has it, with its own codes and scales.
struct ShuffleQ8_0Args {
  const void* from_codes;   // (n, k)
  const void* from_scales;  // (n, k/32) f16
  void* codes;
  void* scales;
  int32_t n, k;
};
inline Launch launch_of(const ShuffleQ8_0Args& a) {
  return {"gptoss_shuffle_q8_0",
          static_cast<int>(ceil_div(a.n, 16)),
          static_cast<int>(ceil_div(a.k, 64)),
          1,
          32,
          0};
}

// ---- Experts -----------------------------------------------------------------------------------

// Sorts (token, choice) pairs by expert, stably (ops/expert_gather.h). At most kMaxExperts.
struct ExpertSortArgs {
  const int32_t* experts;  // (T, A)
  int32_t* pairs;          // (T * A): t * A + a of each sorted row
  int32_t* offsets;        // (E + 1): expert e has sorted rows [offsets[e], offsets[e + 1])
  int32_t n_pairs, n_experts;
};
inline Launch launch_of(const ExpertSortArgs&) { return {"gptoss_expert_sort", 1, 1, 1, 1024, 0}; }

// Where sorted rows are cut into tiles of up to `tile` rows, each of one expert, there are at most
// this many.
inline constexpr int64_t max_expert_tiles(int64_t n_pairs, int64_t n_experts, int64_t tile) {
  const int64_t touched = n_pairs < n_experts ? n_pairs : n_experts;
  return touched + (n_pairs - touched) / tile;
}
// Rows of x that one block of the bf16 kernels takes: how many an expert has on average decides.
inline constexpr int expert_tile_rows(int64_t n_pairs, int64_t n_experts) {
  return n_pairs <= 4 * n_experts ? 8 : n_pairs <= 24 * n_experts ? 32 : 64;
}

// Matrices of all experts in MXFP4, one after the other.
//   Act::f32:  blocks (E, n, k/32, 16), scales (E, n, k/32) as in the checkpoint (core/mxfp4.h)
//   Act::bf16: as ShuffleMxfp4Args leaves them
struct ExpertWeights {
  const uint8_t* blocks;
  const uint8_t* scales;
  const float* bias;  // (E, n)
};

// h (pairs, I) in sorted order = SwiGLU(x[token] @ gate_up^T + bias); rows of gate and up are
// interleaved (ops/swiglu.h). x and h f32 or bf16.
struct GateUpArgs {
  const void* x;  // (T, k)
  ExpertWeights w;
  const int32_t* pairs;
  const int32_t* offsets;
  void* h;
  int32_t n_pairs, n_experts, n_active;
  int32_t n, k;  // n = 2 I, k = hidden
  float limit;
  Act act;
};
inline Launch launch_of(const GateUpArgs& a) {
  if (a.act == Act::f32) {  // a warp per gate and up row, and per pair
    return {"gptoss_gate_up_f32", static_cast<int>(ceil_div(a.n / 2, 8)), a.n_pairs, 1, 256, 0};
  }
  const int tile = expert_tile_rows(a.n_pairs, a.n_experts);
  return {tile == 8    ? "gptoss_gate_up_bf16_8"
          : tile == 32 ? "gptoss_gate_up_bf16_32"
                       : "gptoss_gate_up_bf16_64",
          static_cast<int>(ceil_div(a.n, tile == 8    ? 64
                                         : tile == 32 ? 16
                                                      : 128)),
          static_cast<int>(max_expert_tiles(a.n_pairs, a.n_experts, tile)),
          1,
          tile == 32 ? 256 : 128,
          0};
}

// x (T, n) f32 += sum over a of weights[t, a] * out[t * A + a], in the order of a.
struct CombineArgs {
  const float* out;      // (T * A, n)
  const float* weights;  // (T, A)
  float* x;
  int32_t tokens, n_active, n;
};
inline Launch launch_of(const CombineArgs& a) {
  return {"gptoss_combine", a.tokens, static_cast<int>(ceil_div(a.n, 256)), 1, 256, 0};
}

// What follows the experts, done by blocks that are the last to have made some columns:
// CombineArgs, then the norm of x is begun. x * weight goes to y, or to codes in int8 as
// QuantizeArgs makes them of bf16, which needs n % 32 == 0.
struct FinishArgs {
  CombineArgs combine;  // x null: nothing of it is done here
  const float* weight;  // (n), nullable: no norm
  void* y;              // (T, n) bf16
  int8_t* codes;        // (T, q8_columns(n)), nullable
  float* code_scales;   // (T, q8_columns(n) / 32)
  float* squares;       // (T, ceil(n / kNormColumns))
  int32_t* arrived;     // (ceil(n / 64)): zeros, before and after
};

// out (T * A, hidden) f32, by pair and not by sorted row: out[pairs[r]] = h[r] @ down^T + bias.
struct DownArgs {
  const void* h;  // (pairs, k), sorted
  ExpertWeights w;
  const int32_t* pairs;
  const int32_t* offsets;
  float* out;
  int32_t n_pairs, n_experts;
  int32_t n, k;  // n = hidden, k = I
  Act act;
  FinishArgs finish;  // where finishes_experts()
};
inline bool finishes_experts(Act act, int n_pairs, int n_experts) {
  return act == Act::bf16 && expert_tile_rows(n_pairs, n_experts) == 8;
}
inline Launch launch_of(const DownArgs& a) {
  if (a.act == Act::f32) {
    return {"gptoss_down_f32", static_cast<int>(ceil_div(a.n, 8)), a.n_pairs, 1, 256, 0};
  }
  const int tile = expert_tile_rows(a.n_pairs, a.n_experts);
  return {tile == 8    ? "gptoss_down_bf16_8"
          : tile == 32 ? "gptoss_down_bf16_32"
                       : "gptoss_down_bf16_64",
          static_cast<int>(ceil_div(a.n, tile == 8    ? 64
                                         : tile == 32 ? 16
                                                      : 128)),
          static_cast<int>(max_expert_tiles(a.n_pairs, a.n_experts, tile)),
          1,
          tile == 32 ? 256 : 128,
          0};
}

// MXFP4 in fragments as well: per matrix, for each 16 rows and 64 columns, 16 bytes a lane; scales:
// a 32-bit word for each pair of rows.
inline constexpr int kShuffledMaxScale = 128;  // E8M0 byte; larger ones make infinite weights
GPTOSS_BOTH_SIDES inline constexpr int64_t shuffled_mxfp4_block_bytes(int64_t n, int64_t k) {
  return ceil_div(n, 16) * ceil_div(k, 64) * 16 * 32;
}
GPTOSS_BOTH_SIDES inline constexpr int64_t shuffled_mxfp4_scale_bytes(int64_t n, int64_t k) {
  return ceil_div(n, 16) * ceil_div(k, 64) * 8 * 4;
}
struct ShuffleMxfp4Args {
  const uint8_t* from_blocks;  // (matrices, n, k/32, 16)
  const uint8_t* from_scales;  // (matrices, n, k/32)
  uint8_t* to_blocks;          // (matrices, shuffled_mxfp4_block_bytes)
  uint8_t* to_scales;          // (matrices, shuffled_mxfp4_scale_bytes)
  int32_t matrices, n, k;
};
inline Launch launch_of(const ShuffleMxfp4Args& a) {
  return {"gptoss_shuffle_mxfp4",
          static_cast<int>(ceil_div(a.n, 16)),
          static_cast<int>(ceil_div(a.k, 64)),
          a.matrices,
          32,
          0};
}

// experts (T, A), weights (T, A) of logits (T, E): ops/route_topk.h. A step has it within
// RouteArgs; alone it is what tests compare with the op.
struct RouteTopkArgs {
  const float* logits;
  int32_t* experts;
  float* weights;
  int32_t tokens, n_experts, n_active;
};
inline Launch launch_of(const RouteTopkArgs& a) {  // a warp per token
  return {"gptoss_route_topk", static_cast<int>(ceil_div(a.tokens, 4)), 1, 1, 128, 0};
}

// All of the way from the residual stream to the experts: normed (T, hidden) = RMSNorm of x, f32 or
// bf16 (`act`); logits = normed @ router^T + bias, in f32 from what is not yet rounded; experts and
// weights as RouteTopkArgs. At most kMaxExperts, hidden up to kMaxHidden. Of few tokens several
// blocks share the experts of each, and the last one to finish chooses; the last of all sorts the
// pairs as ExpertSortArgs says.
inline constexpr int kRouteShares = 32;
inline constexpr int kRouteSharedTokens = 16;
struct RouteArgs {
  const float* x;          // (T, hidden)
  const float* weight;     // (hidden), of the norm
  const uint16_t* router;  // (E, hidden) bf16
  const float* bias;       // (E)
  void* normed;
  float* logits;
  int32_t* experts;
  float* weights;
  int32_t* pairs;    // (T * A); null: not sorted, as with more than kRouteSharedTokens
  int32_t* offsets;  // (E + 1)
  int32_t* arrived;  // (T + 1): zeros, before and after
  int32_t tokens, hidden, n_experts, n_active;
  float eps;
  Act act;
};
inline Launch launch_of(const RouteArgs& a) {
  return {a.act == Act::f32 ? "gptoss_route_f32" : "gptoss_route_bf16",
          a.tokens,
          a.tokens > kRouteSharedTokens ? 1
          : a.n_experts < kRouteShares  ? a.n_experts
                                        : kRouteShares,
          1,
          256,
          a.hidden * 4};
}

// CombineArgs, then y (T, n) = RMSNorm of x, f32, or in bf16 (`act`) begun, as in RmsNormArgs. n up
// to kMaxHidden.
struct CombineNormArgs {
  CombineArgs combine;
  const float* weight;  // (n)
  void* y;
  float* squares;  // (T), with bf16
  float eps;
  Act act;
};
inline Launch launch_of(const CombineNormArgs& a) {
  return {a.act == Act::f32 ? "gptoss_combine_norm_f32" : "gptoss_combine_norm_bf16",
          a.combine.tokens,
          1,
          1,
          512,
          a.act == Act::f32 ? a.combine.n * 4 : 0};
}

// ---- Attention ---------------------------------------------------------------------------------

// Keys and values of one layer in the pages of its group:
//   base + page * page_stride: k (G, 64, D), then v (G, 64, D), of f32, f16 or int8; with int8
//   then the scales of k (G, 64), then those of v (G, 64), f32
// Position p of the sequence in slot s is in page table[s * row_pages + (p / 64) % row_pages].
struct KvLayer {
  void* base;            // of this layer in page 0
  int64_t page_stride;   // bytes
  const int32_t* table;  // (slots, row_pages)
  int32_t row_pages;
  int32_t kv_heads, head_dim;  // G, D: a multiple of 16 up to 256
  Kv kv;
};

// Rotates q in place, writes rotated k and v to the pages. qkv (T, qkv_stride): q (H, D), k (G, D),
// v (G, D) f32. rotations (positions, D): cos (D/2), then sin (D/2), of every position, both times
// the concentration (ops/rope.h). f16 is rounded to nearest, ties to even; codes of int8 are those
// of x * (127 / largest), likewise, and scales largest / 127.
struct RopeKvArgs {
  Step step;
  float* qkv;
  int32_t qkv_stride;
  int32_t heads;  // H
  const float* rotations;
  KvLayer kv;
};
inline Launch launch_of(const RopeKvArgs& a) {
  return {a.kv.kv == Kv::f32   ? "gptoss_rope_kv_f32"
          : a.kv.kv == Kv::f16 ? "gptoss_rope_kv_f16"
                               : "gptoss_rope_kv_int8",
          a.step.n_tokens,
          1,
          1,
          256,
          0};
}

// out (T, H, D) = banded attention with sinks (ops/banded_attention.h) of the rotated q of qkv,
// over the pages. out is f32 (with f32 pages) or bf16 (with f16 and int8 pages). qkv_stride is
// even. int8 pages need has_fast_attention().
//
// With rotations, what RopeKvArgs does is done here: for steps that have one token of each
// sequence, where has_fast_attention(). qkv stays as it is.
struct AttentionArgs {
  Step step;
  const float* qkv;
  int32_t qkv_stride;
  int32_t heads;
  KvLayer kv;
  const float* sinks;      // (H)
  const float* rotations;  // (positions, D), nullable
  void* out;
  int8_t* codes;  // nullable: instead of `out`, as QuantizeArgs makes them of its bf16, where
                  // has_fast_attention(), D % 32 == 0 and H * D % 64 == 0
  float* code_scales;
  int32_t window;  // 0: all
  float scale;
  Act act;
  int32_t n_splits;  // of AttentionSplitArgs
  float* partials;   // likewise
  int32_t* arrived;  // likewise
};

// Keys whose softmax is carried alone, then joins that of the keys before them. Borders lie at
// fixed positions, so that a token's sums are made in one order, whichever kernel makes them, and
// whatever else is in the step.
inline constexpr int kShortSplit = 128;
inline constexpr int kLongSplit = 512;
inline constexpr int kLongSplitsFrom = 4096;
GPTOSS_BOTH_SIDES constexpr int split_of(int position) {
  return position < kLongSplitsFrom
             ? position / kShortSplit
             : kLongSplitsFrom / kShortSplit + (position - kLongSplitsFrom) / kLongSplit;
}
GPTOSS_BOTH_SIDES constexpr int split_begin(int split) {
  return split * kShortSplit <= kLongSplitsFrom
             ? split * kShortSplit
             : kLongSplitsFrom + (split - kLongSplitsFrom / kShortSplit) * kLongSplit;
}

// What tensor cores compute; other shapes take the plain kernel.
inline constexpr bool has_fast_attention(Act act, int heads, int kv_heads, int head_dim) {
  return act == Act::bf16 && heads / kv_heads <= 16 &&
         (head_dim == 16 || head_dim == 32 || head_dim == 64);
}
inline bool has_fast_attention(const AttentionArgs& a) {
  return has_fast_attention(a.act, a.heads, a.kv.kv_heads, a.kv.head_dim);
}
// Of so many tokens of one sequence the query heads of a KV head make 16 rows.
inline int row_tokens(const AttentionArgs& a) { return 16 / (a.heads / a.kv.kv_heads); }
// At least the tiles of all sequences.
inline int count_tiles(const AttentionArgs& a, int tile_tokens) {
  const int tiles = a.step.n_tokens / tile_tokens + a.step.n_sequences;
  return tiles < a.step.n_tokens ? tiles : a.step.n_tokens;
}

// Each block goes through all keys of some tokens.
inline Launch launch_of(const AttentionArgs& a) {
  if (!has_fast_attention(a)) {
    return {a.act == Act::f32 ? "gptoss_attention_f32" : "gptoss_attention_f16",
            a.step.n_tokens,
            a.kv.kv_heads,
            1,
            256,
            0};
  }
  const bool is_int8 = a.kv.kv == Kv::int8;
  return {a.kv.head_dim == 64
              ? (is_int8 ? "gptoss_attention_tile_64_int8" : "gptoss_attention_tile_64")
          : a.kv.head_dim == 32
              ? (is_int8 ? "gptoss_attention_tile_32_int8" : "gptoss_attention_tile_32")
              : (is_int8 ? "gptoss_attention_tile_16_int8" : "gptoss_attention_tile_16"),
          count_tiles(a, 4 * row_tokens(a)),
          a.kv.kv_heads,
          1,
          128,
          0};
}

// The same bits for few tokens with many keys, where has_fast_attention(): each block goes through
// the keys of one split, and the last one of some tokens joins theirs.
//   partials (T, n_splits, H, D + 2) f32: values, not yet divided; maximum, to base 2; sum
//   arrived (T, G): zeros, before and after
// n_splits is at least split_of(highest position) + 1. They pay where tiles alone would leave most
// of the device idle: up to kSplitRows splits of all tokens together.
inline constexpr int kSplitRows = 2048;
// 0 where they do not; else a power of two, within what there can be of `positions`: few numbers,
// so that one graph serves many steps. Splits behind a token's last one leave at once.
inline int count_splits(int tokens, int highest_position, int positions) {
  const int splits = split_of(highest_position) + 1;
  if (splits == 1 || tokens * static_cast<int64_t>(splits) > kSplitRows) return 0;
  int rounded = 2;
  while (rounded < splits) rounded *= 2;
  const int most = split_of(positions - 1) + 1;
  rounded = rounded < most ? rounded : most;
  return rounded < kSplitRows / tokens ? rounded : kSplitRows / tokens;
}
inline constexpr int64_t attention_partials(int tokens, int n_splits, int heads, int head_dim) {
  return int64_t{1} * tokens * n_splits * heads * (head_dim + 2);
}
struct AttentionSplitArgs {
  AttentionArgs attention;
};
inline Launch launch_of(const AttentionSplitArgs& s) {
  const AttentionArgs& a = s.attention;
  const bool is_int8 = a.kv.kv == Kv::int8;
  return {a.kv.head_dim == 64
              ? (is_int8 ? "gptoss_attention_split_64_int8" : "gptoss_attention_split_64")
          : a.kv.head_dim == 32
              ? (is_int8 ? "gptoss_attention_split_32_int8" : "gptoss_attention_split_32")
              : (is_int8 ? "gptoss_attention_split_16_int8" : "gptoss_attention_split_16"),
          count_tiles(a, 4 * row_tokens(a)),
          a.kv.kv_heads,
          a.n_splits,
          128,
          0};
}

// ---- A look inside -----------------------------------------------------------------------------

// out (n_pairs, keys + 1) f32: of pairs t * H + h from first_pair on, each key's share of the
// softmax of the rotated q of qkv, over the pages, as ops/banded_attention.h has it, then the
// sink's share. Without a window column k is the key at position k; with one the last column is the
// token's own position. What a token does not see has share 0.
struct AttentionSharesArgs {
  Step step;
  const float* qkv;
  int32_t qkv_stride;
  int32_t heads;
  KvLayer kv;
  const float* sinks;  // (H)
  float* out;
  int32_t first_pair, n_pairs, keys;
  int32_t window;  // 0: all
  float scale;
};
inline Launch launch_of(const AttentionSharesArgs& a) {
  return {a.kv.kv == Kv::f32   ? "gptoss_attention_shares_f32"
          : a.kv.kv == Kv::f16 ? "gptoss_attention_shares_f16"
                               : "gptoss_attention_shares_int8",
          a.n_pairs,
          1,
          1,
          256,
          0};
}

// x (rows, n) f32 += vector, to every row.
struct SteerArgs {
  float* x;
  const float* vector;  // (n)
  int32_t rows, n;
};
inline Launch launch_of(const SteerArgs& a) {
  return {"gptoss_steer", a.rows, static_cast<int>(ceil_div(a.n, 256)), 1, 256, 0};
}

// ---- Results -----------------------------------------------------------------------------------

// finite (S): of each sequence's tokens, those before the first whose row of x is not finite.
struct FiniteArgs {
  Step step;
  const float* x;  // (T, hidden)
  int32_t* finite;
  int32_t hidden;
};
inline Launch launch_of(const FiniteArgs& a) {
  return {"gptoss_finite", a.step.n_sequences, 1, 1, 1024, 0};
}

// Tokens of a slot's prompt, or of its output, join its counts: counts[t] |= kSeen, and + 1 for
// those of the output, with integer atomics. Those of the output are the slot's latest: last_token
// becomes the last of them, index grows by n.
struct CountTokensArgs {
  const int32_t* tokens;  // (n)
  uint32_t* counts;       // (V), of the slot
  SlotState* slot;
  int32_t n;
  int32_t is_output;
};
inline Launch launch_of(const CountTokensArgs& a) {
  return {"gptoss_count_tokens", static_cast<int>(ceil_div(a.n, 256)), 1, 1, 256, 0};
}

// A row of logits and how it is used: RowSampling of backend/step.h, with what the host can
// prepare.
struct SampleRow {
  int32_t row;  // of the step's logit rows
  int32_t slot;
  int32_t guess;  // -1: none
  int32_t mask;   // -1: none
  int32_t bias_begin, bias_end;
  int32_t target;        // -1: sampled
  int32_t top_k;         // 0: all
  int32_t n_logprobs;    // -1: none
  int32_t greedy;        // temperature 0
  float exponent_scale;  // of the temperature; unused if greedy
  float min_p;
  float repetition_penalty, presence_penalty, frequency_penalty;
  int32_t has_penalties;
  uint64_t top_p_fraction;  // ops::top_p_fraction; unused if all_top_p
  uint64_t seed;
  int32_t all_top_p;  // top_p is 1
  int32_t unused;
};

struct BiasEntry {
  int32_t token;
  float bias;
};

// What the host makes a log-probability of: x - x_max - log(mass / 2^40), in f64.
struct TopEntry {
  int32_t token;
  float logit;  // unchanged
};
struct SampleOut {
  int32_t sampled;  // 1 if the row was reached
  int32_t status;   // ops::SampleStatus: 0 ok, 1 non_finite, 2 empty_mask
  int32_t token;    // -1 unless ok
  int32_t n_top;
  float logit;            // of the token, unchanged
  float largest_logit;    // x_max
  uint64_t mass;          // sum of the masses of x at temperature 1, if n_logprobs >= 0 or target
  TopEntry top[kMaxTop];  // in the order of x, -inf left out
};

// ops/sample.h, row by row: a unit is the rows [units[u], units[u + 1]) of one sequence, of which
// each is sampled only if the one before chose its guess; a scored row (target >= 0) is a unit of
// its own and leaves the slot alone. An accepted token joins the slot: last_token, index + 1, and
// counts |= kSeen and + 1. `out` of every row of the unit is written, `sampled` 0 where it was not
// reached.
struct SampleArgs {
  const float* logits;       // (R, V)
  const LogitRange* ranges;  // (R, ceil(V / 16)) of them, nullable
  const SampleRow* rows;     // (M)
  const int32_t* units;      // (U + 1)
  const uint32_t* masks;     // (masks, ceil(V / 32))
  const BiasEntry* biases;
  uint32_t* counts;  // (slots, V): kSeen if in prompt or output, and the occurrences in the output
  SlotState* slots;
  float* changed;       // (U, V): scratch
  int32_t* candidates;  // (U, V): scratch
  SampleOut* out;       // (M)
  int32_t n_units, vocab_size;
};
inline Launch launch_of(const SampleArgs& a) { return {"gptoss_sample", a.n_units, 1, 1, 256, 0}; }

}  // namespace gptoss::cuda
