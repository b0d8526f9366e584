// Matrices in q8_0 as the CPU has them (core/q8.h): a row's blocks of 32 in groups of four, of which
// the even elements come before the odd ones.
#pragma once

#include "cuda/kernels/block.cuh"

namespace gptoss::cuda {

// Where, in a row of k columns, the code of `column` is.
__device__ __forceinline__ int q8_0_place(int column, int k) {
  const int block = column / 32, first = block / 4 * 4;
  const int together = min(4, k / 32 - first);
  return first * 32 + (block - first + column % 2 * together) * 16 + column % 32 / 2;
}

struct Q8Row {
  const int8_t* codes;     // (k)
  const uint16_t* scales;  // (k / 32) f16
  int k;

  __device__ __forceinline__ Q8Row(const void* all_codes, const void* all_scales, int64_t row,
                                   int columns)
      : codes(static_cast<const int8_t*>(all_codes) + row * columns),
        scales(static_cast<const uint16_t*>(all_scales) + row * (columns / 32)),
        k(columns) {}
  // Exact in f32.
  __device__ __forceinline__ float operator[](int column) const {
    return static_cast<float>(codes[q8_0_place(column, k)]) * from_f16(scales[column / 32]);
  }
};

}  // namespace gptoss::cuda
