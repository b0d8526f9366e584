// The residual stream's beginning, RMSNorm, and what is looked at in its end.
#include "cuda/kernels/q8_0.cuh"

namespace gptoss::cuda {
namespace {

constexpr int kThreads = 256;

// A slot that has no token yet can be asked for one where a step was queued behind one that failed:
// its results are thrown away, but it must not read outside the embedding.
__device__ __forceinline__ int token_of(const Step& step, int t) {
  const int32_t token = step.tokens[t];
  if (token >= 0) return token;
  const int32_t last = step.slots[step.token_slots[t]].last_token;
  return last >= 0 ? last : 0;
}

// x_of(i): number i of the token's row
template <class XOf>
__device__ __forceinline__ void embed(const EmbedArgs& a, XOf x_of) {
  const int64_t t = blockIdx.x;
  float* const x = a.x + t * a.hidden;
  if (a.weight == nullptr) {
    for (int i = threadIdx.x; i < a.hidden; i += kThreads) x[i] = x_of(i);
    return;
  }
  begin_norm<kThreads>(a.hidden, a.weight, static_cast<uint16_t*>(a.y) + t * a.hidden,
                       a.squares + t, [&](int i) { return x[i] = x_of(i); });
}

__device__ __forceinline__ const float* norm_x(const RmsNormArgs& a, int64_t row) {
  return a.x + (a.row_index == nullptr ? row : a.row_index[row]) * a.n;
}

__device__ __forceinline__ void rms_norm_f32(const RmsNormArgs& a) {
  __shared__ float parts[kThreads / 32];
  const int64_t row = blockIdx.x;
  if (row >= a.rows) return;
  const float* const x = norm_x(a, row);
  float sum = 0.0f;
  for (int i = threadIdx.x; i < a.n; i += kThreads) sum += x[i] * x[i];
  sum = block_sum<kThreads>(sum, parts);
  const float rms = sqrtf(sum / static_cast<float>(a.n) + a.eps);
  auto* const y = static_cast<float*>(a.y) + row * a.n;
  for (int i = threadIdx.x; i < a.n; i += kThreads) y[i] = x[i] / rms * a.weight[i];
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
    gptoss_embed(const __grid_constant__ EmbedArgs a) {
  take_turn();
  const int t = blockIdx.x;
  if (t >= a.step.n_tokens) return;
  const uint16_t* const row = static_cast<const uint16_t*>(a.embedding) +
                              static_cast<int64_t>(token_of(a.step, t)) * a.hidden;
  embed(a, [&](int i) { return from_bf16(row[i]); });
}

extern "C" __global__ void __launch_bounds__(kThreads)
    gptoss_embed_q8_0(const __grid_constant__ EmbedArgs a) {
  take_turn();
  const int t = blockIdx.x;
  if (t >= a.step.n_tokens) return;
  const Q8Row row(a.embedding, a.scales, token_of(a.step, t), a.hidden);
  embed(a, [&](int i) { return row[i]; });
}

extern "C" __global__ void __launch_bounds__(kThreads)
    gptoss_rms_norm_f32(const __grid_constant__ RmsNormArgs a) {
  take_turn();
  rms_norm_f32(a);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    gptoss_rms_norm_bf16(const __grid_constant__ RmsNormArgs a) {
  take_turn();
  const int64_t row = blockIdx.x;
  if (row >= a.rows) return;
  const float* const x = norm_x(a, row);
  begin_norm<kThreads>(a.n, a.weight, static_cast<uint16_t*>(a.y) + row * a.n, a.squares + row,
                       [&](int i) { return x[i]; });
}

// A warp looks at every 32nd token, up to the first that is not finite.
extern "C" __global__ void __launch_bounds__(1024)
    gptoss_finite(const __grid_constant__ FiniteArgs a) {
  take_turn();
  constexpr uint32_t kInfinity = 0x7f800000u;
  __shared__ int firsts[32];
  const int s = blockIdx.x;
  if (s >= a.step.n_sequences) return;
  const int begin = a.step.sequence_offsets[s];
  const int count = a.step.sequence_offsets[s + 1] - begin;
  int first = count;
  for (int t = warp_id(); t < count; t += 32) {
    const auto* const x =
        reinterpret_cast<const uint32_t*>(a.x) + static_cast<int64_t>(begin + t) * a.hidden;
    bool odd = false;
#pragma unroll 8
    for (int i = lane_id(); i < a.hidden; i += 32) odd |= (x[i] & ~0x80000000u) >= kInfinity;
    if (__any_sync(kAllLanes, odd) != 0) {
      first = t;
      break;
    }
  }
  if (lane_id() == 0) firsts[warp_id()] = first;
  __syncthreads();
  first = __reduce_min_sync(kAllLanes, firsts[lane_id()]);
  if (threadIdx.x == 0) a.finite[s] = first;
}

}  // namespace gptoss::cuda
