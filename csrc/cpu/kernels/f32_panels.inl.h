// bf16 weights times f32 activations of several tokens: the sums of matmul_f32.inl.h.
//
// A sum has 16 lanes over K (kernels.h). Tiles that hold all lanes read weights and activations for
// few products; here a register holds one lane of several rows. A panel of rows is put in order
// of lanes once. Then, lane by lane, all elements of its rows and several tokens are added up, and
// the lanes' sums last, in the order of reduce_add. Included after the file that has the
// instruction set's own part:
//   kF32PanelRows, kFewestByLane   rows of a panel, 16 or more at a time; tokens
//   transpose_panel                words of 16 rows, in order of words
//   lane_tiles                     the products of one lane
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/kernels/bf12_f32.inl.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/matmul_f32.inl.h"
#include GPTOSS_ISA_SIMD

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

inline constexpr int kSumLanes = 16;

constexpr bool is_by_lane(int group_tokens) { return group_tokens >= kFewestByLane; }

// A block of K of a group by lane: (16 lanes, elements of a lane, tokens).
void pack_block_by_lane(const float* x, int64_t x_stride, int tokens, int k, int block,
                        uint8_t* group) {
  alignas(64) float rows[kGroupTokens][2 * kSumLanes] = {};
  alignas(64) float columns[2 * kSumLanes][kGroupTokens];
  for (int t = 0; t < tokens; ++t) {
    F32x16 even;
    F32x16 odd;
    load_pairs(x + t * x_stride, even, odd);
    store(rows[t], even);
    store(rows[t] + kSumLanes, odd);
  }
  for (int column = 0; column < 2 * kSumLanes; column += 4) {
    transpose_panel(reinterpret_cast<const uint8_t*>(rows[0] + column), sizeof rows[0],
                    columns[column], kGroupTokens);
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

// Rows of weights in order of lanes: (16 lanes, blocks, kF32PanelRows) pairs of bf16.
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
    for (int row = 0; row < kF32PanelRows; row += 16) {
      for (int quad = 0; quad < 4; ++quad) {
        transpose_panel(bytes + row * row_bytes + 16 * quad, row_bytes,
                        pairs_ + 4 * quad * lane_stride_ + block * kF32PanelRows + row,
                        lane_stride_);
      }
    }
  }

  int k_, blocks_;
  int64_t lane_stride_;
  uint32_t* pairs_;
};

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
    lane_tiles(panel.lane(lane), panel.lane((lane + 1) % kSumLanes), panel.blocks(), x, tokens,
               next_panel + lane * row_bytes, row_bytes, sums[lane][0]);
    x += int64_t{2} * panel.blocks() * tokens;
  }
  for (int t = 0; t < tokens; ++t) {
    float of_rows[kF32PanelRows];
    for (int r = 0; r < kF32PanelRows; r += 16) {
      store(of_rows + r, add_lanes(sums[0][t] + r, kGroupTokens * kF32PanelRows));
    }
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
