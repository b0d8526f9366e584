// Matrices of the checkpoint into the layout of fragments.cuh, once when a model is loaded. A warp
// makes 16 rows and 64 columns.
#include "cuda/kernels/fragments.cuh"
#include "cuda/kernels/q8_0.cuh"

namespace gptoss::cuda {
namespace {

constexpr int kThreads = 32;

// The columns and the row, within their tile and group, of word `word` of step `step`.
struct Place {
  int row, column;
};
__device__ __forceinline__ Place place_of(int step, int word) {
  const int g = lane_id() / 4, t = lane_id() % 4;
  return {2 * g + word % 2, 16 * t + 4 * step + word / 2 * 2};
}

// The bits of one code in half a word, as r0 to r3.
__device__ __forceinline__ uint32_t place_code(uint32_t code, int word) {
  const uint32_t sign = code >> 3, rest = code & 7;
  if (word == 3) return sign << 14 | (rest & 1) << 13 | rest >> 1 << 10;
  return sign << (15 - 3 * word) | rest << (6 - 3 * word);
}

// 0 beyond the matrix.
__device__ __forceinline__ uint32_t scale_byte(const uint8_t* scales, int row, int block, int n,
                                               int blocks) {
  if (row >= n || block >= blocks) return 0;
  // Beyond kShuffledMaxScale the bf16 is infinite, and so are the results.
  return min(scales[static_cast<int64_t>(row) * blocks + block] + 126, 255);
}

// What a warp has of an int8 matrix: 16 rows, 64 columns.
struct Q8Group {
  uint32_t codes[kTileRows][kGroupColumns / 4];
  uint16_t scales[kTileRows][2];
};

// By all lanes, after __syncwarp().
__device__ __forceinline__ void write_q8(const Q8Group& from, void* codes, void* scales,
                                         int64_t index) {
  const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
  for (int b = 0; b < 2; ++b) {
    static_cast<uint4*>(codes)[(index * 2 + b) * 32 + lane_id()] = {
        from.codes[2 * g][8 * b + t], from.codes[2 * g + 1][8 * b + t],
        from.codes[2 * g][8 * b + 4 + t], from.codes[2 * g + 1][8 * b + 4 + t]};
  }
  if (t < 2) {
    static_cast<uint32_t*>(scales)[(index * 8 + g) * 2 + t] =
        from.scales[2 * g][t] | static_cast<uint32_t>(from.scales[2 * g + 1][t]) << 16;
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
    gptoss_shuffle_dense(const __grid_constant__ ShuffleDenseArgs a) {
  take_turn();
  const int tile = static_cast<int>(blockIdx.x), group = static_cast<int>(blockIdx.y);
  const int groups = static_cast<int>(ceil_div(a.k, kGroupColumns));
  if (tile >= ceil_div(a.n, kTileRows) || group >= groups) return;
  const auto at = [&](int row, int column) -> uint32_t {
    return row < a.n && column < a.k ? a.from[static_cast<int64_t>(row) * a.k + column] : 0;
  };
  uint4* const to = static_cast<uint4*>(a.to) +
                    (static_cast<int64_t>(tile) * groups + group) * kSteps * 32 + lane_id();
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    uint32_t words[4];
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      const Place place = place_of(step, word);
      const int row = tile * kTileRows + place.row;
      const int column = group * kGroupColumns + place.column;
      words[word] = at(row, column) | at(row, column + 1) << 16;
    }
    to[step * 32] = {words[0], words[1], words[2], words[3]};
  }
}

extern "C" __global__ void __launch_bounds__(kThreads)
    gptoss_shuffle_mxfp4(const __grid_constant__ ShuffleMxfp4Args a) {
  take_turn();
  const int tile = static_cast<int>(blockIdx.x), group = static_cast<int>(blockIdx.y);
  const int64_t matrix = blockIdx.z;
  const int groups = static_cast<int>(ceil_div(a.k, kGroupColumns));
  const int blocks = a.k / 32;  // of a row
  if (tile >= ceil_div(a.n, kTileRows) || group >= groups || matrix >= a.matrices) return;
  const int64_t first_row = matrix * a.n;
  const uint8_t* const from_codes = a.from_blocks + first_row * (a.k / 2);
  const uint8_t* const from_scales = a.from_scales + first_row * blocks;
  const int64_t index = static_cast<int64_t>(tile) * groups + group;

  uint32_t words[kSteps];
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    words[step] = 0;
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      const Place place = place_of(step, word);
      const int row = tile * kTileRows + place.row;
      const int column = group * kGroupColumns + place.column;
      if (row >= a.n || column >= a.k) continue;
      const uint32_t byte = from_codes[static_cast<int64_t>(row) * (a.k / 2) + column / 2];
      words[step] |= place_code(byte & 15, word) | place_code(byte >> 4, word) << 16;
    }
  }
  reinterpret_cast<uint4*>(
      a.to_blocks + matrix * shuffled_mxfp4_block_bytes(a.n, a.k))[index * 32 + lane_id()] = {
      words[0], words[1], words[2], words[3]};

  if (lane_id() % 4 != 0) return;
  const int row = tile * kTileRows + lane_id() / 4 * 2;
  const auto byte = [&](int r, int block) {
    return scale_byte(from_scales, r, block, a.n, blocks);
  };
  reinterpret_cast<uint32_t*>(
      a.to_scales + matrix * shuffled_mxfp4_scale_bytes(a.n, a.k))[index * 8 + lane_id() / 4] =
      byte(row, 2 * group) | byte(row + 1, 2 * group) << 8 | byte(row, 2 * group + 1) << 16 |
      byte(row + 1, 2 * group + 1) << 24;
}

// A lane has half a row's 64 columns, one block of 32.
extern "C" __global__ void __launch_bounds__(kThreads)
    gptoss_shuffle_q8(const __grid_constant__ ShuffleQ8Args a) {
  take_turn();
  const int tile = static_cast<int>(blockIdx.x), group = static_cast<int>(blockIdx.y);
  if (tile >= tiles_of(a.n) || group >= groups_of(a.k)) return;
  __shared__ Q8Group made;

  const int row = lane_id() / 2, block = lane_id() % 2;
  const int from_row = tile * kTileRows + row;
  const int column = group * kGroupColumns + block * 32;
  const bool inside = from_row < a.n && column < a.k;
  const uint16_t* const from =
      a.from + (inside ? static_cast<int64_t>(from_row) * a.k + column : 0);
  float largest = 0.0f;
  for (int i = 0; i < 32 && inside; ++i) largest = fmaxf(largest, fabsf(from_bf16(from[i])));
  // Rounded up, so that no code is beyond 127; scales that cannot be divided by make codes of 0.
  const uint32_t bits = (__float_as_uint(largest * (2.0f / 127.0f)) + 0xffffu) >> 16;
  const float scale = __uint_as_float(bits << 16);
  const float inverse = scale >= 0x1p-126f ? 2.0f / scale : 0.0f;
  made.scales[row][block] = static_cast<uint16_t>(bits);
  for (int i = 0; i < 8; ++i) {
    uint32_t word = 0;
    for (int b = 0; b < 4 && inside; ++b) {
      const int code = __float2int_rn(from_bf16(from[4 * i + b]) * inverse);
      word |= static_cast<uint32_t>(code & 255) << (8 * b);
    }
    made.codes[row][block * 8 + i] = word;
  }
  __syncwarp();
  write_q8(made, a.codes, a.scales, static_cast<int64_t>(tile) * groups_of(a.k) + group);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    gptoss_shuffle_q8_0(const __grid_constant__ ShuffleQ8_0Args a) {
  take_turn();
  const int tile = static_cast<int>(blockIdx.x), group = static_cast<int>(blockIdx.y);
  if (tile >= tiles_of(a.n) || group >= groups_of(a.k)) return;
  __shared__ Q8Group found;

  const int row = lane_id() / 2, block = lane_id() % 2;
  const int from_row = tile * kTileRows + row;
  const int column = group * kGroupColumns + block * 32;
  const bool inside = from_row < a.n && column < a.k;
  const Q8Row from(a.from_codes, a.from_scales, inside ? from_row : 0, a.k);
  found.scales[row][block] = inside ? from.scales[column / 32] : uint16_t{0};
  for (int i = 0; i < 8; ++i) {
    uint32_t word = 0;
    for (int b = 0; b < 4 && inside; ++b) {
      const int code = from.codes[q8_0_place(column + 4 * i + b, a.k)];
      word |= static_cast<uint32_t>(code & 255) << (8 * b);
    }
    found.codes[row][block * 8 + i] = word;
  }
  __syncwarp();
  write_q8(found, a.codes, a.scales, static_cast<int64_t>(tile) * groups_of(a.k) + group);
}

}  // namespace gptoss::cuda
