// What those who look inside a model ask for beside what a step computes anyway: attention's
// shares, a block per token and query head, and vectors that are added to the residual stream.
#include "cuda/kernels/block.cuh"
#include "cuda/kernels/pages.cuh"

namespace gptoss::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxHeadDim = 256;

// q . k for the key of a position.
template <class KvT>
__device__ __forceinline__ float dot(const float* query, const KvLayer& kv, int slot, int position,
                                     int head) {
  using Element = typename Stored<KvT>::Element;
  const int dim = kv.head_dim;
  const PageOf<Element> page(kv, slot, position);
  const int row = position % kKernelPageTokens;
  const Element* const key = page.keys(head) + row * dim;
  float sum = 0.0f;
  if constexpr (sizeof(Element) == 1) {
    for (int d = 0; d < dim; ++d) sum += query[d] * static_cast<float>(key[d]);
    sum *= page.key_scales(head)[row];
  } else {
    for (int d = 0; d < dim; ++d) sum += query[d] * Stored<KvT>::load(key + d);
  }
  return sum;
}

template <class KvT>
__device__ __forceinline__ void attention_shares(const AttentionSharesArgs& a) {
  take_turn();
  __shared__ float query[kMaxHeadDim];
  __shared__ float highest_parts[kWarps], sum_parts[kWarps];
  const auto index = static_cast<int>(blockIdx.x);
  if (index >= a.n_pairs) return;
  const int t = (a.first_pair + index) / a.heads;
  const int head = (a.first_pair + index) % a.heads;
  const int kv_head = head / (a.heads / a.kv.kv_heads);
  const int dim = a.kv.head_dim;
  const int position = a.step.positions[t];
  const int slot = a.step.token_slots[t];
  const int first = a.window > 0 ? max(0, position - a.window + 1) : 0;
  const int column_0 = a.window > 0 ? position - a.keys + 1 : 0;
  const auto thread = static_cast<int>(threadIdx.x);
  const float* const q =
      a.qkv + static_cast<int64_t>(t) * a.qkv_stride + static_cast<int64_t>(head) * dim;
  for (int d = thread; d < dim; d += kThreads) query[d] = q[d];
  __syncthreads();

  // A thread has the same columns in every pass, and reads back what it wrote alone.
  float* const out = a.out + static_cast<int64_t>(index) * (a.keys + 1);
  const float sink = a.sinks[head];
  float highest = sink;
  for (int column = thread; column < a.keys; column += kThreads) {
    const int key = column_0 + column;
    float score = -INFINITY;
    if (key >= first && key <= position) {
      score = dot<KvT>(query, a.kv, slot, key, kv_head) * a.scale;
    }
    out[column] = score;
    highest = fmaxf(highest, score);
  }
  highest = warp_max(highest);
  if (lane_id() == 0) highest_parts[warp_id()] = highest;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kWarps; ++i) highest = fmaxf(highest, highest_parts[i]);

  float sum = 0.0f;
  for (int column = thread; column < a.keys; column += kThreads) {
    const float weight = expf(out[column] - highest);
    out[column] = weight;
    sum += weight;
  }
  const float sink_weight = expf(sink - highest);
  const float total = block_sum<kThreads>(sum, sum_parts) + sink_weight;
  for (int column = thread; column < a.keys; column += kThreads) out[column] /= total;
  if (thread == 0) out[a.keys] = sink_weight / total;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
    gptoss_attention_shares_f32(const __grid_constant__ AttentionSharesArgs a) {
  attention_shares<float>(a);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    gptoss_attention_shares_f16(const __grid_constant__ AttentionSharesArgs a) {
  attention_shares<F16>(a);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    gptoss_attention_shares_int8(const __grid_constant__ AttentionSharesArgs a) {
  attention_shares<Int8>(a);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    gptoss_steer(const __grid_constant__ SteerArgs a) {
  take_turn();
  const int row = blockIdx.x;
  const int i = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  if (row >= a.rows || i >= a.n) return;
  a.x[static_cast<int64_t>(row) * a.n + i] += a.vector[i];
}

}  // namespace gptoss::cuda
