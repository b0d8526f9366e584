// The router's choice, the sort of its pairs, and the sum of the experts' outputs.
//
// A row of the router is one sum for all threads of a block: each of its own numbers, then over the
// lanes of a warp, then over warps, whichever block has the expert.
#include "cuda/kernels/block.cuh"

namespace gptoss::cuda {
namespace {

constexpr int kTopkThreads = 128;
constexpr int kRouteThreads = 256;
constexpr int kRowThreads = 512;  // for a token
constexpr int kSortThreads = 1024;
constexpr int kSortWarps = kSortThreads / 32;
constexpr int kCombineThreads = 256;

// A warp chooses: round by round the highest logit behind the one that was chosen last, in the
// order of ranks and, where they are equal, of indices. All lanes know it.
__device__ __forceinline__ void choose_experts(const float* logits, int n_experts, int n_active,
                                               int32_t* experts, float* weights) {
  const int lane = lane_id();
  uint32_t last_rank = 0xffffffffu;
  int last_expert = -1;
  float highest = 0.0f;
  float sum = 0.0f;
  for (int i = 0; i < n_active; ++i) {
    uint32_t rank = 0;
    int expert = n_experts;
    for (int e = lane; e < n_experts; e += 32) {
      const uint32_t r = rank_of(logits[e]);
      const bool behind = r < last_rank || (r == last_rank && e > last_expert);
      if (behind && (expert == n_experts || r > rank)) {
        rank = r;
        expert = e;
      }
    }
    last_rank = __reduce_max_sync(kAllLanes, rank);
    last_expert = __reduce_min_sync(kAllLanes, rank == last_rank ? expert : n_experts);
    const float logit = logits[last_expert];
    if (i == 0) highest = logit;
    const float weight = expf(logit - highest);
    sum += weight;
    if (lane == 0) {
      experts[i] = last_expert;
      weights[i] = weight;
    }
  }
  if (lane == 0) {
    for (int i = 0; i < n_active; ++i) weights[i] /= sum;
  }
}

// Of kRouteThreads threads each has every kRouteThreads-th chunk of a row: 4 numbers, or one where
// rows are not whole chunks. f(where it begins, chunk) for all of its own.
template <class F>
__device__ __forceinline__ void for_own_chunks(int n, F&& f) {
  if (n % 4 == 0) {
#pragma unroll 3
    for (int i = 4 * static_cast<int>(threadIdx.x); i < n; i += 4 * kRouteThreads) f.four(i);
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kRouteThreads) f.one(i);
  }
}

// row = x, and the sum of squares of this thread's numbers.
struct LoadRow {
  const float* x;
  float* row;
  float sum = 0.0f;

  __device__ __forceinline__ void one(int i) {
    row[i] = x[i];
    sum = __fmaf_rn(row[i], row[i], sum);
  }
  __device__ __forceinline__ void four(int i) {
    const float4 z = *reinterpret_cast<const float4*>(x + i);
    *reinterpret_cast<float4*>(row + i) = z;
    sum = __fmaf_rn(z.x, z.x, sum);
    sum = __fmaf_rn(z.y, z.y, sum);
    sum = __fmaf_rn(z.z, z.z, sum);
    sum = __fmaf_rn(z.w, z.w, sum);
  }
};
// row *= factor * weight
struct ScaleRow {
  const float* weight;
  float* row;
  float factor;

  __device__ __forceinline__ void one(int i) { row[i] = row[i] * factor * weight[i]; }
  __device__ __forceinline__ void four(int i) {
    const float4 w = *reinterpret_cast<const float4*>(weight + i);
    float4& z = *reinterpret_cast<float4*>(row + i);
    z = {z.x * factor * w.x, z.y * factor * w.y, z.z * factor * w.z, z.w * factor * w.w};
  }
};
// y = row, rounded
template <class T>
struct StoreRow {
  const float* row;
  typename Stored<T>::Element* y;

  __device__ __forceinline__ void one(int i) { Stored<T>::store(y + i, row[i]); }
  __device__ __forceinline__ void four(int i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) one(i + j);
  }
};
// This thread's part of row . w, of bf16
struct DotRow {
  const float* row;
  const uint16_t* w;
  float sum = 0.0f;

  __device__ __forceinline__ void one(int i) { sum = __fmaf_rn(row[i], from_bf16(w[i]), sum); }
  __device__ __forceinline__ void four(int i) {
    const uint2 bits = __ldg(reinterpret_cast<const uint2*>(w + i));
    const float4 z = *reinterpret_cast<const float4*>(row + i);
    sum = __fmaf_rn(z.x, __uint_as_float(bits.x << 16), sum);
    sum = __fmaf_rn(z.y, __uint_as_float(bits.x & 0xffff0000u), sum);
    sum = __fmaf_rn(z.z, __uint_as_float(bits.y << 16), sum);
    sum = __fmaf_rn(z.w, __uint_as_float(bits.y & 0xffff0000u), sum);
  }
};

// Ahead of LoadRow and DotRow.
template <class T>
struct PrefetchRow {
  const T* from;

  __device__ __forceinline__ void one(int i) { prefetch(from + i); }
  __device__ __forceinline__ void four(int i) { prefetch(from + i); }
};

// Of few pairs, by the block: those before a pair, and those before an expert, are counted.
__device__ __forceinline__ void sort_few_pairs(const RouteArgs& a) {
  const int n_pairs = a.tokens * a.n_active;
  const auto threads = static_cast<int>(blockDim.x);
  for (int i = threadIdx.x; i < n_pairs; i += threads) {
    const int expert = a.experts[i];
    int place = 0;
    for (int j = 0; j < n_pairs; ++j) {
      const int other = a.experts[j];
      place += other < expert || (other == expert && j < i) ? 1 : 0;
    }
    a.pairs[place] = i;
  }
  for (int e = threadIdx.x; e <= a.n_experts; e += threads) {
    int before = 0;
    for (int j = 0; j < n_pairs; ++j) before += a.experts[j] < e ? 1 : 0;
    a.offsets[e] = before;
  }
}

template <class T>
__device__ __forceinline__ void route(const RouteArgs& a) {
  constexpr int kWarps = kRouteThreads / 32;
  constexpr int kTogether = 8;  // experts
  extern __shared__ __align__(16) float row[];
  __shared__ float parts[kWarps];
  __shared__ float sums[kTogether][kWarps];
  const int64_t t = blockIdx.x;
  if constexpr (kOverlapsGrids) {  // the first row of the router that this block has
    for_own_chunks(a.hidden,
                   PrefetchRow<uint16_t>{a.router + static_cast<int64_t>(blockIdx.y) * a.hidden});
    for_own_chunks(a.hidden, PrefetchRow<float>{a.weight});
  }
  take_turn();
  if (t >= a.tokens) return;
  LoadRow load{a.x + t * a.hidden, row};
  for_own_chunks(a.hidden, load);
  const float squares = block_sum<kRouteThreads>(load.sum, parts);
  const float factor = 1.0f / sqrtf(squares / static_cast<float>(a.hidden) + a.eps);
  for_own_chunks(a.hidden, ScaleRow{a.weight, row, factor});
  if (blockIdx.y == 0) {
    auto* const y = static_cast<typename Stored<T>::Element*>(a.normed) + t * a.hidden;
    for_own_chunks(a.hidden, StoreRow<T>{row, y});
  }
  // Threads have the same numbers of all rows, so nothing waits but for sums over them.
  const int step = static_cast<int>(gridDim.y);
  for (int first = static_cast<int>(blockIdx.y); first < a.n_experts; first += kTogether * step) {
#pragma unroll 1
    for (int i = 0; i < kTogether && first + i * step < a.n_experts; ++i) {
      DotRow dot{row, a.router + static_cast<int64_t>(first + i * step) * a.hidden};
      for_own_chunks(a.hidden, dot);
      const float sum = warp_sum(dot.sum);
      if (lane_id() == 0) sums[i][warp_id()] = sum;
    }
    __syncthreads();
    const auto i = static_cast<int>(threadIdx.x);
    if (i < kTogether && first + i * step < a.n_experts) {
      float logit = sums[i][0];
#pragma unroll
      for (int warp = 1; warp < kWarps; ++warp) logit += sums[i][warp];
      a.logits[t * a.n_experts + first + i * step] = logit + a.bias[first + i * step];
    }
    __syncthreads();
  }
  if (gridDim.y > 1 && !is_last_of(a.arrived + t, static_cast<int>(gridDim.y))) return;
  if (warp_id() == 0) {
    choose_experts(a.logits + t * a.n_experts, a.n_experts, a.n_active, a.experts + t * a.n_active,
                   a.weights + t * a.n_active);
  }
  if (a.pairs == nullptr) return;
  if (a.tokens == 1) {
    __syncthreads();
  } else if (!is_last_of(a.arrived + a.tokens, a.tokens)) {
    return;
  }
  sort_few_pairs(a);
}

// In f32: the row waits in shared memory for its norm; each thread has its own numbers.
__device__ __forceinline__ void combine_norm_f32(const CombineNormArgs& a) {
  extern __shared__ __align__(16) float row[];
  __shared__ float parts[kRowThreads / 32];
  const CombineArgs& c = a.combine;
  const int64_t t = blockIdx.x;
  if (t >= c.tokens) return;
  float sum = 0.0f;
  for (int i = threadIdx.x; i < c.n; i += kRowThreads) {
    row[i] = combined(c, t, i);
    c.x[t * c.n + i] = row[i];
    sum += row[i] * row[i];
  }
  sum = block_sum<kRowThreads>(sum, parts);
  const float rms = sqrtf(sum / static_cast<float>(c.n) + a.eps);
  auto* const y = static_cast<float*>(a.y) + t * c.n;
  for (int i = threadIdx.x; i < c.n; i += kRowThreads) y[i] = row[i] / rms * a.weight[i];
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kTopkThreads)
    gptoss_route_topk(const __grid_constant__ RouteTopkArgs a) {
  take_turn();
  const int t = static_cast<int>(blockIdx.x) * (kTopkThreads / 32) + warp_id();
  if (t >= a.tokens) return;
  choose_experts(a.logits + static_cast<int64_t>(t) * a.n_experts, a.n_experts, a.n_active,
                 a.experts + static_cast<int64_t>(t) * a.n_active,
                 a.weights + static_cast<int64_t>(t) * a.n_active);
}

extern "C" __global__ void __launch_bounds__(kRouteThreads, 4)
    gptoss_route_f32(const __grid_constant__ RouteArgs a) {
  route<float>(a);
}
extern "C" __global__ void __launch_bounds__(kRouteThreads, 4)
    gptoss_route_bf16(const __grid_constant__ RouteArgs a) {
  route<Bf16>(a);
}

// Each warp has a stretch of the pairs. It counts them by expert; a scan over experts and warps
// says where the first of each goes; a second run over the stretch puts them there in order.
extern "C" __global__ void __launch_bounds__(kSortThreads)
    gptoss_expert_sort(const __grid_constant__ ExpertSortArgs a) {
  take_turn();
  __shared__ int32_t places[kSortWarps][kMaxExperts];
  __shared__ int32_t warp_totals[kMaxExperts / 32];
  const int lane = lane_id();
  const int warp = warp_id();
  const int stretch = (a.n_pairs + kSortThreads - 1) / kSortThreads * 32;
  const int n_warps = (a.n_pairs + stretch - 1) / stretch;  // that have some
  for (int e = lane; warp < n_warps && e < a.n_experts; e += 32) places[warp][e] = 0;
  __syncwarp();

  const int begin = min(warp * stretch, a.n_pairs);
  const int end = min(begin + stretch, a.n_pairs);
  // f(pair, expert, its rank among equal ones of these lanes, how many they are)
  const auto for_each_pair = [&](auto&& f) {
    for (int first = begin; first < end; first += 32) {
      const int pair = first + lane;
      const int expert = pair < end ? a.experts[pair] : -1;
      const unsigned equal = __match_any_sync(kAllLanes, expert);
      const int rank = __popc(equal & ((1u << lane) - 1));
      if (expert >= 0) f(pair, expert, rank, __popc(equal));
      __syncwarp();
    }
  };
  for_each_pair([&](int, int expert, int rank, int count) {
    if (rank == 0) places[warp][expert] += count;
  });
  __syncthreads();

  const int e = threadIdx.x;
  int total = 0;
  if (e < a.n_experts) {
    for (int w = 0; w < n_warps; ++w) total += places[w][e];
  }
  int sum = total;  // of this warp's experts, up to this one
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(kAllLanes, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31 && warp < kMaxExperts / 32) warp_totals[warp] = sum;
  __syncthreads();
  if (e < a.n_experts) {
    int place = sum - total;
    for (int w = 0; w < warp; ++w) place += warp_totals[w];
    a.offsets[e] = place;
    for (int w = 0; w < n_warps; ++w) {
      const int count = places[w][e];
      places[w][e] = place;
      place += count;
    }
    if (e == a.n_experts - 1) a.offsets[a.n_experts] = place;
  }
  __syncthreads();

  for (int first = begin; first < end; first += 32) {
    const int pair = first + lane;
    const int expert = pair < end ? a.experts[pair] : -1;
    const unsigned equal = __match_any_sync(kAllLanes, expert);
    const int rank = __popc(equal & ((1u << lane) - 1));
    const int place = expert >= 0 ? places[warp][expert] : 0;
    __syncwarp();
    if (expert >= 0) {
      a.pairs[place + rank] = pair;
      if (rank == 0) places[warp][expert] = place + __popc(equal);
    }
    __syncwarp();
  }
}

extern "C" __global__ void __launch_bounds__(kCombineThreads)
    gptoss_combine(const __grid_constant__ CombineArgs a) {
  take_turn();
  const int64_t t = blockIdx.x;
  const int i = static_cast<int>(blockIdx.y) * kCombineThreads + static_cast<int>(threadIdx.x);
  if (t >= a.tokens || i >= a.n) return;
  a.x[t * a.n + i] = combined(a, t, i);
}

extern "C" __global__ void __launch_bounds__(kRowThreads)
    gptoss_combine_norm_f32(const __grid_constant__ CombineNormArgs a) {
  take_turn();
  combine_norm_f32(a);
}
extern "C" __global__ void __launch_bounds__(kRowThreads)
    gptoss_combine_norm_bf16(const __grid_constant__ CombineNormArgs a) {
  take_turn();
  const CombineArgs& c = a.combine;
  const int64_t t = blockIdx.x;
  if (t >= c.tokens) return;
  begin_norm<kRowThreads>(c.n, a.weight, static_cast<uint16_t*>(a.y) + t * c.n, a.squares + t,
                          [&](int i) { return c.x[t * c.n + i] = combined(c, t, i); });
}

}  // namespace gptoss::cuda
