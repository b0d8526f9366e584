// Banded attention, plainly: a block per token and KV head, a warp per query head. The softmax of
// each page of 64 keys is carried alone and joins that of the pages before it, so the order of sums
// depends on positions only.
#include "cuda/kernels/block.cuh"
#include "cuda/kernels/pages.cuh"

namespace gptoss::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxHeadDim = 256;
constexpr int kLaneDims = kMaxHeadDim / 32;

template <class KvT, class OutT>
__device__ __forceinline__ void attention(const AttentionArgs& a) {
  using Cache = Stored<KvT>;
  using Element = typename Cache::Element;
  take_turn();
  __shared__ float queries[kWarps][kMaxHeadDim];
  const int t = blockIdx.x;
  const int kv_head = blockIdx.y;
  if (t >= a.step.n_tokens) return;
  const int dim = a.kv.head_dim;
  const int group = a.heads / a.kv.kv_heads;
  const int position = a.step.positions[t];
  const int slot = a.step.token_slots[t];
  const int first = a.window > 0 ? max(0, position - a.window + 1) : 0;
  const int lane = lane_id();
  float* const query = queries[warp_id()];

  for (int i = warp_id(); i < group; i += kWarps) {
    const int head = kv_head * group + i;
    const float* const q =
        a.qkv + static_cast<int64_t>(t) * a.qkv_stride + static_cast<int64_t>(head) * dim;
    __syncwarp();
    for (int d = lane; d < dim; d += 32) query[d] = q[d];
    __syncwarp();

    // The sink has weight 1 at its own maximum and no value.
    float highest = a.sinks[head];
    float sum = 1.0f;
    float out[kLaneDims] = {};
    for (int begin = first / kKernelPageTokens * kKernelPageTokens; begin <= position;
         begin += kKernelPageTokens) {
      const PageOf<Element> page(a.kv, slot, begin);
      const Element* const keys = page.keys(kv_head);
      const Element* const values = page.values(kv_head);
      const int from = max(first - begin, 0);
      const int to = min(position - begin + 1, kKernelPageTokens);
      float scores[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int key = lane + 32 * j;
        scores[j] = -INFINITY;
        if (key < from || key >= to) continue;
        float score = 0.0f;
        for (int d = 0; d < dim; ++d) score += query[d] * Cache::load(keys + key * dim + d);
        scores[j] = score * a.scale;
      }
      const float top = fmaxf(highest, warp_max(fmaxf(scores[0], scores[1])));
      const float weights[2] = {expf(scores[0] - top), expf(scores[1] - top)};
      float part[kLaneDims] = {};
      for (int key = from; key < to; ++key) {
        const float weight = __shfl_sync(kAllLanes, key < 32 ? weights[0] : weights[1], key % 32);
#pragma unroll
        for (int j = 0; j < kLaneDims; ++j) {
          const int d = lane + 32 * j;
          if (d < dim) part[j] += weight * Cache::load(values + key * dim + d);
        }
      }
      const float shrink = expf(highest - top);
      highest = top;
      sum = sum * shrink + warp_sum(weights[0] + weights[1]);
#pragma unroll
      for (int j = 0; j < kLaneDims; ++j) out[j] = out[j] * shrink + part[j];
    }
    using OutElement = typename Stored<OutT>::Element;
    auto* const to =
        static_cast<OutElement*>(a.out) + (static_cast<int64_t>(t) * a.heads + head) * dim;
#pragma unroll
    for (int j = 0; j < kLaneDims; ++j) {
      const int d = lane + 32 * j;
      if (d < dim) Stored<OutT>::store(to + d, out[j] / sum);
    }
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads, 2)
    gptoss_attention_f32(const __grid_constant__ AttentionArgs a) {
  attention<float, float>(a);
}

extern "C" __global__ void __launch_bounds__(kThreads, 2)
    gptoss_attention_f16(const __grid_constant__ AttentionArgs a) {
  attention<F16, Bf16>(a);
}

}  // namespace gptoss::cuda
