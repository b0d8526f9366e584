// ops/sample.h on the device: a block samples the rows of a unit one after the other. All roundings
// are those of the contract, and sums are of integers, so neither the order of additions nor which
// thread does what can show in a result.
//
// A row of 201,088 logits stays in the second-level cache. It is read once for its range, where the
// product that made it has not told of 16 at a time (LogitRange), once for a draw, and twice more
// for each cut: once to add up bins of distances from the highest logit, and once to collect the
// tokens of the bin in which the cut lies. Among those few it is found digit by digit.
#include "cuda/kernels/block.cuh"

namespace gptoss::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;
constexpr float kLogitLimit = 1e30f;
constexpr float kPenaltyLimit = 1e29f;
constexpr float kLeastExponent = -42.0f;  // below it a mass is 0

enum Status : int32_t { kOk, kNonFinite, kEmptyMask };

struct Shared {
  uint32_t low[kBins], high[kBins];  // halves of 64-bit sums
  uint64_t sums[kWarps];
  float highest[kWarps], lowest[kWarps];
  int32_t first[kWarps];
  int32_t count;
  int32_t list[kMaxTop];
  struct {
    uint64_t before;
    int32_t bin;  // -1: the target is not reached
  } found;
};

// Tokens before it in the order, and itself, are kept.
struct Cut {
  float logit = -INFINITY;
  int32_t token = 0x7fffffff;

  __device__ __forceinline__ bool keeps(float z, int t) const {
    return z > logit || (z == logit && t <= token);
  }
};

struct Range {
  float highest, lowest;  // the lowest that is possible
  int32_t first;          // token of the highest
  bool is_odd;            // NaN or infinity is there
  bool is_large;          // a logit lies beyond the limit
};

// From a logit to its mass.
struct MassRule {
  float top;       // the highest logit
  float scale;     // exponent_scale(temperature)
  float smallest;  // min_p * 2^40

  __device__ __forceinline__ float exponent(float z) const {
    return fmaxf(__fmul_rn(__fsub_rn(z, top), scale), -64.0f);
  }
  __device__ __forceinline__ uint64_t operator()(float z) const {
    const float y = exponent(z);
    const float n = rintf(y);
    const float f = __fsub_rn(y, n);
    float p = 0x1.41fbbcp-13f;
    p = __fmaf_rn(p, f, 0x1.5f3e54p-10f);
    p = __fmaf_rn(p, f, 0x1.3b2d4cp-7f);
    p = __fmaf_rn(p, f, 0x1.c6aee8p-5f);
    p = __fmaf_rn(p, f, 0x1.ebfbdcp-3f);
    p = __fmaf_rn(p, f, 0x1.62e430p-1f);
    p = __fmaf_rn(p, f, 1.0f);
    const float v = __fmul_rn(p, __int_as_float((static_cast<int>(n) + 40 + 127) << 23));
    return v < smallest ? 0 : __float2ull_rn(v);
  }
};

__device__ __forceinline__ uint64_t random_bits(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15ull;
  for (int round = 0; round < 2; ++round) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    z += seed;
  }
  return z;
}

__device__ __forceinline__ float clamp(float z, float limit) {
  return fminf(fmaxf(z, -limit), limit);
}

__device__ __forceinline__ float penalized(float z, uint32_t entry, const SampleRow& row) {
  if ((entry & kSeen) == 0 || !(fabsf(z) < kPenaltyLimit)) return z;
  const uint32_t count = entry & ~kSeen;
  z = z > 0.0f ? __fdiv_rn(z, row.repetition_penalty) : __fmul_rn(z, row.repetition_penalty);
  z = __fsub_rn(z, __fmul_rn(row.frequency_penalty, static_cast<float>(static_cast<int>(count))));
  if (count > 0) z = __fsub_rn(z, row.presence_penalty);
  return clamp(z, kPenaltyLimit);
}

__device__ __forceinline__ bool allows(const uint32_t* mask, int t) {
  return (mask[t / 32] >> (t % 32) & 1) != 0;
}

// f(t, x[t]) for all tokens of [begin, end), by threads or lanes `first` of `step`, each in
// ascending order. Many loads are under way at a time: one block is to read as fast as it can.
template <class F>
__device__ __forceinline__ void for_tokens(const float* x, int begin, int end, int first, int step,
                                           F&& f) {
  constexpr int kLoads = 4;
  if ((begin | end) % 4 != 0 || reinterpret_cast<uint64_t>(x) % 16 != 0) {
#pragma unroll 1
    for (int t = begin + first; t < end; t += step) f(t, x[t]);
    return;
  }
#pragma unroll 1
  for (int base = begin + 4 * first; base < end; base += 4 * kLoads * step) {
    float4 loaded[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int t = base + 4 * i * step;
      if (t < end) loaded[i] = *reinterpret_cast<const float4*>(x + t);
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int t = base + 4 * i * step;
      if (t >= end) break;
      f(t, loaded[i].x);
      f(t + 1, loaded[i].y);
      f(t + 2, loaded[i].z);
      f(t + 3, loaded[i].w);
    }
  }
}
// For all tokens, by the block.
template <class F>
__device__ __forceinline__ void for_each_token(const float* x, int n, F&& f) {
  for_tokens(x, 0, n, static_cast<int>(threadIdx.x), kThreads, f);
}

// Of all logits x, or of those that `ranges` tell of if that is not null.
__device__ __forceinline__ Range range_of(const float* x, const LogitRange* ranges, int n,
                                          Shared& shared) {
  Range range = {-INFINITY, INFINITY, n, false, false};
  if (ranges != nullptr) {
    const auto n_ranges = static_cast<int>(ceil_div(n, kRangeLogits));
#pragma unroll 8
    for (int i = threadIdx.x; i < n_ranges; i += kThreads) {
      const float2 z = *reinterpret_cast<const float2*>(ranges + i);
      if (z.x > range.highest) {
        range.highest = z.x;
        range.first = i;
      }
      range.lowest = fminf(range.lowest, z.y);
    }
    range.is_odd = range.highest == INFINITY;
  } else {
    for_each_token(x, n, [&](int t, float z) {
      if (z > range.highest) {
        range.highest = z;
        range.first = t;
      }
      if (z > -INFINITY && z < range.lowest) range.lowest = z;
      range.is_odd |= !(z < INFINITY);
    });
  }
  const auto join = [&](float highest, float lowest, int first) {
    if (highest > range.highest || (highest == range.highest && first < range.first)) {
      range.highest = highest;
      range.first = first;
    }
    range.lowest = fminf(range.lowest, lowest);
  };
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const float highest = __shfl_xor_sync(kAllLanes, range.highest, step);
    const float lowest = __shfl_xor_sync(kAllLanes, range.lowest, step);
    const int first = __shfl_xor_sync(kAllLanes, range.first, step);
    join(highest, lowest, first);
  }
  if (lane_id() == 0) {
    shared.highest[warp_id()] = range.highest;
    shared.lowest[warp_id()] = range.lowest;
    shared.first[warp_id()] = range.first;
  }
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) join(shared.highest[w], shared.lowest[w], shared.first[w]);
  range.is_odd = __syncthreads_or(range.is_odd) != 0;
  range.is_large = range.highest > kLogitLimit || range.lowest < -kLogitLimit;
  if (ranges != nullptr && range.first < n) {  // so far it is a range
    const int begin = range.first * kRangeLogits;
#pragma unroll
    for (int i = kRangeLogits - 1; i >= 0; --i) {
      if (begin + i < n && x[begin + i] == range.highest) range.first = begin + i;
    }
  }
  return range;
}

__device__ __forceinline__ uint64_t total_mass(const float* x, int n, const MassRule& mass,
                                               Shared& shared) {
  uint64_t sum = 0;
  for_each_token(x, n, [&](int, float z) { sum += mass(z); });
  sum = warp_sum(sum);
  if (lane_id() == 0) shared.sums[warp_id()] = sum;
  __syncthreads();
  sum = 0;
  for (const uint64_t part : shared.sums) sum += part;
  __syncthreads();
  return sum;
}

__device__ __forceinline__ void clear_bins(Shared& shared) {
  for (int i = threadIdx.x; i < kBins; i += kThreads) shared.low[i] = shared.high[i] = 0;
}

__device__ __forceinline__ void add_to_bin(Shared& shared, int bin, uint64_t weight) {
  const auto low = static_cast<uint32_t>(weight);
  const uint32_t old = atomicAdd(&shared.low[bin], low);
  const uint32_t high = static_cast<uint32_t>(weight >> 32) + (old + low < low ? 1 : 0);
  if (high != 0) atomicAdd(&shared.high[bin], high);
}

// The bin in which sums of bins reach target(their total), to shared.found.
template <class Target>
__device__ __forceinline__ void find_bin(Shared& shared, Target&& target_of) {
  constexpr int kOwn = kBins / kThreads;  // bins of a thread
  __syncthreads();
  const int bin = kOwn * static_cast<int>(threadIdx.x);
  const auto value = [&](int i) {
    return static_cast<uint64_t>(shared.high[i]) << 32 | shared.low[i];
  };
  uint64_t own = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) own += value(bin + i);
  uint64_t sum = own;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint64_t other = __shfl_up_sync(kAllLanes, sum, step);
    if (lane_id() >= step) sum += other;
  }
  if (lane_id() == 31) shared.sums[warp_id()] = sum;
  __syncthreads();
  uint64_t total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w == warp_id()) sum += total;
    total += shared.sums[w];
  }
  const uint64_t target = target_of(total);
  uint64_t before = sum - own;
  if (before < target && target <= sum) {
    int i = bin;
    for (; before + value(i) < target; ++i) before += value(i);
    shared.found = {before, i};
  }
  if (threadIdx.x == 0 && target > total) shared.found = {0, -1};
  __syncthreads();
}

// The cut at which the weights of what `kept` keeps, in the order of tokens, reach
// target_of(their sum); `kept` where they never do. weight_of(z) is 0 for what is not counted.
template <class Weight, class Target>
__device__ __forceinline__ Cut select(const float* z, int n, const Range& range,
                                      const MassRule& mass, const Cut& kept, int32_t* candidates,
                                      Shared& shared, Weight&& weight_of, Target&& target_of) {
  // Bins of equal distances; what is below the last one's is in it, too.
  const float floor = fmaxf(mass.exponent(range.lowest), kLeastExponent);
  const float scale = (kBins - 1) / fmaxf(-floor, 0x1p-20f);
  const auto bin_of = [&](float logit) {
    return static_cast<int>(fminf(__fmul_rn(mass.exponent(logit), -scale), kBins - 1));
  };
  clear_bins(shared);
  if (threadIdx.x == 0) shared.count = 0;
  __syncthreads();
  for_each_token(z, n, [&](int t, float logit) {
    if (!kept.keeps(logit, t)) return;
    const uint64_t weight = weight_of(logit);
    if (weight != 0) add_to_bin(shared, bin_of(logit), weight);
  });
  uint64_t target = 0;
  find_bin(shared, [&](uint64_t total) { return target = target_of(total); });
  const int bin = shared.found.bin;
  if (bin < 0) return kept;
  target -= shared.found.before;

  for (int begin = 0; begin < n; begin += kThreads) {
    const int t = begin + static_cast<int>(threadIdx.x);
    bool is_candidate = false;
    if (t < n) {
      const float logit = z[t];
      is_candidate = kept.keeps(logit, t) && bin_of(logit) == bin && weight_of(logit) != 0;
    }
    const unsigned lanes = __ballot_sync(kAllLanes, is_candidate);
    if (lanes == 0) continue;
    int place = 0;
    if (lane_id() == 0) place = atomicAdd(&shared.count, __popc(lanes));
    place = __shfl_sync(kAllLanes, place, 0);
    if (is_candidate) candidates[place + __popc(lanes & ((1u << lane_id()) - 1))] = t;
  }
  __syncthreads();

  // A candidate's place in the order as a number: from the highest logit down, then by token.
  const int token_bits = 32 - __clz(n);
  const auto place_of = [&](float logit, int t) {
    return static_cast<uint64_t>(~rank_of(logit)) << token_bits | static_cast<uint32_t>(t);
  };
  const int count = shared.count;
  const int digits = (32 + token_bits + kDigitBits - 1) / kDigitBits;
  uint64_t prefix = 0;
  for (int digit = digits - 1; digit >= 0; --digit) {
    const int shift = digit * kDigitBits;
    clear_bins(shared);
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const int t = candidates[i];
      const float logit = z[t];
      const uint64_t place = place_of(logit, t) >> shift;
      if (place >> kDigitBits != prefix) continue;
      add_to_bin(shared, static_cast<int>(place & (kBins - 1)), weight_of(logit));
    }
    find_bin(shared, [&](uint64_t) { return target; });
    target -= shared.found.before;
    prefix = prefix << kDigitBits | static_cast<uint64_t>(shared.found.bin);
  }
  const auto token = static_cast<int32_t>(prefix & ((uint64_t{1} << token_bits) - 1));
  __syncthreads();  // candidates and bins are free again
  return {z[token], token};
}

// The first token, by id, at which the sum of kept masses exceeds its share `bits` / 2^64.
__device__ __forceinline__ int32_t draw(const float* z, int n, const MassRule& mass, const Cut& cut,
                                        uint64_t bits, Shared& shared) {
  const auto mass_of = [&](int t, float logit) -> uint64_t {
    return cut.keeps(logit, t) ? mass(logit) : 0;
  };
  int begin = 0;
  int end = n;
  uint64_t place = 0;
  for (;;) {
    const int stretch = (end - begin + kThreads - 1) / kThreads * 32;  // of a warp
    const int from = begin + warp_id() * stretch;
    const int to = min(from + stretch, end);
    uint64_t sum = 0;
    for_tokens(z, from, to, lane_id(), 32, [&](int t, float logit) { sum += mass_of(t, logit); });
    sum = warp_sum(sum);
    if (lane_id() == 0) shared.sums[warp_id()] = sum;
    __syncthreads();
    if (begin == 0 && end == n) {
      uint64_t total = 0;
      for (const uint64_t part : shared.sums) total += part;
      place = __umul64hi(total, bits);
    }
    int w = 0;
    for (; w < kWarps - 1 && place >= shared.sums[w]; ++w) place -= shared.sums[w];
    __syncthreads();
    begin += w * stretch;
    end = min(begin + stretch, end);
    if (stretch == 32) break;
  }
  // Every warp finds the same.
  const int t = begin + lane_id();
  uint64_t sum = t < end ? mass_of(t, z[t]) : 0;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint64_t other = __shfl_up_sync(kAllLanes, sum, step);
    if (lane_id() >= step) sum += other;
  }
  return begin + __ffs(static_cast<int>(__ballot_sync(kAllLanes, place < sum))) - 1;
}

// The row after bias, penalties and mask.
__device__ __forceinline__ void change_logits(const SampleArgs& a, const SampleRow& row,
                                              const float* x, const uint32_t* mask, float* z) {
  const uint32_t* const counts =
      row.has_penalties != 0 ? a.counts + static_cast<int64_t>(row.slot) * a.vocab_size : nullptr;
  for_each_token(x, a.vocab_size, [&](int t, float logit) {
    if (logit == -INFINITY || (mask != nullptr && !allows(mask, t))) {
      z[t] = -INFINITY;
      return;
    }
    logit = clamp(logit, kLogitLimit);
    z[t] = counts != nullptr ? penalized(logit, counts[t], row) : logit;
  });
  __syncthreads();
  for (int i = row.bias_begin + static_cast<int>(threadIdx.x); i < row.bias_end; i += kThreads) {
    const BiasEntry entry = a.biases[i];
    const int t = entry.token;
    if (z[t] == -INFINITY) continue;
    const float logit = clamp(__fadd_rn(x[t], entry.bias), kLogitLimit);
    z[t] = counts != nullptr ? penalized(logit, counts[t], row) : logit;
  }
  __syncthreads();
}

// The n first tokens in the order of x, or all that are possible.
__device__ __forceinline__ int write_top(const float* x, int n, int n_top, const Range& range,
                                         const MassRule& mass, int32_t* candidates, Shared& shared,
                                         TopEntry* top) {
  const auto is_possible = [](float z) -> uint64_t { return z > -INFINITY ? 1 : 0; };
  const Cut cut = select(x, n, range, mass, {}, candidates, shared, is_possible,
                         [&](uint64_t) { return static_cast<uint64_t>(n_top); });
  if (threadIdx.x == 0) shared.count = 0;
  __syncthreads();
  for_each_token(x, n, [&](int t, float z) {
    if (is_possible(z) && cut.keeps(z, t)) shared.list[atomicAdd(&shared.count, 1)] = t;
  });
  __syncthreads();
  const int count = shared.count;
  const auto i = static_cast<int>(threadIdx.x);
  if (i < count) {
    const int t = shared.list[i];
    const float z = x[t];
    int place = 0;
    for (int j = 0; j < count; ++j) {
      const int other = shared.list[j];
      place += x[other] > z || (x[other] == z && other < t) ? 1 : 0;
    }
    top[place] = {t, z};
  } else if (i < kMaxTop) {
    top[i] = {-1, 0.0f};
  }
  __syncthreads();
  return count;
}

// What is said of a row that was not reached.
__device__ __forceinline__ void skip_row(SampleOut* out) {
  if (threadIdx.x < kMaxTop) out->top[threadIdx.x] = {-1, 0.0f};
  if (threadIdx.x == 0) {
    out->sampled = 0;
    out->status = kOk;
    out->token = -1;
    out->n_top = 0;
    out->logit = out->largest_logit = 0.0f;
    out->mass = 0;
  }
}

// The token that was sampled; -1 if there is none.
__device__ __forceinline__ int32_t sample_row(const SampleArgs& a, const SampleRow& row, int unit,
                                              SampleOut* out, Shared& shared) {
  const int n = a.vocab_size;
  const float* const x = a.logits + static_cast<int64_t>(row.row) * n;
  int32_t* const candidates = a.candidates + static_cast<int64_t>(unit) * n;
  skip_row(out);
  const LogitRange* const ranges =
      a.ranges == nullptr ? nullptr : a.ranges + row.row * ceil_div(n, kRangeLogits);
  const Range range = range_of(x, ranges, n, shared);
  int32_t status = range.is_odd || range.highest == -INFINITY ? kNonFinite : kOk;

  int32_t token = -1;
  if (status == kOk && row.target >= 0) {
    token = row.target;
  } else if (status == kOk) {
    const float* z = x;
    Range changed = range;
    if (row.has_penalties != 0 || row.bias_begin < row.bias_end || row.mask >= 0 ||
        range.is_large) {
      const int words = (n + 31) / 32;
      const uint32_t* const mask =
          row.mask >= 0 ? a.masks + static_cast<int64_t>(row.mask) * words : nullptr;
      float* const to = a.changed + static_cast<int64_t>(unit) * n;
      change_logits(a, row, x, mask, to);
      z = to;
      changed = range_of(z, nullptr, n, shared);
    }
    if (changed.highest == -INFINITY) {
      status = kEmptyMask;
    } else if (row.greedy != 0) {
      token = changed.first;
    } else {
      const MassRule mass = {changed.highest, row.exponent_scale, __fmul_rn(row.min_p, 0x1p40f)};
      Cut cut;
      if (row.top_k > 0 && row.top_k < n) {
        cut = select(
            z, n, changed, mass, cut, candidates, shared,
            [](float logit) -> uint64_t { return logit > -INFINITY ? 1 : 0; },
            [&](uint64_t) { return static_cast<uint64_t>(row.top_k); });
      }
      if (row.all_top_p == 0) {
        cut = select(z, n, changed, mass, cut, candidates, shared, mass, [&](uint64_t total) {
          const uint64_t share = __umul64hi(total, row.top_p_fraction);
          return share > 1 ? share : uint64_t{1};
        });
      }
      const uint64_t bits = random_bits(row.seed, a.slots[row.slot].index);
      token = draw(z, n, mass, cut, bits, shared);
    }
  }

  uint64_t total = 0;
  int n_top = 0;
  if (status == kOk && (row.n_logprobs >= 0 || row.target >= 0)) {
    constexpr float kLog2E = 0x1.715476p+0f;
    const MassRule model = {range.highest, kLog2E, 0.0f};
    total = total_mass(x, n, model, shared);
    if (row.n_logprobs > 0) {
      n_top =
          write_top(x, n, min(row.n_logprobs, kMaxTop), range, model, candidates, shared, out->top);
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    out->sampled = 1;
    out->status = status;
    out->token = token;
    out->n_top = n_top;
    out->logit = token >= 0 ? x[token] : 0.0f;
    out->largest_logit = range.highest;
    out->mass = total;
    if (token >= 0 && row.target < 0) {
      SlotState& slot = a.slots[row.slot];
      slot.last_token = token;
      ++slot.index;
      uint32_t& entry = a.counts[static_cast<int64_t>(row.slot) * n + token];
      entry = (entry | kSeen) + 1;
    }
  }
  __syncthreads();
  return token;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    gptoss_sample(const __grid_constant__ SampleArgs a) {
  take_turn();
  __shared__ Shared shared;
  const int unit = blockIdx.x;
  if (unit >= a.n_units) return;
  const int end = a.units[unit + 1];
  bool is_reached = true;
  for (int i = a.units[unit]; i < end; ++i) {
    if (!is_reached) {
      skip_row(a.out + i);
      continue;
    }
    const SampleRow& row = a.rows[i];
    const int32_t token = sample_row(a, row, unit, a.out + i, shared);
    is_reached = token >= 0 && row.target < 0 && token == row.guess;
  }
}

// Integer atomics: the same sums in any order.
extern "C" __global__ void __launch_bounds__(256)
    gptoss_count_tokens(const __grid_constant__ CountTokensArgs a) {
  take_turn();
  const int i = static_cast<int>(blockIdx.x) * 256 + static_cast<int>(threadIdx.x);
  if (i >= a.n) return;
  uint32_t* const entry = a.counts + a.tokens[i];
  atomicOr(entry, kSeen);
  if (a.is_output == 0) return;
  atomicAdd(entry, 1u);
  if (i == a.n - 1) {
    a.slot->last_token = a.tokens[i];
    a.slot->index += static_cast<uint64_t>(a.n);
  }
}

}  // namespace gptoss::cuda
