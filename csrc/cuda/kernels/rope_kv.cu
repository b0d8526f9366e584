// Rotary embedding of queries and keys; keys and values go into their pages.
#include "cuda/kernels/rope.cuh"

namespace gptoss::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__device__ __forceinline__ void rope_kv(const RopeKvArgs& a) {
  using Element = typename Stored<T>::Element;
  take_turn();
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
    store_head<T>(page, head, row, dim, k + head * dim, v + head * dim, rotation);
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads, 2)
    gptoss_rope_kv_f32(const __grid_constant__ RopeKvArgs a) {
  rope_kv<float>(a);
}

extern "C" __global__ void __launch_bounds__(kThreads, 2)
    gptoss_rope_kv_f16(const __grid_constant__ RopeKvArgs a) {
  rope_kv<F16>(a);
}

extern "C" __global__ void __launch_bounds__(kThreads, 2)
    gptoss_rope_kv_int8(const __grid_constant__ RopeKvArgs a) {
  rope_kv<Int8>(a);
}

}  // namespace gptoss::cuda
