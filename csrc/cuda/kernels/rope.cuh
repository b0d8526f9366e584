// Rotary embedding, and how a token's key and value go into their page.
//
// A tensor core multiplies values that a token does not see by 0, and 0 times infinity or NaN would
// reach it all the same. So where a value is not finite, the key tells of it instead: scores are
// left out where they are not seen.
#pragma once

#include "cuda/kernels/block.cuh"
#include "cuda/kernels/pages.cuh"

namespace gptoss::cuda {

struct Pair {
  float first, second;
};

// Roundings are spelled out, so that all kernels have the same.
__device__ __forceinline__ Pair rotate(float first, float second, float cos, float sin) {
  return {__fmaf_rn(first, cos, -__fmul_rn(second, sin)),
          __fmaf_rn(second, cos, __fmul_rn(first, sin))};
}
__device__ __forceinline__ Pair rotate(const float* x, int i, int half, const float* rotation) {
  const float cos = rotation[i];
  const float sin = rotation[half + i];
  return rotate(x[i], x[half + i], cos, sin);
}

// A token's key, rotated, and value of one head; a warp together.
template <class T, class Element = typename Stored<T>::Element>
__device__ __forceinline__ void store_head(const PageOf<Element>& page, int head, int row, int dim,
                                           const float* k, const float* v, const float* rotation) {
  Element* const keys = page.keys(head) + row * dim;
  Element* const values = page.values(head) + row * dim;
  const int half = dim / 2;
  bool is_odd = false;
  for (int i = lane_id(); i < dim; i += 32) {
    Stored<T>::store(values + i, v[i]);
    is_odd |= !(fabsf(Stored<T>::load(values + i)) < INFINITY);
  }
  is_odd = __any_sync(kAllLanes, is_odd) != 0;
  for (int i = lane_id(); is_odd && i < dim; i += 32) Stored<T>::store(values + i, 0.0f);
  for (int i = lane_id(); i < half; i += 32) {
    const Pair pair = rotate(k, i, half, rotation);
    Stored<T>::store(keys + i, is_odd ? NAN : pair.first);
    Stored<T>::store(keys + half + i, is_odd ? NAN : pair.second);
  }
}

// Of numbers whose largest is this.
struct Codes {
  float scale, factor;

  __device__ __forceinline__ explicit Codes(float largest)
      : scale(__fdiv_rn(largest, 127.0f)),
        factor(largest > 1e-30f ? __fdiv_rn(127.0f, largest) : 0.0f) {}
  __device__ __forceinline__ int8_t operator()(float x) const {
    return static_cast<int8_t>(__float2int_rn(__fmul_rn(x, factor)));
  }
};

template <>
__device__ __forceinline__ void store_head<Int8>(const PageOf<int8_t>& page, int head, int row,
                                                 int dim, const float* k, const float* v,
                                                 const float* rotation) {
  int8_t* const keys = page.keys(head) + row * dim;
  int8_t* const values = page.values(head) + row * dim;
  const int half = dim / 2;
  float key_largest = 0.0f;
  float value_largest = 0.0f;
  bool is_odd = false;
  for (int i = lane_id(); i < half; i += 32) {
    const Pair pair = rotate(k, i, half, rotation);
    key_largest = fmaxf(key_largest, fmaxf(fabsf(pair.first), fabsf(pair.second)));
    value_largest = fmaxf(value_largest, fmaxf(fabsf(v[i]), fabsf(v[half + i])));
    is_odd |= !(fabsf(pair.first) < INFINITY) || !(fabsf(pair.second) < INFINITY) ||
              !(fabsf(v[i]) < INFINITY) || !(fabsf(v[half + i]) < INFINITY);
  }
  is_odd = __any_sync(kAllLanes, is_odd) != 0;
  const Codes key_codes(is_odd ? 0.0f : warp_max(key_largest));
  const Codes value_codes(is_odd ? 0.0f : warp_max(value_largest));
  for (int i = lane_id(); i < half; i += 32) {
    const Pair pair = rotate(k, i, half, rotation);
    keys[i] = is_odd ? 0 : key_codes(pair.first);
    keys[half + i] = is_odd ? 0 : key_codes(pair.second);
    values[i] = is_odd ? 0 : value_codes(v[i]);
    values[half + i] = is_odd ? 0 : value_codes(v[half + i]);
  }
  if (lane_id() == 0) {
    page.key_scales(head)[row] = is_odd ? NAN : key_codes.scale;
    page.value_scales(head)[row] = value_codes.scale;
  }
}

}  // namespace gptoss::cuda
