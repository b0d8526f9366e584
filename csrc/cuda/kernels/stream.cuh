// A product of few rows of x: weights go from memory to registers, each read once, and nothing
// waits but for the last sum.
//
// The order of sums, here and in whatever shall have the same bits: k is cut into kSegments runs of
// groups, each summed in the order of k from zero, then added in order.
#pragma once

#include "cuda/kernels/fragments.cuh"

namespace gptoss::cuda {

inline constexpr int kSegments = 8;

__device__ __forceinline__ int segment_begin(int groups, int segment) {
  return static_cast<int>(static_cast<unsigned>(groups * segment) / kSegments);
}

// How a block streams: each warp kTiles tiles of w at once, which share what is loaded of x, times
// up to 8 * kTokenTiles rows of x; kWarps warps share the segments, one or two each. kDepth groups
// are on their way.
template <int kTokenTiles_, int kTiles_, int kWarps_, int kDepth_>
struct Streaming {
  static constexpr int kTokenTiles = kTokenTiles_, kTiles = kTiles_, kWarps = kWarps_,
                       kDepth = kDepth_;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kTokens = 8 * kTokenTiles;
  static constexpr int kRows = kTileRows * kTiles;  // of w
  static constexpr int kPitch = kTokens + 2;        // floats between rows: fewer bank conflicts
  static_assert(kWarps == kSegments || 2 * kWarps == kSegments);
};

// Rows [begin, end) of x, at most kTokens, times tiles from `first_tile` on, of n_tiles.
//   input_of(row): what the lane has of rows from `row` on, 8 of them, as an Input with
//     Columns: those of a group
//     advance(groups)
//     load(columns, ahead, left): of the group `ahead` groups on, where `left` columns are left
//     multiply(sums, group, columns): sums += weights of the group @ columns, for each 8 rows
//   behind_weights(): what is done when the first of the weights are on their way, before x is read
//   emit(tile, row, i, even, odd): takes the results of a tile's rows 2 i and 2 i + 1
template <class S, class Weights, class Behind, class InputOf, class Emit>
__device__ __forceinline__ void stream(const Weights& w, int first_tile, int n_tiles, int begin,
                                       int end, int k, Behind behind_weights, InputOf input_of,
                                       Emit emit) {
  constexpr bool kTakesTwo = S::kWarps < kSegments;
  constexpr int kSegmentsOfWarp = kSegments / S::kWarps;
  __shared__ __align__(8) float partial[kSegments][S::kRows][S::kPitch];
  const int g = lane_id() / 4, t = lane_id() % 4;
  // From one lane, so that the compiler knows that all have the same.
  const int warp = __shfl_sync(kAllLanes, warp_id(), 0);
  const int segment = warp * kSegmentsOfWarp;
  const int first = segment_begin(w.groups, segment);
  const int middle = segment_begin(w.groups, segment + 1);
  const int last = segment_begin(w.groups, segment + kSegmentsOfWarp);

  // Tiles beyond the last compute it again; their results go nowhere.
  using Tile = typename Weights::Tile;
  Tile tiles[S::kTiles];
  typename Tile::Group ahead[S::kDepth][S::kTiles];
#pragma unroll
  for (int i = 0; i < S::kTiles; ++i) {
    tiles[i] = w.tile(min(first_tile + i, n_tiles - 1));
    tiles[i].advance(first);
  }
#pragma unroll
  for (int d = 0; d < S::kDepth; ++d) {
#pragma unroll
    for (int i = 0; i < S::kTiles; ++i) {
      if (first + d < last) tiles[i].load(ahead[d][i], d);
    }
  }
  behind_weights();
  using Input = decltype(input_of(0));
  Input x[S::kTokenTiles];
#pragma unroll
  for (int j = 0; j < S::kTokenTiles; ++j) {
    x[j] = input_of(begin + 8 * j);
    x[j].advance(first);
  }

  Sums sums[S::kTiles][S::kTokenTiles] = {};
  const auto put = [&](int to) {
#pragma unroll
    for (int i = 0; i < S::kTiles; ++i) {
#pragma unroll
      for (int j = 0; j < S::kTokenTiles; ++j) {
        float* const at = &partial[to][kTileRows * i + 2 * g][8 * j + 2 * t];
        at[0] = sums[i][j][0];
        at[1] = sums[i][j][1];
        at[S::kPitch] = sums[i][j][2];
        at[S::kPitch + 1] = sums[i][j][3];
#pragma unroll
        for (float& sum : sums[i][j]) sum = 0.0f;
      }
    }
  };
  for (int group = first; group < last; group += S::kDepth) {
#pragma unroll
    for (int d = 0; d < S::kDepth; ++d) {
      if (group + d >= last) break;
      if (kTakesTwo && group + d == middle) put(segment);
      typename Input::Columns columns[S::kTokenTiles];
#pragma unroll
      for (int j = 0; j < S::kTokenTiles; ++j) {
        x[j].load(columns[j], d, k - (group + d) * kGroupColumns);
      }
#pragma unroll
      for (int i = 0; i < S::kTiles; ++i) Input::multiply(sums[i], ahead[d][i], columns);
      if (group + d + S::kDepth < last) {
#pragma unroll
        for (int i = 0; i < S::kTiles; ++i) tiles[i].load(ahead[d][i], d + S::kDepth);
      }
    }
#pragma unroll
    for (int i = 0; i < S::kTiles; ++i) tiles[i].advance(S::kDepth);
#pragma unroll
    for (int j = 0; j < S::kTokenTiles; ++j) x[j].advance(S::kDepth);
  }
  if (kTakesTwo && middle >= last) put(segment);  // the second one is empty
  put(segment + kSegmentsOfWarp - 1);
  __syncthreads();

  constexpr int kPairs = S::kRows / 2;
  for (int i = static_cast<int>(threadIdx.x); i < S::kTokens * kPairs; i += S::kThreads) {
    const int token = i / kPairs, pair = i % kPairs;
    const int tile = first_tile + pair / (kTileRows / 2);
    if (begin + token >= end) return;
    if (tile >= n_tiles) continue;
    float even = 0.0f, odd = 0.0f;
#pragma unroll
    for (int from = 0; from < kSegments; ++from) {
      even += partial[from][2 * pair][token];
      odd += partial[from][2 * pair + 1][token];
    }
    emit(tile, begin + token, pair % (kTileRows / 2), even, odd);
  }
}

// totals += sums, and sums = 0, where `group` is the last of a segment. `segment` is that of the
// group before, and becomes this one's; some are empty. For those that go through all of k.
template <int kTiles, int kTokenTiles>
__device__ __forceinline__ void close_segment(Sums (&totals)[kTiles][kTokenTiles],
                                              Sums (&sums)[kTiles][kTokenTiles], int groups,
                                              int group, int& segment) {
  while (segment_begin(groups, segment + 1) <= group) ++segment;
  if (group + 1 != segment_begin(groups, segment + 1)) return;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int j = 0; j < kTokenTiles; ++j) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        totals[i][j][c] += sums[i][j][c];
        sums[i][j][c] = 0.0f;
      }
    }
  }
}

// What the results of rows [begin, end) are multiplied with, for all threads behind the next
// barrier.
template <int kThreads, int kTokens>
__device__ __forceinline__ void load_factors(const RowNorm& norm, int k, int begin, int end,
                                             float (&factors)[kTokens]) {
  for (int i = warp_id(); i < min(kTokens, end - begin); i += kThreads / 32) {
    float factor = 1.0f;
    if (norm.squares != nullptr) {
      const float* const parts = norm.squares + static_cast<int64_t>(begin + i) * norm.n_parts;
      const float sum = sum_of_parts(parts, norm.n_parts);
      factor = 1.0f / sqrtf(sum / static_cast<float>(k) + norm.eps);
    }
    if (lane_id() == 0) factors[i] = factor;
  }
}

// y[n], y[n + 1] of a row, of DenseMatmulArgs or its like. With kHasRanges lanes 8 i to 8 i + 7
// have 16 columns of a row.
template <bool kHasRanges, class Args>
__device__ __forceinline__ void emit_dense(const Args& a, int row, int n, float even, float odd,
                                           float factor) {
  float* const y = a.y + static_cast<int64_t>(row) * a.y_stride + n;
  float highest = -INFINITY, lowest = INFINITY;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (n + i >= a.n) break;
    float sum = __fmul_rn(i == 0 ? even : odd, factor);
    if (a.bias != nullptr) sum = __fadd_rn(sum, a.bias[n + i]);
    if (a.accumulate) sum = __fadd_rn(sum, y[i]);
    y[i] = sum;
    highest = sum < INFINITY ? fmaxf(highest, sum) : INFINITY;
    if (sum > -INFINITY) lowest = fminf(lowest, sum);
  }
  if constexpr (kHasRanges) {
    if (a.ranges == nullptr) return;
    const unsigned lanes = 0xffu << (lane_id() & 24);
#pragma unroll
    for (int step = 1; step < 8; step *= 2) {
      highest = fmaxf(highest, __shfl_xor_sync(lanes, highest, step));
      lowest = fminf(lowest, __shfl_xor_sync(lanes, lowest, step));
    }
    if (lane_id() % 8 == 0) {
      a.ranges[row * ceil_div(a.n, kRangeLogits) + n / kRangeLogits] = {highest, lowest};
    }
  }
}

}  // namespace gptoss::cuda
