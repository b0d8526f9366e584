// The router's choice, the sort of its pairs, and the sum of the experts' outputs.
#include "block.cuh"

namespace gptoss::cuda {
namespace {

constexpr int kRouteThreads = 128;
constexpr int kSortThreads = 1024;
constexpr int kSortWarps = kSortThreads / 32;
constexpr int kCombineThreads = 256;

}  // namespace

extern "C" __global__ void __launch_bounds__(kRouteThreads)
    gptoss_route_topk(const __grid_constant__ RouteTopkArgs a) {
  const int t = static_cast<int>(blockIdx.x) * (kRouteThreads / 32) + warp_id();
  if (t >= a.tokens) return;
  const int lane = lane_id();
  const float* const logits = a.logits + static_cast<int64_t>(t) * a.n_experts;
  int32_t* const experts = a.experts + static_cast<int64_t>(t) * a.n_active;
  float* const weights = a.weights + static_cast<int64_t>(t) * a.n_active;
  // Round by round the highest logit behind the one that was chosen last, in the order of ranks
  // and, where they are equal, of indices. All lanes know it.
  uint32_t last_rank = 0xffffffffu;
  int last_expert = -1;
  float highest = 0.0f;
  float sum = 0.0f;
  for (int i = 0; i < a.n_active; ++i) {
    uint32_t rank = 0;
    int expert = a.n_experts;
    for (int e = lane; e < a.n_experts; e += 32) {
      const uint32_t r = rank_of(logits[e]);
      const bool behind = r < last_rank || (r == last_rank && e > last_expert);
      if (behind && (expert == a.n_experts || r > rank)) {
        rank = r;
        expert = e;
      }
    }
    last_rank = __reduce_max_sync(kAllLanes, rank);
    last_expert = __reduce_min_sync(kAllLanes, rank == last_rank ? expert : a.n_experts);
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
    for (int i = 0; i < a.n_active; ++i) weights[i] /= sum;
  }
}

// Each warp has a stretch of the pairs. It counts them by expert; a scan over experts and warps
// says where the first of each goes; a second run over the stretch puts them there in order.
extern "C" __global__ void __launch_bounds__(kSortThreads)
    gptoss_expert_sort(const __grid_constant__ ExpertSortArgs a) {
  __shared__ int32_t places[kSortWarps][kMaxExperts];
  __shared__ int32_t warp_totals[kMaxExperts / 32];
  const int lane = lane_id();
  const int warp = warp_id();
  for (int e = lane; e < a.n_experts; e += 32) places[warp][e] = 0;
  __syncwarp();

  const int stretch = (a.n_pairs + kSortThreads - 1) / kSortThreads * 32;
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
    for (int w = 0; w < kSortWarps; ++w) total += places[w][e];
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
    for (int w = 0; w < kSortWarps; ++w) {
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
  const int64_t t = blockIdx.x;
  const int i = static_cast<int>(blockIdx.y) * kCombineThreads + static_cast<int>(threadIdx.x);
  if (t >= a.tokens || i >= a.n) return;
  float sum = 0.0f;
  for (int64_t pair = t * a.n_active; pair < (t + 1) * a.n_active; ++pair) {
    sum += a.weights[pair] * a.out[pair * a.n + i];
  }
  a.x[t * a.n + i] += sum;
}

}  // namespace gptoss::cuda
