// bf16 weights times f32 activations of several tokens, AVX2: the sums of matmul_f32.inl.h.
//
// A sum has 16 lanes over K (kernels.h). Tiles that hold all lanes need two registers for each
// output; here a register holds one lane of 8 rows. A panel of 16 rows is put in order of lanes
// once. Then, lane by lane, all elements of 16 rows and up to 6 tokens are added up, and the lanes'
// sums last, in the order of reduce_add.
//
// For a pair of elements of 16 rows and 6 tokens there are 24 products, 12 broadcasts of inputs,
// and 4 loads and 4 instructions to widen weights: on two ports for products, 12 cycles, in which
// 16 of 24 loads fit. Registers: 12 sums, 2 of weights, 1 input.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/kernels/bf12_f32.inl.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/matmul_f32.inl.h"
#include "cpu/kernels/transpose_rows.inl.h"
#include "cpu/simd/avx2.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

inline constexpr int kSumLanes = 16;
inline constexpr int kF32PanelRows = 16;
inline constexpr int kF32PanelTokens = 6;

// Smaller groups of activations stay in rows: putting panels in order would take longer than their
// products.
inline constexpr int kFewestByLane = 4;
constexpr bool is_by_lane(int group_tokens) { return group_tokens >= kFewestByLane; }

// A block of K of a group by lane: (16 lanes, elements of a lane, tokens).
void pack_block_by_lane(const float* x, int64_t x_stride, int tokens, int k, int block,
                        uint8_t* group) {
  alignas(32) float rows[kGroupTokens][2 * kSumLanes] = {};
  alignas(32) float columns[2 * kSumLanes][kGroupTokens];
  for (int t = 0; t < tokens; ++t) {
    F32x16 even;
    F32x16 odd;
    load_pairs(x + t * x_stride, even, odd);
    store(rows[t], even);
    store(rows[t] + kSumLanes, odd);
  }
  for (int first = 0; first < kGroupTokens; first += 8) {
    for (int column = 0; column < 2 * kSumLanes; column += 4) {
      __m256i words[4];
      transpose_rows(reinterpret_cast<const uint8_t*>(rows[first] + column), sizeof rows[0], words);
      for (int j = 0; j < 4; ++j) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(columns[column + j] + first), words[j]);
      }
    }
  }
  const auto bytes = static_cast<size_t>(tokens) * sizeof(float);
  const int64_t lane_elements = packed_size(k) / kSumLanes;
  float* out = reinterpret_cast<float*>(group) + int64_t{2} * block * tokens;
  for (int lane = 0; lane < kSumLanes; ++lane, out += lane_elements * tokens) {
    std::memcpy(out, columns[lane], bytes);
    std::memcpy(out + tokens, columns[kSumLanes + lane], bytes);
  }
}

void pack_block_for_panels(const float* x, int64_t x_stride, int tokens, int k, int block,
                           uint8_t* group) {
  const auto pack = is_by_lane(tokens) ? pack_block_by_lane : pack_block_f32;
  pack(x, x_stride, tokens, k, block, group);
}

// 16 rows of weights in order of lanes: (16 lanes, blocks, 16 rows) pairs of bf16.
class LanePanel {
 public:
  explicit LanePanel(int k)
      : k_(k),
        blocks_(static_cast<int>(packed_size(k) / 32)),
        lane_stride_(int64_t{blocks_ | 1} * kF32PanelRows),  // no power of two
        pairs_(reinterpret_cast<uint32_t*>(thread_scratch(
            kSumLanes * lane_stride_ * int64_t{sizeof(uint32_t)}, Scratch::panel))) {}

  int blocks() const { return blocks_; }
  const uint32_t* lane(int lane) const { return pairs_ + lane * lane_stride_; }

  // Rows [row, row + n_rows); missing ones repeat the last, their sums are not stored.
  void fill(const MatmulTask& task, int row, int n_rows) {
    const int64_t row_bytes = int64_t{k_} * 2;
    const auto* const weights = static_cast<const uint8_t*>(task.w.data) + row * row_bytes;
    const int full_blocks = k_ / 32;
    if (n_rows == kF32PanelRows) {
      for (int b = 0; b < full_blocks; ++b) fill_block(weights + 64 * b, row_bytes, b);
    }
    for (int b = n_rows == kF32PanelRows ? full_blocks : 0; b < blocks_; ++b) {
      uint8_t padded[kF32PanelRows][64] = {};
      const auto bytes = static_cast<size_t>(b < full_blocks ? 64 : row_bytes - 64 * b);
      for (int r = 0; r < kF32PanelRows; ++r) {
        std::memcpy(padded[r], weights + (r < n_rows ? r : n_rows - 1) * row_bytes + 64 * b, bytes);
      }
      fill_block(padded[0], 64, b);
    }
  }

 private:
  void fill_block(const uint8_t* bytes, int64_t row_bytes, int block) {
    for (int quad = 0; quad < 4; ++quad) {
      for (int half = 0; half < 2; ++half) {
        __m256i words[4];
        transpose_rows(bytes + 8 * half * row_bytes + 16 * quad, row_bytes, words);
        for (int j = 0; j < 4; ++j) {
          uint32_t* const to =
              pairs_ + (4 * quad + j) * lane_stride_ + block * kF32PanelRows + 8 * half;
          _mm256_store_si256(reinterpret_cast<__m256i*>(to), words[j]);
        }
      }
    }
  }

  int k_, blocks_;
  int64_t lane_stride_;
  uint32_t* pairs_;
};

// The sums of a token, of 16 rows.
struct TokenLane {
  __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();

  // Instructions, because compilers that order products anew run out of registers.
  void add(__m256 low_rows, __m256 high_rows, const float* x) {
    __m256 input;
    __m256 l = low;
    __m256 h = high;
    asm("vbroadcastss %[x], %[input]\n\t"
        "vfmadd231ps %[input], %[low_rows], %[low]\n\t"
        "vfmadd231ps %[input], %[high_rows], %[high]"
        : [low] "+x"(l), [high] "+x"(h), [input] "=&x"(input)
        : [low_rows] "x"(low_rows), [high_rows] "x"(high_rows), [x] "m"(*x));
    low = l;
    high = h;
  }
  void store(float* sums) const {
    _mm256_store_ps(sums, low);
    _mm256_store_ps(sums + 8, high);
  }
};

// The even elements of 8 pairs, and the odd ones. Pairs are loaded for each, and the mask is in
// memory, to save registers.
inline __m256 even_of_pairs(const uint32_t* p) {
  __m256i pairs = _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
  asm volatile("" : "+x"(pairs));
  return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}
inline __m256 odd_of_pairs(const uint32_t* p) {
  alignas(32) static constexpr uint32_t kHighWords[8] = {0xffff0000u, 0xffff0000u, 0xffff0000u,
                                                         0xffff0000u, 0xffff0000u, 0xffff0000u,
                                                         0xffff0000u, 0xffff0000u};
  const uint32_t* mask = kHighWords;
  asm volatile("" : "+r"(mask));
  __m256i pairs = _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
  asm volatile("" : "+x"(pairs));
  return _mm256_castsi256_ps(
      _mm256_and_si256(pairs, _mm256_load_si256(reinterpret_cast<const __m256i*>(mask))));
}

// What a tile prefetches for each block: two lines, those of the next block `step` bytes on.
// Without prefetches of the next lane's weights and inputs tiles are a fifth slower on Zen 3.
struct Ahead {
  const uint8_t *first, *second;
  int step;

  void prefetch() {
    __builtin_prefetch(first);
    __builtin_prefetch(second);
    first += step;
    second += step;
  }
};

// sums (kTokens, 16 rows) of one lane; x (elements, group_tokens).
template <int kTokens>
void lane_tile(const uint32_t* pairs, int blocks, const float* x, int group_tokens, Ahead ahead,
               float* sums) {
  TokenLane t0, t1, t2, t3, t4, t5;  // an array would live in memory
  const auto each = [&](auto&& f) {
    f(t0, 0);
    if constexpr (kTokens > 1) f(t1, 1);
    if constexpr (kTokens > 2) f(t2, 2);
    if constexpr (kTokens > 3) f(t3, 3);
    if constexpr (kTokens > 4) f(t4, 4);
    if constexpr (kTokens > 5) f(t5, 5);
  };
  const auto add_element = [&](__m256 low_rows, __m256 high_rows) {
    each([&](TokenLane& token, int t) { token.add(low_rows, high_rows, x + t); });
    x += group_tokens;
  };
  for (int b = 0; b < blocks; ++b, pairs += kF32PanelRows) {
    ahead.prefetch();
    add_element(even_of_pairs(pairs), even_of_pairs(pairs + 8));
    add_element(odd_of_pairs(pairs), odd_of_pairs(pairs + 8));
  }
  each([&](const TokenLane& token, int t) { token.store(sums + t * kF32PanelRows); });
}

// All tokens of a group in one lane, in one to three tiles about alike. `next_row`: a row of the
// next panel, to prefetch.
void lane_tiles(const LanePanel& panel, int lane, const float* x, int tokens,
                const uint8_t* next_row, float* sums) {
  const auto bytes = [](const auto* p) { return reinterpret_cast<const uint8_t*>(p); };
  const uint8_t* const next_x = bytes(x + int64_t{2} * panel.blocks() * tokens);
  const uint8_t* const next_pairs = bytes(panel.lane((lane + 1) % kSumLanes));
  const int tiles = (tokens + kF32PanelTokens - 1) / kF32PanelTokens;
  for (int tile = 0, t = 0; tile < tiles; ++tile) {
    const Ahead ahead = tiles == 1          ? Ahead{next_x, next_row, 64}
                        : tile + 1 == tiles ? Ahead{next_pairs, next_row, 64}
                                            : Ahead{next_x, next_x + 64, 128};
    const auto run = [&]<int kTokens>() {
      lane_tile<kTokens>(panel.lane(lane), panel.blocks(), x + t, tokens, ahead,
                         sums + t * kF32PanelRows);
      t += kTokens;
    };
    switch ((tokens - t + tiles - tile - 1) / (tiles - tile)) {
      case 6:
        run.template operator()<6>();
        break;
      case 5:
        run.template operator()<5>();
        break;
      case 4:
        run.template operator()<4>();
        break;
      case 3:
        run.template operator()<3>();
        break;
      case 2:
        run.template operator()<2>();
        break;
      default:
        run.template operator()<1>();
        break;
    }
  }
}

// The tree of reduce_add for 16 rows; lanes are `stride` floats apart.
F32x16 add_lanes(const float* sums, int64_t stride) {
  F32x16 lanes[8];
  for (int i = 0; i < 8; ++i) {
    lanes[i] = add(load(sums + i * stride), load(sums + (i + 8) * stride));
  }
  for (int half = 4; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] = add(lanes[i], lanes[i + half]);
  }
  return lanes[0];
}

// Rows [row, row + n_rows), which the panel holds, for one group.
void panel_of_group(const MatmulTask& task, const LanePanel& panel, int row, int n_rows, int token,
                    int tokens) {
  const auto* x = reinterpret_cast<const float*>(static_cast<const uint8_t*>(task.x) +
                                                 token * f32_row_bytes(task.w.k));
  // The weights after the panel, or what they will be made of.
  const int64_t row_bytes = task.prefetch != nullptr ? task.prefetch_stride : int64_t{task.w.k} * 2;
  const uint8_t* const next_panel =
      task.prefetch != nullptr
          ? task.prefetch + (row - task.row_begin) * row_bytes
          : static_cast<const uint8_t*>(task.w.data) + (row + kF32PanelRows) * row_bytes;
  alignas(64) float sums[kSumLanes][kGroupTokens][kF32PanelRows];
  for (int lane = 0; lane < kSumLanes; ++lane) {
    lane_tiles(panel, lane, x, tokens, next_panel + lane * row_bytes, sums[lane][0]);
    x += int64_t{2} * panel.blocks() * tokens;
  }
  for (int t = 0; t < tokens; ++t) {
    float of_rows[kF32PanelRows];
    store(of_rows, add_lanes(sums[0][t], kGroupTokens * kF32PanelRows));
    for (int r = 0; r < n_rows; ++r) store_output(task, row + r, token + t, of_rows[r]);
  }
}

// Tokens that pass a panel once it is in order: 3 MB of activations where K is 2880, which all
// threads read from the third-level cache.
inline constexpr int kPanelPassTokens = 256;

void matmul_bf16_panels(const MatmulTask& task) {
  const int last = task.tokens % kGroupTokens;
  const int in_rows = is_by_lane(last) ? 0 : last;
  const int by_lane = task.tokens - in_rows;
  if (by_lane > 0) {
    LanePanel panel(task.w.k);
    for (int first = 0; first < by_lane; first += kPanelPassTokens) {
      const int end = first + kPanelPassTokens < by_lane ? first + kPanelPassTokens : by_lane;
      for (int row = task.row_begin; row < task.row_end; row += kF32PanelRows) {
        const int n_rows = task.row_end - row < kF32PanelRows ? task.row_end - row : kF32PanelRows;
        panel.fill(task, row, n_rows);
        for (int token = first; token < end; token += kGroupTokens) {
          panel_of_group(task, panel, row, n_rows, token,
                         end - token < kGroupTokens ? end - token : kGroupTokens);
        }
      }
    }
  }
  if (in_rows > 0) {
    MatmulTask rest = task;
    rest.tokens = in_rows;
    rest.x = static_cast<const uint8_t*>(task.x) + by_lane * f32_row_bytes(task.w.k);
    rest.y = task.y + by_lane * task.y_stride;
    matmul<Bf16Rows>(rest);
  }
}

constexpr Matmul kBf16Panels = {"f32", f32_row_bytes, pack_block_for_panels, matmul_bf16_panels};
constexpr Matmul kBf12Panels = {"f32", f32_row_bytes, pack_block_for_panels,
                                matmul_bf12_f32<kBf16Panels>};

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
