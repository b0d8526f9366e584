// What the experts' matrix products share: which expert a row or a tile belongs to, and SwiGLU.
#pragma once

#include "cuda/kernels/block.cuh"

namespace gptoss::cuda {

struct ExpertTile {
  int expert;      // -1: none
  int begin, end;  // sorted rows
};

// Cuts each expert's rows, [offsets[e], offsets[e + 1]), into tiles of kTileRows and returns tile
// `index` of all; with 1, that is the expert of a row. The whole warp calls with the same index.
template <int kTileRows>
__device__ __forceinline__ ExpertTile expert_tile(const int32_t* offsets, int n_experts,
                                                  int index) {
  const int lane = lane_id();
  int before = 0;
  for (int first = 0; first < n_experts; first += 32) {
    const int expert = first + lane;
    int begin = 0, end = 0;
    if (expert < n_experts) {
      begin = offsets[expert];
      end = offsets[expert + 1];
    }
    const int tiles = (end - begin + kTileRows - 1) / kTileRows;
    int upto = tiles;  // of this expert and those of the lanes below
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int below = __shfl_up_sync(kAllLanes, upto, distance);
      if (lane >= distance) upto += below;
    }
    const uint32_t reached = __ballot_sync(kAllLanes, before + upto > index);
    if (reached != 0) {
      const int owner = __ffs(static_cast<int>(reached)) - 1;
      const int row = begin + (index - before - (upto - tiles)) * kTileRows;
      const int row_end = min(row + kTileRows, end);
      return {first + owner, __shfl_sync(kAllLanes, row, owner),
              __shfl_sync(kAllLanes, row_end, owner)};
    }
    before += __shfl_sync(kAllLanes, upto, 31);
  }
  return {-1, 0, 0};
}

// h of one gate and one up (ops/swiglu.h). A NaN stays one.
__device__ __forceinline__ float swiglu(float gate, float up, float limit) {
  const float g = gate > limit ? limit : gate;
  const float u = up > limit ? limit : (up < -limit ? -limit : up);
  return g / (1.0f + expf(-1.702f * g)) * (u + 1.0f);
}

}  // namespace gptoss::cuda
