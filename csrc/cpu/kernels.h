// The CPU kernels: one table per instruction set, one source (kernels.inl.h) behind all of them.
//
// Activations reach the matmuls "packed": rows padded with zeros to a multiple of 32, each block
// of 32 as its 16 even elements followed by its 16 odd ones, the order in which 32-bit lanes give
// up bf16 pairs and MXFP4 nibbles.
//
// The MXFP4 matmul also takes activations quantised to int8 (Q8 rows below): products are then
// exact integers within a block of 32, and only the sum over blocks is f32.
//
// Every sum has one fixed order per output element (16 lanes over K, then a tree), whatever the
// tile: a row's result does not depend on how many rows or tokens are computed with it.
#pragma once

#include <cstdint>

#include "core/kv_page.h"

namespace gptoss::cpu {

inline constexpr int64_t packed_size(int64_t k) { return (k + 31) / 32 * 32; }

// A row of K activations in int8, 32 with a scale: x = code * 2 * scale, codes in [-127, 127]. K is
// padded with zeros to whole groups of 128. In bytes, from the row's start:
//   codes       (groups, 2, 64) i8   a group's 64 even elements, then its 64 odd ones
//   scales      (groups * 4)    f32  largest magnitude / 254: MXFP4 values are doubled in integers
//   corrections (groups * 4)    i32  -12 * sum of the block's codes, for kernels with weights + 12
inline constexpr int64_t q8_padded(int64_t k) { return (k + 127) / 128 * 128; }
inline constexpr int64_t q8_scales_offset(int64_t k) { return q8_padded(k); }
inline constexpr int64_t q8_corrections_offset(int64_t k) { return q8_padded(k) / 8 * 9; }
inline constexpr int64_t q8_row_bytes(int64_t k) { return q8_padded(k) / 8 * 10; }

enum class KvType : uint8_t { f32, f16 };
inline constexpr int64_t size_of(KvType type) { return type == KvType::f32 ? 4 : 2; }

// Rows [row_begin, row_end) of y = x @ w^T (+ bias) (+ y).
struct MatmulTask {
  const void* x;           // (tokens) packed f32 or Q8 rows of K activations
  int64_t x_stride_bytes;  // from row to row
  int tokens;
  int k;
  const void* weights;    // bf16 (N, K), or MXFP4 blocks (N, K/32, 16)
  const uint8_t* scales;  // MXFP4 only: (N, K/32)
  const float* bias;      // (N), nullable
  float* y;               // (tokens, row_end - row_begin), rows y_stride apart
  int64_t y_stride;
  bool accumulate;  // add to y instead of overwriting it
  int row_begin, row_end;
};

// Where one layer's keys and values of one sequence lie. The K of a page is (kv_heads, head_dim,
// 64): transposed, so that a vector holds 16 keys; its V is (kv_heads, 64, head_dim). Position p is
// in page table[(p / 64) % table_size]: a ring is a table shorter than the sequence.
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
  // packed (packed_size(n)) from x (n); must not alias.
  void (*pack)(const float* x, int n, float* packed);
  void (*matmul_bf16)(const MatmulTask&);
  void (*matmul_mxfp4)(const MatmulTask&);
  // The same from Q8 rows. Four f32 chains per output, block b in chain b % 4, blocks in order;
  // then (chain 0 + chain 2) + (chain 1 + chain 3). A scale byte of 0 (2^-127) counts as zero.
  void (*matmul_mxfp4_q8)(const MatmulTask&);
  // Q8 row (q8_row_bytes(n)) from x (n).
  void (*quantize_q8)(const float* x, int n, uint8_t* row);
  // One block of 32 of a Q8 row of k activations; blocks beyond k must have been zeroed.
  void (*quantize_q8_block)(const float* x, int k, int block, uint8_t* row);
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
};

extern const Kernels kScalarKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#elif defined(__aarch64__)
extern const Kernels kNeonKernels;
extern const Kernels kNeonDotprodKernels;
#endif

}  // namespace gptoss::cpu
