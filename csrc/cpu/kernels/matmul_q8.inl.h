// Weights times int8 activations (Q8 rows, kernels.h): products within a block are exact integers.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/float16.h"
#include "core/q8.h"
#include "cpu/kernels/elementwise.inl.h"
#include "cpu/kernels/kernels.h"
#include GPTOSS_ISA_SIMD
#include GPTOSS_ISA_PANELS

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {

// q8_0: the codes of q8, scales in f16.
struct Q80Group : Q8Group {
  using Scale = HalfScale;
};
// Lane 4b + r: twice scale b of row r, as those of q8 are stored; 0 from n_blocks on.
inline F32x16 load_scales4x4(const HalfScale* r0, const HalfScale* r1, const HalfScale* r2,
                             const HalfScale* r3, int n_blocks) {
  uint16_t words[16] = {};
  for (int b = 0; b < n_blocks; ++b) {
    words[4 * b] = r0[b].bits;
    words[4 * b + 1] = r1[b].bits;
    words[4 * b + 2] = r2[b].bits;
    words[4 * b + 3] = r3[b].bits;
  }
  const F32x16 scales = load_half(words);
  return add(scales, scales);
}

namespace {

void quantize_q8_block(const float* x, uint8_t* group, const Q8BlockPlace& place) {
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
  auto* const out = reinterpret_cast<int8_t*>(group + place.codes);
  store_int8(out, even);
  store_int8(out + 16, odd);
  const float scale = largest * (1.0f / 254.0f) + poison;
  const int32_t correction =
      Mxfp4Group::correction(out, static_cast<int32_t>(reduce_add(add(even, odd))));  // exact
  std::memcpy(group + place.scale, &scale, sizeof scale);
  std::memcpy(group + place.correction, &correction, sizeof correction);
}

void pack_block_q8(const float* x, int64_t x_stride, int tokens, int k, int block, uint8_t* group) {
  for (int t = 0; t < tokens; ++t) {
    quantize_q8_block(x + t * x_stride, group, q8_block_place(k, tokens, t, block));
    if (block + 1 < k / kQ8Block) continue;
    const float zeros[kQ8Block] = {};
    for (int b = block + 1; b < q8_padded(k) / kQ8Block; ++b) {
      quantize_q8_block(zeros, group, q8_block_place(k, tokens, t, b));
    }
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

// Rows are too short for the hardware prefetcher to follow four of them at a time, so each load
// prefetches what comes later: into the first-level cache a little before its use, into the second
// earlier, and there more than once, as there are more of them than fill buffers. From memory, two
// threads of Zen 4 read int8 weights at 15 GB/s without, 30 with one prefetch of each line, 33 so
// (36 and 45 where memory was faster).
inline constexpr int64_t kNearBytes = 2048;
inline constexpr int64_t kFarBytes = 16384;
template <class Group>
inline constexpr int64_t kPrefetchEveryBytes = 4096;
// The same bytes hold twice the numbers, and take twice as long.
template <>
inline constexpr int64_t kPrefetchEveryBytes<Mxfp4Group> = 8192;
// Scales are stored apart: those of two tiles ahead where K is 2880.
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
    const int first = (token + t) / kGroupTokens * kGroupTokens;
    const int in_group = task.tokens - first < kGroupTokens ? task.tokens - first : kGroupTokens;
    const auto* const x = static_cast<const uint8_t*>(task.x) + first * q8_row_bytes(task.w.k);
    for (int64_t group = 0; group < groups; ++group) {
      Q8Inputs& spread = inputs[t * groups + group];
      float scales[4];
      int32_t corrections[4];
      for (int b = 0; b < 4; ++b) {
        const Q8BlockPlace place =
            q8_block_place(task.w.k, in_group, token + t - first, 4 * group + b);
        std::memcpy(spread.even + 16 * b, x + place.codes, 16);
        std::memcpy(spread.odd + 16 * b, x + place.codes + 16, 16);
        std::memcpy(scales + b, x + place.scale, sizeof(float));
        std::memcpy(corrections + b, x + place.correction, sizeof(int32_t));
      }
      store(spread.scales, spread4(scales));
      Group::spread_corrections(corrections, spread.corrections);
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
    decltype(Group::load(nullptr, 0)) codes[4];
    for (int r = 0; r < 4; ++r) {
      const uint8_t* const at = blocks[r] + group * kGroupBytes;
      for (int line = 0; line < kGroupBytes; line += 64) {
        const uint8_t* const in_order = blocks[0] + (4 * group + r) * kGroupBytes + line;
        __builtin_prefetch(in_order + kNearBytes);
        for (int64_t ahead = kFarBytes; ahead > 0; ahead -= kPrefetchEveryBytes<Group>) {
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

// The table's own copy: the function behind a pointer is linked, and q8_row_bytes is everyone's.
int64_t table_row_bytes(int64_t k) { return q8_row_bytes(k); }

constexpr Matmul kQ8Int8 = {"int8", table_row_bytes, pack_block_q8, matmul_q8<Q8Group>};
constexpr Matmul kQ80Int8 = {"int8", table_row_bytes, pack_block_q8, matmul_q8<Q80Group>};
constexpr Matmul kMxfp4Int8 = {"int8", table_row_bytes, pack_block_q8, matmul_q8<Mxfp4Group>};

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
