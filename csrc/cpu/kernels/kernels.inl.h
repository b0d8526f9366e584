// The CPU kernels, written once over F32x16. Included by kernels_<isa>.cpp after its simd header;
// contracts in kernels.h.
//
// Nothing here may call a function from a header that other instruction sets share, unless it is
// always inlined: the linker keeps one copy, and it could be the wrong one.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/float16.h"
#include "core/mxfp4.h"
#include "cpu/kernels/bf12.inl.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/q8_row.inl.h"
#include "cpu/kernels/sample.inl.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

// ---- Elementwise ------------------------------------------------------------------------------

// e^x to 2 ulp for x in [-87.3, 88.3]; 0 below, e^88.3 above. exp(0) is exactly 1.
F32x16 exp(F32x16 x) {
  const F32x16 low = set1(-87.3f);
  const F32x16 clamped = min(set1(88.3f), max(low, x));  // in this order NaN stays NaN
  // x = n ln 2 + r with |r| <= ln(2)/2; ln 2 in two parts so that r keeps its digits.
  const F32x16 n = round(mul(clamped, set1(1.44269504f)));
  F32x16 r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  // Taylor terms to r^7: the remainder is below 2^-25 relative.
  F32x16 p = set1(1.0f / 5040);
  p = fma(p, r, set1(1.0f / 720));
  p = fma(p, r, set1(1.0f / 120));
  p = fma(p, r, set1(1.0f / 24));
  p = fma(p, r, set1(1.0f / 6));
  p = fma(p, r, set1(0.5f));
  p = fma(p, r, set1(1.0f));
  p = fma(p, r, set1(1.0f));
  // 2^n in two steps: 2^127 * 2 is not a float.
  const F32x16 half_n = round(mul(n, set1(0.5f)));
  p = mul(mul(p, pow2(half_n)), pow2(sub(n, half_n)));
  return select_less(x, low, set1(0.0f), p);
}

float exp_one(float x) {
  float lanes[16];
  store(lanes, exp(set1(x)));
  return lanes[0];
}

float square_root(float x) { return __builtin_sqrtf(x); }

// Sum of f over n elements in 16 lanes; the tail is padded with zeros.
template <class F>
float sum_lanes(const float* x, int n, F f) {
  F32x16 sum = set1(0.0f);
  int i = 0;
  for (; i + 16 <= n; i += 16) sum = f(load(x + i), sum);
  if (i < n) {
    float tail[16] = {};
    std::memcpy(tail, x + i, static_cast<size_t>(n - i) * sizeof(float));
    sum = f(load(tail), sum);
  }
  return reduce_add(sum);
}

void rms_norm(const float* x, const float* weight, float eps, int n, float* y) {
  const float squares = sum_lanes(x, n, [](F32x16 a, F32x16 sum) { return fma(a, a, sum); });
  const float factor = 1.0f / square_root(squares / static_cast<float>(n) + eps);
  const F32x16 factors = set1(factor);
  int i = 0;
  for (; i + 16 <= n; i += 16) store(y + i, mul(mul(load(x + i), factors), load(weight + i)));
  for (; i < n; ++i) y[i] = (x[i] * factor) * weight[i];
}

int64_t f32_row_bytes(int64_t k) { return row_stride(packed_size(k) * int64_t{sizeof(float)}); }

void pack_block_f32(const float* x, int64_t x_stride, int tokens, int k, int block,
                    uint8_t* group) {
  for (int t = 0; t < tokens; ++t, x += x_stride) {
    auto* const packed = reinterpret_cast<float*>(group + t * f32_row_bytes(k)) + 32 * block;
    F32x16 even;
    F32x16 odd;
    load_pairs(x, even, odd);
    store(packed, even);
    store(packed + 16, odd);
  }
}

void from_bf16(const uint16_t* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = bf16_to_float(load_u16(x + i));
}

void rope(float* x, int heads, int head_dim, const float* cos, const float* sin) {
  const int half = head_dim / 2;
  for (int h = 0; h < heads; ++h, x += head_dim) {
    for (int i = 0; i < half; ++i) {
      const float a = x[i];
      const float b = x[half + i];
      x[i] = a * cos[i] - b * sin[i];
      x[half + i] = b * cos[i] + a * sin[i];
    }
  }
}

F32x16 swiglu_of(F32x16 gate, F32x16 up, float limit) {
  const F32x16 limits = set1(limit);
  const F32x16 one = set1(1.0f);
  gate = min(limits, gate);  // in this order NaN stays NaN
  up = min(limits, max(set1(-limit), up));
  const F32x16 sigmoid = div(one, add(one, exp(mul(gate, set1(-1.702f)))));
  return mul(mul(gate, sigmoid), add(up, one));
}

void swiglu(const float* gate_up, int n, float limit, float* h) {
  F32x16 gate;
  F32x16 up;
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    load_pairs(gate_up + 2 * i, gate, up);
    store(h + i, swiglu_of(gate, up, limit));
  }
  if (i < n) {
    const auto left = static_cast<size_t>(n - i);
    float padded[32] = {};
    std::memcpy(padded, gate_up + 2 * i, 2 * left * sizeof(float));
    load_pairs(padded, gate, up);
    store(padded, swiglu_of(gate, up, limit));
    std::memcpy(h + i, padded, left * sizeof(float));
  }
}

void add_scaled(const float* x, float weight, int n, float* y) {
  const F32x16 weights = set1(weight);
  int i = 0;
  for (; i + 16 <= n; i += 16) store(y + i, fma(weights, load(x + i), load(y + i)));
  for (; i < n; ++i) y[i] = y[i] + weight * x[i];
}

// ---- Matmul -----------------------------------------------------------------------------------

// How a row of weights is read, 32 elements at a time.
struct Bf16Rows {
  static constexpr bool kAnyK = true;
  const uint16_t* weights;
  int k;

  explicit Bf16Rows(const MatmulTask& task)
      : weights(static_cast<const uint16_t*>(task.w.data)), k(task.w.k) {}
  void load(int64_t row, int block, F32x16& even, F32x16& odd) const {
    load_bf16_pairs(weights + row * k + 32 * block, even, odd);
  }
  // Asks for a row that comes next. From memory, two threads of Zen 4 read 31 GB/s with it, 24
  // without (AVX2, one token).
  void prefetch(int64_t row, int block) const {
    __builtin_prefetch(weights + row * k + 32 * block, 0, 2);
  }
  void load_tail(int64_t row, int block, F32x16& even, F32x16& odd) const {
    uint16_t padded[32] = {};
    std::memcpy(padded, weights + row * k + 32 * block, static_cast<size_t>(k - 32 * block) * 2);
    load_bf16_pairs(padded, even, odd);
  }
};

struct Mxfp4Rows {
  static constexpr bool kAnyK = false;  // K is a multiple of 32: there is no tail
  const uint8_t* blocks;
  const uint8_t* scales;
  int64_t blocks_per_row;

  explicit Mxfp4Rows(const MatmulTask& task)
      : blocks(static_cast<const uint8_t*>(task.w.data)),
        scales(static_cast<const uint8_t*>(task.w.scales)),
        blocks_per_row(task.w.k / kMxfp4BlockSize) {}
  void load(int64_t row, int block, F32x16& even, F32x16& odd) const {
    const int64_t index = row * blocks_per_row + block;
    load_mxfp4_pairs(blocks + index * kMxfp4BlockBytes, scales[index], even, odd);
  }
  void prefetch(int64_t row, int block) const {
    if (block % 4 != 0) return;  // four to a cache line
    __builtin_prefetch(blocks + (row * blocks_per_row + block) * kMxfp4BlockBytes, 0, 2);
  }
};

// kRows x kTokens sums, each in 16 lanes: even elements of a block, then odd ones, block by block.
template <int kRows, int kTokens, class Rows>
void matmul_tile(const MatmulTask& task, const Rows& rows, int row, int token) {
  const int64_t x_stride = f32_row_bytes(task.w.k) / int64_t{sizeof(float)};
  const float* const x = static_cast<const float*>(task.x) + token * x_stride;
  F32x16 sums[kRows][kTokens];
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kTokens; ++t) sums[r][t] = set1(0.0f);
  }
  const auto add_block = [&](int block, const F32x16* even, const F32x16* odd) {
    for (int t = 0; t < kTokens; ++t) {
      const float* const packed = x + t * x_stride + 32 * static_cast<int64_t>(block);
      const F32x16 x_even = cpu::GPTOSS_ISA_NAMESPACE::load(packed);
      const F32x16 x_odd = cpu::GPTOSS_ISA_NAMESPACE::load(packed + 16);
      for (int r = 0; r < kRows; ++r) {
        sums[r][t] = fma(even[r], x_even, sums[r][t]);
        sums[r][t] = fma(odd[r], x_odd, sums[r][t]);
      }
    }
  };
  const int full_blocks = task.w.k / 32;
  F32x16 even[kRows];
  F32x16 odd[kRows];
  for (int block = 0; block < full_blocks; ++block) {
    for (int r = 0; r < kRows; ++r) {
      rows.prefetch(row + kRows + r, block);
      rows.load(row + r, block, even[r], odd[r]);
    }
    add_block(block, even, odd);
  }
  if constexpr (Rows::kAnyK) {
    if (task.w.k % 32 != 0) {
      for (int r = 0; r < kRows; ++r) rows.load_tail(row + r, full_blocks, even[r], odd[r]);
      add_block(full_blocks, even, odd);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRows; ++r) store_output(task, row + r, token + t, reduce_add(sums[r][t]));
  }
}

// Tokens [token, token + n) of kRows rows: full tiles, then single tokens.
template <int kRows, class Rows>
void matmul_rows(const MatmulTask& task, const Rows& rows, int row, int token, int token_end) {
  for (; token + kTileTokens <= token_end; token += kTileTokens) {
    matmul_tile<kRows, kTileTokens>(task, rows, row, token);
  }
  for (; token < token_end; ++token) matmul_tile<kRows, 1>(task, rows, row, token);
}

// Tokens whose packed activations stay in the second-level cache beside the rows of a task.
// Bounded by 1 MB: 32 tokens * 2880 * 4 bytes = 369 kB.
inline constexpr int kCachedTokens = 32;

template <class Rows>
void matmul(const MatmulTask& task) {
  const Rows rows(task);
  if (task.tokens == 1) {
    int row = task.row_begin;
    for (; row + kTileRowsOneToken <= task.row_end; row += kTileRowsOneToken) {
      matmul_tile<kTileRowsOneToken, 1>(task, rows, row, 0);
    }
    for (; row < task.row_end; ++row) matmul_tile<1, 1>(task, rows, row, 0);
    return;
  }
  for (int token = 0; token < task.tokens; token += kCachedTokens) {
    const int token_end = token + kCachedTokens < task.tokens ? token + kCachedTokens : task.tokens;
    int row = task.row_begin;
    for (; row + kTileRows <= task.row_end; row += kTileRows) {
      matmul_rows<kTileRows>(task, rows, row, token, token_end);
    }
    for (; row < task.row_end; ++row) matmul_rows<1>(task, rows, row, token, token_end);
  }
}

// ---- Matmul of int8 activations ----------------------------------------------------------------

// What turns numbers of this largest magnitude into codes in [-127, 127]; 0 for what is so small
// that the factor could be infinite.
float int8_factor(float largest) { return largest > 1e-30f ? 127.0f / largest : 0.0f; }

void quantize_q8_block(const float* x, int k, int block, uint8_t* row) {
  F32x16 even;
  F32x16 odd;
  load_pairs(x, even, odd);
  const F32x16 zero = set1(0.0f);
  const float largest = reduce_max(max(max(even, sub(zero, even)), max(odd, sub(zero, odd))));
  // NaN and infinity in the block make its scale NaN, and so the result.
  const float poison = reduce_add(fma(even, zero, mul(odd, zero)));
  const F32x16 inverse = set1(int8_factor(largest));
  even = round(mul(even, inverse));
  odd = round(mul(odd, inverse));
  if (poison != 0.0f) even = odd = zero;  // they are out of range
  auto* const out = reinterpret_cast<int8_t*>(row) + 32 * block;
  store_int8(out, even);
  store_int8(out + 16, odd);
  const float scale = largest * (1.0f / 254.0f) + poison;
  const auto correction = -16 * static_cast<int32_t>(reduce_add(add(even, odd)));  // exact
  std::memcpy(row + q8_scales_offset(k) + 4 * block, &scale, sizeof scale);
  std::memcpy(row + q8_corrections_offset(k) + 4 * block, &correction, sizeof correction);
}

void pack_block_q8(const float* x, int64_t x_stride, int tokens, int k, int block, uint8_t* group) {
  for (int t = 0; t < tokens; ++t) {
    uint8_t* const row = group + t * q8_row_bytes(k);
    quantize_q8_block(x + t * x_stride, k, block, row);
    if (block + 1 < k / kQ8Block) continue;
    const float zeros[kQ8Block] = {};
    for (int b = block + 1; b < q8_padded(k) / kQ8Block; ++b) quantize_q8_block(zeros, k, b, row);
  }
}

inline constexpr float kSmallestNormal = 1.17549435e-38f;

void encode_q8_weights(const uint16_t* w, int k, int8_t* codes, uint16_t* scales) {
  const int blocks = k / kQ8Block;
  const F32x16 zero = set1(0.0f);
  for (int b = 0; b < blocks; ++b) {
    F32x16 even;
    F32x16 odd;
    load_bf16_pairs(w + kQ8Block * b, even, odd);
    const float largest = reduce_max(max(max(even, sub(zero, even)), max(odd, sub(zero, odd))));
    // Rounded up, so that no code is beyond 127.
    uint32_t bits;
    const float exact = largest * (2.0f / 127.0f);
    std::memcpy(&bits, &exact, sizeof bits);
    scales[b] = static_cast<uint16_t>((bits + 0xffff) >> 16);
    const float scale = bf16_to_float(scales[b]);
    const F32x16 inverse = set1(scale >= kSmallestNormal ? 2.0f / scale : 0.0f);
    const int in_group = blocks - b / 4 * 4 < 4 ? blocks - b / 4 * 4 : 4;
    int8_t* const out = codes + b / 4 * 128 + b % 4 * 16;
    store_int8(out, round(mul(even, inverse)));
    store_int8(out + 16 * in_group, round(mul(odd, inverse)));
  }
}

// Rows are too short for the hardware to follow four of them at a time, so each load asks for what
// comes later: into the first-level cache a little before it is used, into the second earlier, and
// there more than once: when there are many, the hardware seems to drop some. From memory, two
// threads of Zen 4 read int8 weights at 15 GB/s without, 30 if they ask once, 33 so (36 and 45
// where memory was faster).
inline constexpr int64_t kNearBytes = 2048;
inline constexpr int64_t kFarBytes = 16384;
template <class Group>
inline constexpr int64_t kAskEveryBytes = 4096;
// The same bytes hold twice the numbers, and take twice as long.
template <>
inline constexpr int64_t kAskEveryBytes<Mxfp4Group> = 8192;
// Scales lie apart: those of two tiles ahead where K is 2880.
inline constexpr int64_t kScalesAhead = 768;

// A group of a Q8 row as tiles read it. Spreading a row's numbers over the lanes once for all rows
// of a task, instead of in every tile, makes tiles of 3 and more tokens 20 % faster on Zen 4.
struct alignas(64) Q8Inputs {
  int8_t even[64], odd[64];  // of all four blocks
  float scales[16];          // lane 4b + r: block b's
  int32_t corrections[16];   // as Group::sum_rows takes them
};

constexpr int64_t q8_groups(int64_t k) { return q8_padded(k) / (4 * kQ8Block); }

// (tokens, groups), from `token` on; valid until the thread's next matmul.
template <class Group>
const Q8Inputs* spread_inputs(const MatmulTask& task, int token, int tokens) {
  const int64_t groups = q8_groups(task.w.k);
  const int64_t bytes = tokens * groups * int64_t{sizeof(Q8Inputs)};
  auto* const inputs = reinterpret_cast<Q8Inputs*>(thread_scratch(bytes));
  for (int t = 0; t < tokens; ++t) {
    const Q8Row x(task, token + t);
    for (int64_t group = 0; group < groups; ++group) {
      Q8Inputs& spread = inputs[t * groups + group];
      for (int b = 0; b < 4; ++b) {
        const int8_t* const block = x.codes + kQ8Block * (4 * group + b);
        std::memcpy(spread.even + 16 * b, block, 16);
        std::memcpy(spread.odd + 16 * b, block + 16, 16);
      }
      store(spread.scales, spread4(x.scales + 4 * group));
      Group::spread_corrections(x.corrections + 4 * group, spread.corrections);
    }
  }
  return inputs;
}

// 4 rows x kTokens outputs, a group of 4 blocks at a time, from the inputs of those tokens. Lane
// 4c + r holds chain c of row r.
template <class Group, int kTokens>
void q8_tile(const MatmulTask& task, int row, int n_rows, int token, const Q8Inputs* inputs) {
  constexpr int64_t kGroupBytes = 4 * Group::kBlockBytes;
  const int64_t blocks_per_row = task.w.k / kQ8Block;
  const int64_t groups_per_row = q8_groups(task.w.k);
  const uint8_t* blocks[4];
  const typename Group::Scale* scales[4];
  for (int r = 0; r < 4; ++r) {
    // Missing rows repeat the last one; their sums are not stored.
    const int64_t index = (row + (r < n_rows ? r : n_rows - 1)) * blocks_per_row;
    blocks[r] = static_cast<const uint8_t*>(task.w.data) + index * Group::kBlockBytes;
    scales[r] = static_cast<const typename Group::Scale*>(task.w.scales) + index;
  }
  F32x16 sums[kTokens];
  for (int t = 0; t < kTokens; ++t) sums[t] = set1(0.0f);
  const auto add_group = [&](int64_t group, int n_blocks) {
    Group codes[4];
    for (int r = 0; r < 4; ++r) {
      const uint8_t* const at = blocks[r] + group * kGroupBytes;
      for (int line = 0; line < kGroupBytes; line += 64) {
        const uint8_t* const in_order = blocks[0] + (4 * group + r) * kGroupBytes + line;
        __builtin_prefetch(in_order + kNearBytes);
        for (int64_t ahead = kFarBytes; ahead > 0; ahead -= kAskEveryBytes<Group>) {
          __builtin_prefetch(in_order + ahead, 0, 2);
        }
      }
      codes[r] = Group::load(at, n_blocks);
    }
    __builtin_prefetch(scales[0] + 16 * group + kScalesAhead);
    const F32x16 row_scales =
        load_scales4x4(scales[0] + 4 * group, scales[1] + 4 * group, scales[2] + 4 * group,
                       scales[3] + 4 * group, n_blocks);
    for (int t = 0; t < kTokens; ++t) {
      const Q8Inputs& x = inputs[t * groups_per_row + group];
      I32x16 dots[4];
      for (int r = 0; r < 4; ++r) dots[r] = dot(codes[r], x.even, x.odd);
      const F32x16 exact = to_float(Group::sum_rows(dots, x.corrections));
      sums[t] = fma(mul(exact, row_scales), cpu::GPTOSS_ISA_NAMESPACE::load(x.scales), sums[t]);
    }
  };
  const int64_t full_groups = blocks_per_row / 4;
  for (int64_t group = 0; group < full_groups; ++group) add_group(group, 4);
  if (blocks_per_row % 4 != 0) add_group(full_groups, static_cast<int>(blocks_per_row % 4));

  for (int t = 0; t < kTokens; ++t) {
    float lanes[16];
    store(lanes, sums[t]);
    for (int r = 0; r < n_rows; ++r) {
      store_output(task, row + r, token + t,
                   (lanes[r] + lanes[8 + r]) + (lanes[4 + r] + lanes[12 + r]));
    }
  }
}

// Tokens whose spread inputs stay in the second-level cache: 190 kB where K is 2880.
inline constexpr int kSpreadTokens = 32;

template <class Group>
void matmul_q8(const MatmulTask& task) {
  if constexpr (kHasPanels<Group>) {
    if (q8_panels_pay<Group>(task)) return matmul_q8_panels<Group>(task);
  }
  const int64_t groups = q8_groups(task.w.k);
  for (int token = 0; token < task.tokens; token += kSpreadTokens) {
    const int left = task.tokens - token;
    const int token_end = token + (left < kSpreadTokens ? left : kSpreadTokens);
    const Q8Inputs* const inputs = spread_inputs<Group>(task, token, token_end - token);
    for (int row = task.row_begin; row < task.row_end; row += 4) {
      const int n_rows = task.row_end - row < 4 ? task.row_end - row : 4;
      const Q8Inputs* x = inputs;
      int t = token;
      for (; t + kTileTokensQ8 <= token_end; t += kTileTokensQ8, x += kTileTokensQ8 * groups) {
        q8_tile<Group, kTileTokensQ8>(task, row, n_rows, t, x);
      }
      switch (token_end - t) {
        case 3:
          q8_tile<Group, 3>(task, row, n_rows, t, x);
          break;
        case 2:
          q8_tile<Group, 2>(task, row, n_rows, t, x);
          break;
        case 1:
          q8_tile<Group, 1>(task, row, n_rows, t, x);
          break;
        default:
          break;
      }
    }
  }
}

// ---- Attention --------------------------------------------------------------------------------

// The element types of the KV cache. Where kScaled, codes are whole numbers, and every token's key
// and value has a scale.
struct F32Cache {
  using Element = float;
  static constexpr bool kScaled = false;
  static F32x16 load(const float* p) { return cpu::GPTOSS_ISA_NAMESPACE::load(p); }
  static void store(float* p, F32x16 a) { cpu::GPTOSS_ISA_NAMESPACE::store(p, a); }
};
struct F16Cache {
  using Element = uint16_t;
  static constexpr bool kScaled = false;
  static F32x16 load(const uint16_t* p) { return load_half(p); }
  static void store(uint16_t* p, F32x16 a) { store_half(p, a); }
};
struct Int8Cache {
  using Element = int8_t;
  static constexpr bool kScaled = true;
  static F32x16 load(const int8_t* p) { return load_int8(p); }
  static void store(int8_t* p, F32x16 a) { store_int8(p, round(a)); }
};

// One head's keys and values in one page.
template <class Cache>
struct CachedHead {
  typename Cache::Element* keys;    // (head_dim, 64)
  typename Cache::Element* values;  // (64, head_dim)
  float* key_scales;                // (64); null unless kScaled
  float* value_scales;              // (64)

  CachedHead(const KvPages& kv, int page, int kv_head)
      : key_scales(nullptr), value_scales(nullptr) {
    uint8_t* const base = kv.base + kv.table[page % kv.table_size] * kv.page_bytes;
    const int64_t head_size = static_cast<int64_t>(kv.head_dim) * kPageTokens;
    keys = reinterpret_cast<typename Cache::Element*>(base) + kv_head * head_size;
    values = keys + kv.kv_heads * head_size;
    if constexpr (Cache::kScaled) {
      auto* const scales = reinterpret_cast<float*>(base + 2 * kv.kv_heads * head_size);
      key_scales = scales + kv_head * kPageTokens;
      value_scales = key_scales + kv.kv_heads * kPageTokens;
    }
  }
};

// The scale of a token's key or value, and the factor that makes codes of it.
struct RowScale {
  float scale, inverse;

  RowScale(const float* x, int head_dim) {
    const F32x16 zero = set1(0.0f);
    F32x16 top = zero;
    F32x16 poison = zero;
    for (int d = 0; d < head_dim; d += 16) {
      const F32x16 part = load(x + d);
      top = max(top, max(part, sub(zero, part)));
      poison = fma(part, zero, poison);
    }
    // NaN and infinity make the scale NaN, and the codes 0.
    const float not_finite = reduce_add(poison);
    const float largest = reduce_max(top);
    scale = largest / 127.0f + not_finite;
    inverse = not_finite == 0.0f ? int8_factor(largest) : 0.0f;
  }
};

template <class Cache>
void store_kv_as(const KvPages& kv, int position, const float* k, const float* v) {
  const int slot = position % kPageTokens;
  for (int g = 0; g < kv.kv_heads; ++g, k += kv.head_dim, v += kv.head_dim) {
    const CachedHead<Cache> head(kv, position / kPageTokens, g);
    auto* const keys = head.keys + slot;
    auto* const values = head.values + static_cast<int64_t>(slot) * kv.head_dim;
    F32x16 k_factor = set1(1.0f);
    F32x16 v_factor = set1(1.0f);
    if constexpr (Cache::kScaled) {
      const RowScale k_scale(k, kv.head_dim);
      const RowScale v_scale(v, kv.head_dim);
      head.key_scales[slot] = k_scale.scale;
      head.value_scales[slot] = v_scale.scale;
      k_factor = set1(k_scale.inverse);
      v_factor = set1(v_scale.inverse);
    }
    for (int d = 0; d < kv.head_dim; d += 16) {
      typename Cache::Element column[16];
      Cache::store(column, mul(load(k + d), k_factor));
      for (int i = 0; i < 16; ++i) keys[static_cast<int64_t>(d + i) * kPageTokens] = column[i];
      Cache::store(values + d, mul(load(v + d), v_factor));
    }
  }
}

void store_kv(const KvPages& kv, int position, const float* k, const float* v) {
  switch (kv.type) {
    case KvType::f32:
      return store_kv_as<F32Cache>(kv, position, k, v);
    case KvType::f16:
      return store_kv_as<F16Cache>(kv, position, k, v);
    case KvType::int8:
      return store_kv_as<Int8Cache>(kv, position, k, v);
  }
}

// No score is below this, and exp(kNoScore - m) is 0 for every m that a score has set.
inline constexpr float kNoScore = -1e30f;
inline constexpr int kPageVectors = kPageTokens / 16;

struct QueryRow {
  const float* q;
  float* state;
  int key_begin, key_end;  // keys of this page that the row sees
};

template <class T>
void prefetch(const T* row, int n) {
  for (int i = 0; i < n; i += 64 / static_cast<int>(sizeof(T))) __builtin_prefetch(row + i);
}

// kRows query rows that see the same keys, against the 64 keys of one page: online softmax, then
// o += p V. Keys ask for the values, values for `next_keys`, the next page's: the pages of a
// sequence lie anywhere.
template <int kRows, class Cache>
void attend_page(const AttentionTask& task, const CachedHead<Cache>& head,
                 const typename Cache::Element* next_keys, const QueryRow* rows) {
  const int head_dim = task.kv.head_dim;
  F32x16 scores[kRows][kPageVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kPageVectors; ++v) scores[r][v] = set1(0.0f);
  }
  for (int d = 0; d < head_dim; ++d) {
    prefetch(head.values + int64_t{d} * kPageTokens, kPageTokens);
    F32x16 k[kPageVectors];
    for (int v = 0; v < kPageVectors; ++v) {
      k[v] = Cache::load(head.keys + static_cast<int64_t>(d) * kPageTokens + 16 * v);
    }
    for (int r = 0; r < kRows; ++r) {
      const F32x16 q = set1(rows[r].q[d]);
      for (int v = 0; v < kPageVectors; ++v) scores[r][v] = fma(q, k[v], scores[r][v]);
    }
  }

  F32x16 scales[kPageVectors];
  for (int v = 0; v < kPageVectors; ++v) {
    scales[v] = set1(task.scale);
    if constexpr (Cache::kScaled) scales[v] = mul(scales[v], load(head.key_scales + 16 * v));
  }
  float p[kRows][kPageTokens];
  F32x16 decay[kRows];
  for (int r = 0; r < kRows; ++r) {
    const QueryRow& row = rows[r];
    // Slots outside the row's band may hold anything: they are replaced, not multiplied.
    F32x16 top = set1(kNoScore);
    for (int v = 0; v < kPageVectors; ++v) {
      scores[r][v] = keep_lanes(mul(scores[r][v], scales[v]), row.key_begin - 16 * v,
                                row.key_end - 16 * v, -__builtin_inff());
      top = max(top, scores[r][v]);
    }
    const float m_old = row.state[0];
    const float top_score = reduce_max(top);
    const float m = top_score > m_old ? top_score : m_old;
    const F32x16 shift = set1(m);
    F32x16 sum = set1(0.0f);
    for (int v = 0; v < kPageVectors; ++v) {
      F32x16 weights = exp(sub(scores[r][v], shift));
      sum = add(sum, weights);
      if constexpr (Cache::kScaled) weights = mul(weights, load(head.value_scales + 16 * v));
      store(p[r] + 16 * v, weights);
    }
    const float factor = exp_one(m_old - m);
    row.state[0] = m;
    row.state[1] = row.state[1] * factor + reduce_add(sum);
    decay[r] = set1(factor);
  }

  const auto add_values = [&]<int kVectors>(int d) {
    F32x16 sums[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = mul(load(rows[r].state + 16 + d + 16 * v), decay[r]);
      }
    }
    for (int key = rows[0].key_begin; key < rows[0].key_end; ++key) {
      prefetch(next_keys + static_cast<int64_t>(key) * head_dim + d, 16 * kVectors);
      F32x16 value[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        value[v] = Cache::load(head.values + static_cast<int64_t>(key) * head_dim + d + 16 * v);
      }
      for (int r = 0; r < kRows; ++r) {
        const F32x16 weight = set1(p[r][key]);
        for (int v = 0; v < kVectors; ++v) sums[r][v] = fma(weight, value[v], sums[r][v]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) store(rows[r].state + 16 + d + 16 * v, sums[r][v]);
    }
  };
  int d = 0;
  for (; d + 64 <= head_dim; d += 64) add_values.template operator()<4>(d);
  for (; d < head_dim; d += 16) add_values.template operator()<1>(d);
}

template <class Cache>
void attention_partial_as(const AttentionTask& task, int page_begin, int page_end, float* state) {
  const int n_rows = task.tokens * task.heads;
  const int64_t stride = state_stride(task.kv.head_dim);
  for (int r = 0; r < n_rows; ++r) {
    std::memset(state + r * stride, 0, static_cast<size_t>(stride) * sizeof(float));
    state[r * stride] = kNoScore;
  }
  for (int page = page_begin; page < page_end; ++page) {
    const int page_start = page * kPageTokens;
    const CachedHead<Cache> head(task.kv, page, task.kv_head);
    const int next_page = page + 1 < page_end ? page + 1 : page;
    const auto* const next_keys = CachedHead<Cache>(task.kv, next_page, task.kv_head).keys;
    QueryRow tile[kTileQueries];
    int filled = 0;
    const auto attend_singly = [&] {
      for (int i = 0; i < filled; ++i) attend_page<1, Cache>(task, head, next_keys, tile + i);
      filled = 0;
    };
    for (int r = 0; r < n_rows; ++r) {
      const int token = r / task.heads;
      const int position = task.first_position + token;
      int begin = task.window > 0 ? position - task.window + 1 - page_start : 0;
      int end = position + 1 - page_start;
      begin = begin < 0 ? 0 : begin;
      end = end > kPageTokens ? kPageTokens : end;
      if (begin >= end) continue;
      // Values that a row does not see must not reach it, not even as 0 * NaN.
      if (filled > 0 && (begin != tile[0].key_begin || end != tile[0].key_end)) attend_singly();
      tile[filled++] = {
          task.q + token * task.q_stride + static_cast<int64_t>(r % task.heads) * task.kv.head_dim,
          state + r * stride, begin, end};
      if (filled == kTileQueries) {
        attend_page<kTileQueries, Cache>(task, head, next_keys, tile);
        filled = 0;
      }
    }
    attend_singly();
  }
}

void attention_partial(const AttentionTask& task, int page_begin, int page_end, float* state) {
  switch (task.kv.type) {
    case KvType::f32:
      return attention_partial_as<F32Cache>(task, page_begin, page_end, state);
    case KvType::f16:
      return attention_partial_as<F16Cache>(task, page_begin, page_end, state);
    case KvType::int8:
      return attention_partial_as<Int8Cache>(task, page_begin, page_end, state);
  }
}

void attention_merge(int rows, int head_dim, const float* partial, float* state) {
  const int64_t stride = state_stride(head_dim);
  for (int r = 0; r < rows; ++r, partial += stride, state += stride) {
    const float m = partial[0] > state[0] ? partial[0] : state[0];
    const float old_factor = exp_one(state[0] - m);
    const float new_factor = exp_one(partial[0] - m);
    state[0] = m;
    state[1] = state[1] * old_factor + partial[1] * new_factor;
    for (int d = 0; d < head_dim; d += 16) {
      const F32x16 kept = mul(load(state + 16 + d), set1(old_factor));
      store(state + 16 + d, fma(load(partial + 16 + d), set1(new_factor), kept));
    }
  }
}

void attention_finish(int rows, int head_dim, const float* state, float* out, int64_t out_stride) {
  const int64_t stride = state_stride(head_dim);
  for (int r = 0; r < rows; ++r) {
    const F32x16 total = set1(state[r * stride + 1]);
    for (int d = 0; d < head_dim; d += 16) {
      store(out + r * out_stride + d, div(load(state + r * stride + 16 + d), total));
    }
  }
}

constexpr Matmul kBf16F32 = {"f32", f32_row_bytes, pack_block_f32, matmul<Bf16Rows>};

// The outputs of matmul_tile<kRows, 1, Bf16Rows> from rows of bf12, unpacked in registers.
template <int kRows>
void bf12_tile_one_token(const MatmulTask& task, int row) {
  const auto* const x = static_cast<const float*>(task.x);
  Bf12Row rows[kRows];
  F32x16 sums[kRows];
  for (int r = 0; r < kRows; ++r) {
    rows[r] = Bf12Row(task, row + r);
    sums[r] = set1(0.0f);
  }
  const auto add_block = [&](int block, int r, const uint16_t* weights) {
    F32x16 even;
    F32x16 odd;
    load_bf16_pairs(weights, even, odd);
    sums[r] = fma(even, load(x + int64_t{32} * block), sums[r]);
    sums[r] = fma(odd, load(x + int64_t{32} * block + 16), sums[r]);
  };
  const int blocks = static_cast<int>(packed_size(task.w.k) / 32);
  for (int group = 0; 2 * group < blocks; ++group) {
    for (int r = 0; r < kRows; ++r) {
      rows[r].prefetch(group, kRows * bf12_row_bytes(task.w.k));
      uint16_t weights[kBf12Group];
      rows[r].unpack(group, weights);
      add_block(2 * group, r, weights);
      if (2 * group + 1 < blocks) add_block(2 * group + 1, r, weights + 32);
    }
  }
  for (int r = 0; r < kRows; ++r) store_output(task, row + r, 0, reduce_add(sums[r]));
}

void matmul_bf12_f32(const MatmulTask& task) {
  if (task.tokens > 1) return matmul_bf12<kBf16F32>(task);
  int row = task.row_begin;
  for (; row + kTileRowsOneToken <= task.row_end; row += kTileRowsOneToken) {
    bf12_tile_one_token<kTileRowsOneToken>(task, row);
  }
  for (; row < task.row_end; ++row) bf12_tile_one_token<1>(task, row);
}
constexpr Matmul kBf12F32 = {"f32", f32_row_bytes, pack_block_f32, matmul_bf12_f32};

// `bf16_fast`, `bf12`: what the instruction set has for these formats with fast inputs.
constexpr Kernels make_kernels(const char* name, const Matmul& bf16_fast = kBf16F32,
                               const Matmul& bf12 = kBf12F32) {
  return {.name = name,
          .rms_norm = rms_norm,
          .bf16 = {kBf16F32, bf16_fast},
          .bf12 = {{}, bf12},
          .q8 = {{}, {"int8", q8_row_bytes, pack_block_q8, matmul_q8<Q8Group>}},
          .mxfp4 = {{"f32", f32_row_bytes, pack_block_f32, matmul<Mxfp4Rows>},
                    {"int8", q8_row_bytes, pack_block_q8, matmul_q8<Mxfp4Group>}},
          .encode_q8_weights = encode_q8_weights,
          .from_bf16 = from_bf16,
          .rope = rope,
          .store_kv = store_kv,
          .swiglu = swiglu,
          .attention_partial = attention_partial,
          .attention_merge = attention_merge,
          .attention_finish = attention_finish,
          .add_scaled = add_scaled,
          .sample = kSampleKernels};
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
