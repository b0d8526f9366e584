// The CPU kernels: one table per instruction set, one source (kernels.inl.h) behind all of them;
// those that add to a smaller one name what they add (Extension).
//
// Activations reach a matmul in the form that it needs (Matmul below): as packed f32 rows, padded
// with zeros to a multiple of 32, each block of 32 as its 16 even elements followed by its
// 16 odd ones, the order in which 32-bit lanes give up bf16 pairs and MXFP4 nibbles; or quantised
// to int8 (Q8 rows below), so that products are exact integers within a block of 32, and only the
// sum over blocks is f32; or as bf16, in rows or in tiles.
//
// Every sum has one fixed order per output element, whatever the tile: a row's result does not
// depend on how many rows or tokens are computed with it.
#pragma once

#include <cstdint>

#include "core/bf12.h"
#include "core/kv_page.h"
#include "core/q8.h"
#include "cpu/kernels/sample.h"
#include "model/matrix.h"

namespace gptoss::cpu {

inline constexpr int64_t packed_size(int64_t k) { return (k + 31) / 32 * 32; }

// Bytes from one row of activations to the next. A tile reads the same columns of many rows: if
// rows were a power of two apart, those would share a few sets of the first-level cache and evict
// one another.
inline constexpr int64_t row_stride(int64_t bytes) {
  return bytes % 1024 == 0 ? bytes + 64 : bytes;
}

// A row of K activations in int8, 32 with a scale: x = code * 2 * scale, codes in [-127, 127]. K is
// padded with zeros to whole groups of 4 blocks. In bytes, from the row's start:
//   codes       (blocks, 2, 16) i8   a block's 16 even elements, then its 16 odd ones
//   scales      (blocks)        f32  largest magnitude / 254: MXFP4 values are doubled in integers
//   corrections (blocks)        i32  undoes an offset that makes weights unsigned, as the
//   instruction
//                                    set adds it: -16 * sum of the block's codes, or on AVX2 two
//                                    words (q8_panels_avx2.inl.h)
// AMX holds the same numbers of a group in another order (q8_panels_amx.inl.h).
inline constexpr int64_t q8_padded(int64_t k) { return (k + 127) / 128 * 128; }
inline constexpr int64_t q8_scales_offset(int64_t k) { return q8_padded(k); }
inline constexpr int64_t q8_corrections_offset(int64_t k) { return q8_padded(k) / 8 * 9; }
inline constexpr int64_t q8_row_bytes(int64_t k) { return q8_padded(k) / 8 * 10; }

// Bytes from the start of a group to what it has of one block of a token.
struct Q8BlockPlace {
  int64_t codes, scale, correction;
};

// Rows [row_begin, row_end) of y = x @ w^T (+ bias) (+ y).
struct MatmulTask {
  const void* x;  // activations in the matmul's form
  int tokens;
  Matrix w;           // (N, K)
  const float* bias;  // (N), nullable
  float* y;           // (tokens, row_end - row_begin), rows y_stride apart
  int64_t y_stride;
  bool accumulate;  // add to y instead of overwriting it
  int row_begin, row_end;
  // Where weights are a copy: what the next ones will be made of, to prefetch. Row row_begin + r
  // stands for prefetch + r * prefetch_stride bytes.
  const uint8_t* prefetch = nullptr;
  int64_t prefetch_stride = 0;
};

// Writes the sum of one row and token.
[[gnu::always_inline]] inline void store_output(const MatmulTask& task, int row, int token,
                                                float sum) {
  float& y = task.y[token * task.y_stride + (row - task.row_begin)];
  if (task.bias != nullptr) sum += task.bias[row];
  y = task.accumulate ? y + sum : sum;
}

// Most tokens that pack() takes: a group, which is contiguous.
inline constexpr int kGroupTokens = 16;

// A matmul and the form in which it takes activations.
struct Matmul {
  const char* inputs;  // how activations are rounded: text for Backend::description()
  // Bytes of activations per token; token t's group begins at t / 16 * 16 rows.
  int64_t (*row_bytes)(int64_t k);
  // Writes a block of 32 of K of a group: x (tokens <= 16, 32) f32, rows x_stride apart, zero
  // beyond k.
  void (*pack_block)(const float* x, int64_t x_stride, int tokens, int k, int block,
                     uint8_t* group);
  void (*run)(const MatmulTask&);

  // Writes a group: tokens <= 16 rows of k f32.
  void pack(const float* const* rows, int tokens, int k, uint8_t* group) const;
};

// How activations reach a matmul: as f32, or in whatever form is fastest for the weights' format
// and errs no more than bf16 does.
enum class Inputs : uint8_t { exact, fast };

// The elements of the KV cache. int8 has an f32 scale for each token's key and each token's value
// of each head: x = code * scale, codes in [-127, 127].
enum class KvType : uint8_t { f32, f16, int8 };

// Bytes of one layer's keys and values in a page.
inline constexpr int64_t kv_layer_bytes(KvType type, int kv_heads, int head_dim) {
  const int64_t rows = int64_t{2} * kv_heads * kPageTokens;
  switch (type) {
    case KvType::f32:
      return rows * head_dim * 4;
    case KvType::f16:
      return rows * head_dim * 2;
    case KvType::int8:
      return rows * (head_dim + int64_t{sizeof(float)});
  }
  return 0;
}

// Where one layer's keys and values of one sequence lie. The K of a page is (kv_heads, head_dim,
// 64): transposed, so that a vector holds 16 keys; its V is (kv_heads, 64, head_dim). Scales, where
// there are any, come after both: (kv_heads, 64) of K, then of V. Position p is in page
// table[(p / 64) % table_size]: a ring is a table shorter than the sequence.
struct KvPages {
  uint8_t* base;       // of this layer in page 0
  int64_t page_bytes;  // from one page to the next
  const int32_t* table;
  int table_size;
  KvType type;
  int kv_heads, head_dim;
};

// Consecutive query tokens of one sequence against one key/value head.
struct AttentionTask {
  const float* q;    // (tokens, heads, head_dim): the heads that share the kv head
  int64_t q_stride;  // floats from token to token
  int tokens, heads;
  int first_position;  // of the first query token
  int kv_head;
  int window;  // keys seen, itself included; 0: all
  float scale;
  KvPages kv;
};

// Softmax state of a query row: m (running maximum), l (sum), then o (head_dim) unnormalised,
// rows of `state_stride(head_dim)` floats.
inline constexpr int64_t state_stride(int head_dim) { return head_dim + 16; }

struct Kernels {
  const char* name;

  // y (n) = x / sqrt(mean(x^2) + eps) * weight; y may be x.
  void (*rms_norm)(const float* x, const float* weight, float eps, int n, float* y);
  // The matmuls by the format of their weights.
  //   exact      from packed f32 rows: 16 lanes over K, then a tree
  //   bf16.fast  the same, or what the instruction set has that is better, with activations of no
  //              fewer bits than bf16
  //   bf12.fast  the bits of bf16.fast
  //   q8.fast    from Q8 rows. Four f32 chains per output, block b in chain b % 4, blocks in
  //              order; then (chain 0 + chain 2) + (chain 1 + chain 3)
  //   q8_0.fast  likewise
  //   mxfp4.fast likewise; a scale byte of 0 (2^-127) counts as zero
  struct Variants {
    Matmul exact, fast;
  };
  Variants bf16, bf12, q8, q8_0, mxfp4;
  // Throws std::invalid_argument where there is none: bf12 and q8 take fast inputs only.
  const Matmul& matmul(Format format, Inputs inputs) const;

  // codes (k) and scales (k/32) of a row of int8 weights from bf16 w (k).
  void (*encode_q8_weights)(const uint16_t* w, int k, int8_t* codes, uint16_t* scales);
  // x (n) f32 from bf16 bits.
  void (*from_bf16)(const uint16_t* x, int64_t n, float* y);
  // Rotates pairs (i, i + D/2) of x (heads, D) by cos, sin (D/2).
  void (*rope)(float* x, int heads, int head_dim, const float* cos, const float* sin);
  // Writes one token's k and v (kv_heads, head_dim) at `position`.
  void (*store_kv)(const KvPages&, int position, const float* k, const float* v);
  // h (n) from interleaved gate and up (2n): g * sigmoid(1.702 g) * (u + 1), clamped.
  void (*swiglu)(const float* gate_up, int n, float limit, float* h);
  // State of every (token, head) row over the keys of pages [page_begin, page_end) alone.
  void (*attention_partial)(const AttentionTask&, int page_begin, int page_end, float* state);
  // state += partial, row by row.
  void (*attention_merge)(int rows, int head_dim, const float* partial, float* state);
  // out (rows, head_dim) = o / l.
  void (*attention_finish)(int rows, int head_dim, const float* state, float* out,
                           int64_t out_stride);
  // y (n) += weight * x (n)
  void (*add_scaled)(const float* x, float weight, int n, float* y);
  // The two halves of a change of low rank. y (rows) = w (rows, k) x (k): 16 lanes over K, then a
  // tree.
  void (*low_rank_in)(const float* x, const float* w, int k, int rows, float* y);
  // y (n) += h (rank) w (rank, n), rows of w `stride` apart: summed rank by rank, then added.
  void (*low_rank_out)(const float* h, const float* w, int64_t stride, int rank, int n, float* y);
  SampleKernels sample;
};

// What an instruction set does otherwise than a smaller one: its other kernels are that one's,
// which need not be compiled again. An empty matmul is the smaller one's as well.
struct Extension {
  const char* name;
  Matmul bf16_exact = {}, bf16_fast = {}, bf12_fast = {}, q8_fast = {}, q8_0_fast = {},
         mxfp4_fast = {};

  Kernels of(const Kernels& smaller) const;
};

// This thread's room for so many bytes, from a cache line on, overwritten by the next call with the
// same purpose: what weights or activations become for a whole task, or what a kernel works on
// meanwhile, a panel of rows or a page of keys and values.
enum class Scratch : uint8_t { task, panel };
uint8_t* thread_scratch(int64_t bytes, Scratch purpose = Scratch::task);

extern const Kernels kScalarKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Extension kAvxVnniExtension;  // of AVX2
extern const Kernels kAvx512Kernels;
extern const Extension kAvx512Bf16Extension;  // of AVX-512
extern const Extension kAmxExtension;         // of AVX-512
#elif defined(__aarch64__)
extern const Kernels kNeonKernels;
extern const Kernels kNeonDotprodKernels;
extern const Kernels kNeonI8mmKernels;
#endif

}  // namespace gptoss::cpu
