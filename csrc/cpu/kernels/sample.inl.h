// Sampling, written once over F32x16; contracts in kernels/sample.h. All instruction sets, the one
// without fused multiply-add included, give the same bits.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "cpu/kernels/sample.h"
#include "ops/sample.h"
#include GPTOSS_ISA_SIMD

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

inline constexpr float kImpossible = -std::numeric_limits<float>::infinity();

// x (n < 16), padded.
inline F32x16 load_tail(const float* x, int64_t n, float padding) {
  float padded[16];
  store(padded, set1(padding));
  std::memcpy(padded, x, static_cast<size_t>(n) * sizeof(float));
  return load(padded);
}

// A group of n <= 64 logits, padded.
struct LogitGroup {
  F32x16 v[4];

  LogitGroup(const float* x, int64_t n, float padding) {
    for (int i = 0; i < 4; ++i) {
      const int64_t left = n - 16 * i;
      v[i] = left >= 16 ? load(x + 16 * i)
             : left > 0 ? load_tail(x + 16 * i, left, padding)
                        : set1(padding);
    }
  }
};

inline int64_t group_size(int64_t begin, int64_t n) {
  return n - begin < kSampleGroup ? n - begin : kSampleGroup;
}

LogitRange scan_logits(const float* x, int64_t n, float* group_max) {
  const F32x16 zero = set1(0.0f);
  const F32x16 limit = set1(ops::kLogitLimit);
  F32x16 highest = set1(kImpossible);
  F32x16 lowest = sub(zero, highest);
  F32x16 odd = zero;
  for (int64_t begin = 0; begin < n; begin += kSampleGroup) {
    const LogitGroup group(x + begin, group_size(begin, n), x[begin]);
    for (const F32x16& v : group.v) {
      lowest = min(v, lowest);
      // NaN is not less than the limit.
      odd = max(odd, select_less(max(v, sub(zero, v)), limit, zero, limit));
    }
    const F32x16 top = max(max(group.v[0], group.v[1]), max(group.v[2], group.v[3]));
    group_max[begin / kSampleGroup] = reduce_max(top);
    highest = max(highest, top);
  }
  return {-reduce_max(sub(zero, lowest)), reduce_max(highest), reduce_max(odd) == 0.0f};
}

void mask_logits(const float* x, const uint32_t* mask, int64_t n, float* z) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    store(z + i, keep_bits(load(x + i), mask[i / 32] >> i % 32, kImpossible));
  }
  for (; i < n; ++i) z[i] = (mask[i / 32] >> i % 32 & 1) != 0 ? x[i] : kImpossible;
}

inline F32x16 exponents(F32x16 x, const MassRule& rule) {
  return max(mul(sub(x, set1(rule.top)), set1(rule.scale)), set1(ops::kLowestExponent));
}

inline F32x16 masses_of(F32x16 y, const MassRule& rule) {
  const F32x16 n = round(y);
  const F32x16 f = sub(y, n);
  F32x16 p = set1(ops::kExp2[6]);
  for (int i = 5; i >= 0; --i) p = fused(p, f, set1(ops::kExp2[i]));
  const F32x16 v = mul(p, pow2(add(n, set1(float{ops::kMassBits}))));
  return select_less(v, set1(rule.smallest), set1(0.0f), round(v));
}

uint64_t sum_masses(const float* z, int64_t n, const MassRule& rule, float floor, float* masses) {
  const F32x16 floors = set1(floor);
  const auto kept = [&](F32x16 x) {
    return select_less(x, floors, set1(0.0f), masses_of(exponents(x, rule), rule));
  };
  MassSum sum;
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const F32x16 mass = kept(load(z + i));
    sum.add(mass);
    if (masses != nullptr) store(masses + i, mass);
  }
  if (i < n) {
    const F32x16 mass = kept(load_tail(z + i, n - i, kImpossible));
    sum.add(mass);
    if (masses != nullptr) {
      float tail[16];
      store(tail, mass);
      std::memcpy(masses + i, tail, static_cast<size_t>(n - i) * sizeof(float));
    }
  }
  return sum.total();
}

// Bins, not yet rounded down. Rises with falling logits, so a group's highest has its lowest.
inline F32x16 bins_of(F32x16 y, const BinRule& bins) { return mul(y, set1(-bins.scale)); }

inline float bin_of(float x, const MassRule& rule, const BinRule& bins) {
  float lanes[16];
  store(lanes, bins_of(exponents(set1(x), rule), bins));
  return lanes[0];
}

void bin_masses(const float* z, const float* group_max, int64_t n, const MassRule& rule,
                const BinRule& rules, bool counting, uint64_t* bins, uint64_t* total) {
  const auto last = static_cast<float>(rules.count);
  uint64_t left_out = 0;
  MassSum sum;  // of groups that are left out, in one block
  for (int64_t begin = 0; begin < n; begin += kSampleGroup) {
    if (begin % kMassBlock == 0) {
      left_out += sum.total();
      sum = {};
    }
    const bool skipped = bin_of(group_max[begin / kSampleGroup], rule, rules) >= last;
    if (skipped && total == nullptr) continue;
    const LogitGroup group(z + begin, group_size(begin, n), kImpossible);
    if (skipped) {
      for (const F32x16& v : group.v) sum.add(masses_of(exponents(v, rule), rule));
      continue;
    }
    int32_t places[kSampleGroup];
    float masses[kSampleGroup];
    for (int i = 0; i < 4; ++i) {
      const F32x16 y = exponents(group.v[i], rule);
      store_int32(places + 16 * i, min(bins_of(y, rules), set1(last)));
      store(masses + 16 * i, counting ? set1(1.0f) : masses_of(y, rule));
    }
    // Two halves, as neighbours are often in the same bin and an addition waits for the last one.
    for (int i = 0; i < kSampleGroup; ++i) {
      bins[2 * places[i] + i % 2] += static_cast<uint64_t>(static_cast<int64_t>(masses[i]));
    }
  }
  if (total == nullptr) return;
  *total += left_out + sum.total();
  for (int i = 0; i < 2 * (rules.count + 1); ++i) *total += bins[i];
}

// Appends `begin` + each set bit.
inline int64_t append_bits(uint32_t bits, int64_t begin, int32_t* tokens, int64_t count) {
  for (; bits != 0; bits &= bits - 1) {
    tokens[count++] = static_cast<int32_t>(begin) + __builtin_ctz(bits);
  }
  return count;
}

int64_t gather_bin(const float* z, const float* group_max, int64_t n, const MassRule& rule,
                   const BinRule& rules, int bin, int32_t* tokens) {
  const auto low = static_cast<float>(bin);
  const auto high = static_cast<float>(bin + 1);
  int64_t count = 0;
  for (int64_t begin = 0; begin < n; begin += kSampleGroup) {
    if (bin_of(group_max[begin / kSampleGroup], rule, rules) >= high) continue;
    // The padding's bin is left out, as any that is impossible.
    const LogitGroup group(z + begin, group_size(begin, n), kImpossible);
    for (int i = 0; i < 4; ++i) {
      const F32x16 places = bins_of(exponents(group.v[i], rule), rules);
      const uint32_t bits = lanes_at_least(places, low) & ~lanes_at_least(places, high);
      count = append_bits(bits, begin + 16 * i, tokens, count);
    }
  }
  return count;
}

int64_t gather_at_least(const float* z, const float* group_max, int64_t n, float floor,
                        int32_t* tokens) {
  int64_t count = 0;
  for (int64_t begin = 0; begin < n; begin += kSampleGroup) {
    if (group_max[begin / kSampleGroup] < floor) continue;
    const LogitGroup group(z + begin, group_size(begin, n), kImpossible);
    for (int i = 0; i < 4; ++i) {
      count = append_bits(lanes_at_least(group.v[i], floor), begin + 16 * i, tokens, count);
    }
  }
  return count;
}

constexpr SampleKernels kSampleKernels = {.scan_logits = scan_logits,
                                          .mask_logits = mask_logits,
                                          .sum_masses = sum_masses,
                                          .bin_masses = bin_masses,
                                          .gather_bin = gather_bin,
                                          .gather_at_least = gather_at_least};

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
