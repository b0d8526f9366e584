// Rotary embedding of queries and keys; keys and values go into their pages.
//
// A tensor core multiplies values that a token does not see by 0, and 0 times infinity or NaN would
// reach it all the same. So where a value is not finite, the key tells of it instead: scores are
// left out where they are not seen.
#include "block.cuh"
#include "pages.cuh"

namespace gptoss::cuda {
namespace {

constexpr int kThreads = 256;

struct Pair {
  float first, second;
};

__device__ __forceinline__ Pair rotate(const float* x, int i, int half, const float* rotation) {
  const float cos = rotation[i];
  const float sin = rotation[half + i];
  const float first = x[i];
  const float second = x[half + i];
  return {first * cos - second * sin, second * cos + first * sin};
}

template <class T>
__device__ __forceinline__ void rope_kv(const RopeKvArgs& a) {
  using Element = typename Stored<T>::Element;
  const int t = blockIdx.x;
  if (t >= a.step.n_tokens) return;
  const int dim = a.kv.head_dim;
  const int half = dim / 2;
  const int position = a.step.positions[t];
  const float* const rotation = a.rotations + static_cast<int64_t>(position) * dim;
  float* const q = a.qkv + static_cast<int64_t>(t) * a.qkv_stride;
  const float* const k = q + a.heads * dim;
  const float* const v = k + a.kv.kv_heads * dim;
  for (int i = threadIdx.x; i < a.heads * half; i += kThreads) {
    float* const head = q + i / half * dim;
    const Pair pair = rotate(head, i % half, half, rotation);
    head[i % half] = pair.first;
    head[half + i % half] = pair.second;
  }
  const PageOf<Element> page(a.kv, a.step.token_slots[t], position);
  const int row = position % kKernelPageTokens;
  for (int head = warp_id(); head < a.kv.kv_heads; head += kThreads / 32) {
    Element* const keys = page.keys(head) + row * dim;
    Element* const values = page.values(head) + row * dim;
    bool is_odd = false;
    for (int i = lane_id(); i < dim; i += 32) {
      Stored<T>::store(values + i, v[head * dim + i]);
      is_odd |= !(fabsf(Stored<T>::load(values + i)) < INFINITY);
    }
    is_odd = __any_sync(kAllLanes, is_odd) != 0;
    for (int i = lane_id(); is_odd && i < dim; i += 32) Stored<T>::store(values + i, 0.0f);
    for (int i = lane_id(); i < half; i += 32) {
      const Pair pair = rotate(k + head * dim, i, half, rotation);
      Stored<T>::store(keys + i, is_odd ? NAN : pair.first);
      Stored<T>::store(keys + half + i, is_odd ? NAN : pair.second);
    }
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
    gptoss_rope_kv_f32(const __grid_constant__ RopeKvArgs a) {
  rope_kv<float>(a);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    gptoss_rope_kv_f16(const __grid_constant__ RopeKvArgs a) {
  rope_kv<F16>(a);
}

}  // namespace gptoss::cuda
