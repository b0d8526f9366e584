#include "cpu/sample.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

namespace gptoss::cpu {
namespace {

using ops::kLogitLimit;
using ops::kPenaltyLimit;
using Candidate = SampleScratch::Candidate;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowestFinite = std::numeric_limits<float>::lowest();

// Fine enough that one bin holds a few hundred tokens of a flat distribution over 201,088, and
// small enough (16 KB) for the first-level cache.
constexpr int kBins = 1024;
// Below it a mass is 0.
constexpr float kLeastExponent = -42.0f;

// Tokens before it in the order, and itself, are kept.
struct Cut {
  float logit = -kInfinity;
  int32_t token = std::numeric_limits<int32_t>::max();
  uint64_t mass = 0;  // of what is kept, where masses were added to find it

  bool keeps_all() const { return logit == -kInfinity; }
};

float clamp(float z, float limit) { return std::min(std::max(z, -limit), limit); }

uint64_t high_product(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>(static_cast<Wide>(a) * b >> 64);
}

size_t count_groups(int64_t n) {
  return static_cast<size_t>((n + kSampleGroup - 1) / kSampleGroup);
}

// The row that the token is chosen from.
struct Logits {
  const float* z;
  const float* group_max;
  int64_t n;
  float lowest, highest;
};

// The candidate at which `before` and the masses, in order, reach `target`; the sum goes to
// Cut::mass. Candidates come by ascending id and are enough.
Cut select(std::vector<Candidate>& candidates, std::vector<Candidate>& partition, uint64_t before,
           uint64_t target) {
  // Pivots from anywhere, so that no order of logits is a bad one.
  uint64_t state = 0;
  const auto any_logit = [&] {
    state = ops::random_bits(0, state);
    return candidates[high_product(state, candidates.size())].logit;
  };
  for (;;) {
    const float a = any_logit();
    const float b = any_logit();
    const float c = any_logit();
    const float pivot = std::max(std::min(a, b), std::min(std::max(a, b), c));
    uint64_t above = 0;
    uint64_t equal = 0;
    for (const Candidate& candidate : candidates) {
      above += candidate.logit > pivot ? candidate.mass : 0;
      equal += candidate.logit == pivot ? candidate.mass : 0;
    }
    if (before + above < target && before + above + equal >= target) {
      uint64_t sum = before + above;
      for (const Candidate& candidate : candidates) {
        if (candidate.logit != pivot) continue;
        sum += candidate.mass;
        if (sum >= target) return {pivot, candidate.token, sum};
      }
    }
    const bool upper = before + above >= target;
    if (!upper) before += above + equal;
    partition.clear();
    for (const Candidate& candidate : candidates) {
      if (upper ? candidate.logit > pivot : candidate.logit < pivot) {
        partition.push_back(candidate);
      }
    }
    candidates.swap(partition);
  }
}

class RowSampler {
 public:
  RowSampler(const SampleKernels& kernels, const Logits& logits, const MassRule& rule,
             SampleScratch& scratch)
      : kernels_(kernels), logits_(logits), rule_(rule), scratch_(scratch) {}

  // The mass of all; find() uses the blocks' masses.
  uint64_t total() {
    scratch_.block_masses.clear();
    uint64_t sum = 0;
    for (int64_t begin = 0; begin < logits_.n; begin += kMassBlock) {
      const int64_t size = std::min<int64_t>(kMassBlock, logits_.n - begin);
      scratch_.block_masses.push_back(
          kernels_.sum_masses(logits_.z + begin, size, rule_, -kInfinity, nullptr));
      sum += scratch_.block_masses.back();
    }
    return sum;
  }

  // The mass of what a cut keeps.
  uint64_t mass_of(const Cut& cut) const {
    uint64_t sum = 0;
    for (int64_t begin = 0; begin < logits_.n; begin += kSampleGroup) {
      if (skips(begin, cut)) continue;
      sum += range_mass(begin, group_end(begin), cut, nullptr);
    }
    return sum;
  }

  Cut top_k(int k) {
    if (2 * static_cast<size_t>(k) <= count_groups(logits_.n)) {
      gather(nth_group_max(k));
      if (scratch_.candidates.size() < static_cast<size_t>(k)) return {};
      return select(scratch_.candidates, scratch_.partition, 0, static_cast<uint64_t>(k));
    }
    return cut_bins(fill_bins(kLeastExponent, true, nullptr), true, static_cast<uint64_t>(k));
  }

  // Of what `kept` keeps, `n_kept` tokens at most.
  Cut top_p(float share, const Cut& kept, int64_t n_kept) {
    const bool all = kept.keeps_all();
    float floor = all ? kLeastExponent : exponent(kept.logit);
    // Below some exponent all tokens together have less than what is cut away, so the cut is above.
    // The margin is more than what rounding adds to a mass of 64 and more.
    constexpr double kMargin = 0.05;
    const auto least_mass = static_cast<double>(all ? uint64_t{1} << ops::kMassBits : kept.mass);
    const double cut_away = (1.0 - double{share}) * least_mass / static_cast<double>(n_kept);
    if (cut_away >= 64) {
      floor = std::max(floor, static_cast<float>(std::log2(cut_away) - ops::kMassBits - kMargin));
    }
    uint64_t mass = kept.mass;
    const BinRule rules = fill_bins(floor, false, all ? &mass : nullptr);
    return cut_bins(rules, false,
                    std::max<uint64_t>(1, high_product(mass, ops::top_p_fraction(share))));
  }

  // The token at which the sum of kept masses, by id, exceeds `place`.
  int32_t find(const Cut& cut, uint64_t place) const {
    int64_t begin = 0;
    if (cut.keeps_all()) {
      for (const uint64_t mass : scratch_.block_masses) {
        if (place < mass) break;
        place -= mass;
        begin += kMassBlock;
      }
    }
    for (;; begin += kSampleGroup) {
      if (skips(begin, cut)) continue;
      const uint64_t mass = range_mass(begin, group_end(begin), cut, nullptr);
      if (place < mass) break;
      place -= mass;
    }
    float masses[kSampleGroup] = {};
    range_mass(begin, group_end(begin), cut, masses);
    int32_t token = static_cast<int32_t>(begin);
    for (const float* mass = masses;; ++mass, ++token) {
      const auto whole = static_cast<uint64_t>(*mass);
      if (place < whole) return token;
      place -= whole;
    }
  }

  // The n likeliest possible tokens, or all, in order, as candidates.
  const std::vector<Candidate>& likeliest(int n) {
    std::vector<Candidate>& list = scratch_.candidates;
    const size_t count = static_cast<size_t>(n);
    gather(count <= count_groups(logits_.n) ? nth_group_max(n) : kLowestFinite);
    if (list.size() > count) {
      const Cut cut = select(list, scratch_.partition, 0, count);
      gather(cut.logit);
      std::erase_if(list, [&](const Candidate& candidate) {
        return candidate.logit == cut.logit && candidate.token > cut.token;
      });
    }
    std::sort(list.begin(), list.end(), [](const Candidate& a, const Candidate& b) {
      return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
    });
    return list;
  }

 private:
  int64_t group_end(int64_t begin) const { return std::min(begin + kSampleGroup, logits_.n); }
  bool skips(int64_t begin, const Cut& cut) const {
    return logits_.group_max[begin / kSampleGroup] < cut.logit;
  }
  float exponent(float z) const { return (z - logits_.highest) * rule_.scale; }

  // Of equal logits those up to the cut's token are kept.
  uint64_t range_mass(int64_t begin, int64_t end, const Cut& cut, float* masses) const {
    const int64_t split = std::clamp<int64_t>(int64_t{cut.token} + 1, begin, end);
    uint64_t sum = 0;
    if (begin < split) {
      sum += kernels_.sum_masses(logits_.z + begin, split - begin, rule_, cut.logit, masses);
    }
    if (split < end) {
      if (masses != nullptr) masses += split - begin;
      sum += kernels_.sum_masses(logits_.z + split, end - split, rule_,
                                 std::nextafter(cut.logit, kInfinity), masses);
    }
    return sum;
  }

  // At least n tokens reach the n-th highest of the groups' highest, and seldom many more.
  float nth_group_max(int n) {
    std::vector<float>& list = scratch_.numbers;
    list.assign(logits_.group_max, logits_.group_max + count_groups(logits_.n));
    std::nth_element(list.begin(), list.begin() + (n - 1), list.end(), std::greater<>());
    return std::max(list[static_cast<size_t>(n - 1)], kLowestFinite);
  }

  void gather(float floor) {
    scratch_.tokens.resize(static_cast<size_t>(logits_.n));
    take_candidates(kernels_.gather_at_least(logits_.z, logits_.group_max, logits_.n, floor,
                                             scratch_.tokens.data()));
  }
  // Each counts as one.
  void take_candidates(int64_t count) {
    scratch_.candidates.clear();
    for (int64_t i = 0; i < count; ++i) {
      const int32_t token = scratch_.tokens[static_cast<size_t>(i)];
      scratch_.candidates.push_back({logits_.z[token], token, 1});
    }
  }

  // Bins from the highest logit down to the exponent `floor` or the lowest logit; adds the mass of
  // all to *total unless it is null.
  BinRule fill_bins(float floor, bool counting, uint64_t* total) {
    constexpr float kLeastRange = 0x1p-20f;  // keeps the scale finite
    floor = std::max({floor, exponent(logits_.lowest), kLeastExponent});
    const BinRule rules = {(kBins - 1) / std::max(-floor, kLeastRange), kBins};
    scratch_.bins.assign(2 * (kBins + 1), 0);
    kernels_.bin_masses(logits_.z, logits_.group_max, logits_.n, rule_, rules, counting,
                        scratch_.bins.data(), total);
    return rules;
  }

  // The token at which what the bins hold reaches `target`; all is kept if it does not.
  Cut cut_bins(const BinRule& rules, bool counting, uint64_t target) {
    uint64_t before = 0;
    for (size_t bin = 0; bin < kBins; ++bin) {
      const uint64_t mass = scratch_.bins[2 * bin] + scratch_.bins[2 * bin + 1];
      if (before + mass >= target) {
        scratch_.tokens.resize(static_cast<size_t>(logits_.n));
        take_candidates(kernels_.gather_bin(logits_.z, logits_.group_max, logits_.n, rule_, rules,
                                            static_cast<int>(bin), scratch_.tokens.data()));
        if (!counting) weigh_candidates();
        return select(scratch_.candidates, scratch_.partition, before, target);
      }
      before += mass;
    }
    return {};
  }

  void weigh_candidates() {
    std::vector<Candidate>& list = scratch_.candidates;
    float logits[kMassBlock];
    float masses[kMassBlock];
    for (size_t begin = 0; begin < list.size(); begin += kMassBlock) {
      const size_t size = std::min<size_t>(kMassBlock, list.size() - begin);
      for (size_t i = 0; i < size; ++i) logits[i] = list[begin + i].logit;
      kernels_.sum_masses(logits, static_cast<int64_t>(size), rule_, -kInfinity, masses);
      for (size_t i = 0; i < size; ++i) list[begin + i].mass = static_cast<uint64_t>(masses[i]);
    }
  }

  const SampleKernels& kernels_;
  const Logits& logits_;
  const MassRule rule_;
  SampleScratch& scratch_;
};

// NaN or infinity above; -inf is none.
bool has_non_finite(std::span<const float> x) {
  bool found = false;
  for (const float logit : x) found |= !(logit < kInfinity);
  return found;
}

// Sets a logit of the changed row, and what is known of its group.
void change(Logits& logits, std::vector<float>& z, std::vector<float>& group_max, int32_t token,
            float value) {
  float& logit = z[static_cast<size_t>(token)];
  const float old = std::exchange(logit, value);
  const auto group = static_cast<size_t>(token / kSampleGroup);
  float& top = group_max[group];
  if (value >= top) {
    top = value;
  } else if (old == top) {
    const auto begin = z.begin() + static_cast<int64_t>(group) * kSampleGroup;
    top = *std::max_element(begin, begin + std::min<int64_t>(kSampleGroup, z.end() - begin));
  }
  logits.lowest = std::min(logits.lowest, value);
}

float penalized(float z, int32_t count, const ops::SamplingRule& rule) {
  z = z > 0.0f ? z / rule.repetition_penalty : z * rule.repetition_penalty;
  z -= rule.frequency_penalty * static_cast<float>(count);
  if (count > 0) z -= rule.presence_penalty;
  return clamp(z, kPenaltyLimit);
}

// The row after bias, penalties and mask, in scratch.
Logits changed_logits(const SampleKernels& kernels, const ops::SampleRow& row, const Logits& raw,
                      bool ordinary, bool penalties, SampleScratch& scratch) {
  std::vector<float>& z = scratch.logits;
  std::vector<float>& group_max = scratch.changed_max;
  z.assign(raw.z, raw.z + raw.n);
  Logits logits = raw;
  if (!ordinary) {
    for (float& logit : z) logit = logit < kLowestFinite ? logit : clamp(logit, kLogitLimit);
  }
  if (row.mask != nullptr) kernels.mask_logits(z.data(), row.mask, raw.n, z.data());
  if (ordinary && row.mask == nullptr) {
    group_max.assign(raw.group_max, raw.group_max + count_groups(raw.n));
  } else {
    group_max.resize(count_groups(raw.n));
    kernels.scan_logits(z.data(), raw.n, group_max.data());
  }
  const auto possible = [&](int32_t token) { return z[static_cast<size_t>(token)] != -kInfinity; };
  for (const TokenBias& entry : row.biases) {
    if (!possible(entry.token)) continue;
    change(logits, z, group_max, entry.token, clamp(raw.z[entry.token] + entry.bias, kLogitLimit));
  }
  if (penalties) {
    for (const TokenCount& entry : row.counts) {
      const float logit = z[static_cast<size_t>(entry.token)];
      if (!(std::fabs(logit) < kPenaltyLimit)) continue;  // impossible, banned or forced
      change(logits, z, group_max, entry.token, penalized(logit, entry.count, *row.rule));
    }
  }
  logits.z = z.data();
  logits.group_max = group_max.data();
  logits.highest = *std::max_element(group_max.begin(), group_max.end());
  return logits;
}

// The first by id of the highest.
int32_t likeliest_token(const Logits& logits) {
  const float* const group =
      std::find(logits.group_max, logits.group_max + count_groups(logits.n), logits.highest);
  const float* const begin = logits.z + (group - logits.group_max) * kSampleGroup;
  return static_cast<int32_t>(std::find(begin, logits.z + logits.n, logits.highest) - logits.z);
}

// `known_total`: of the masses, with those of the blocks in scratch, if not 0.
int32_t choose(const SampleKernels& kernels, const ops::SampleRow& row, const Logits& logits,
               uint64_t known_total, SampleScratch& scratch) {
  const ops::SamplingRule& rule = *row.rule;
  if (rule.temperature == 0.0f) return likeliest_token(logits);
  RowSampler sampler(kernels, logits,
                     {logits.highest, ops::exponent_scale(rule.temperature),
                      rule.min_p * static_cast<float>(uint64_t{1} << ops::kMassBits)},
                     scratch);
  Cut cut;
  int64_t n_kept = logits.n;
  if (rule.top_k > 0 && rule.top_k < n_kept) {
    n_kept = rule.top_k;
    cut = sampler.top_k(rule.top_k);
    if (!cut.keeps_all()) cut.mass = sampler.mass_of(cut);
  }
  if (rule.top_p < 1.0f) cut = sampler.top_p(rule.top_p, cut, n_kept);
  if (cut.keeps_all()) cut.mass = known_total != 0 ? known_total : sampler.total();
  return sampler.find(cut, high_product(cut.mass, ops::random_bits(rule.seed, row.index)));
}

}  // namespace

ops::SampledRow sample(const Kernels& table, const ops::SampleRow& row, SampleScratch& scratch) {
  const SampleKernels& kernels = table.sample;
  const ops::SamplingRule& rule = *row.rule;
  ops::SampledRow result;
  scratch.group_max.resize(count_groups(row.vocab_size));
  const LogitRange range =
      kernels.scan_logits(row.logits, row.vocab_size, scratch.group_max.data());
  if (!range.ordinary) {
    const std::span<const float> x(row.logits, static_cast<size_t>(row.vocab_size));
    if (has_non_finite(x) || range.highest == -kInfinity) {
      result.status = ops::SampleStatus::non_finite;
      return result;
    }
  }
  const Logits raw = {row.logits, scratch.group_max.data(), row.vocab_size, range.lowest,
                      range.highest};

  // The model's own distribution, for log-probabilities.
  RowSampler model(kernels, raw, {raw.highest, ops::exponent_scale(1.0f), 0.0f}, scratch);
  const bool wants_logprob = rule.n_logprobs >= 0 || row.target >= 0;
  const uint64_t total = wants_logprob ? model.total() : 0;

  if (row.target >= 0) {
    result.token = row.target;
  } else {
    const bool penalties = ops::has_penalties(rule) && !row.counts.empty();
    const bool changed = penalties || !row.biases.empty() || row.mask != nullptr || !range.ordinary;
    const Logits logits =
        changed ? changed_logits(kernels, row, raw, range.ordinary, penalties, scratch) : raw;
    if (logits.highest == -kInfinity) {
      result.status = ops::SampleStatus::empty_mask;
      return result;
    }
    const bool same = !changed && rule.temperature == 1.0f && rule.min_p == 0.0f;
    result.token = choose(kernels, row, logits, same ? total : 0, scratch);
  }

  if (wants_logprob) {
    constexpr double kLn2 = 0x1.62e42fefa39efp-1;
    const double log_total = std::log(static_cast<double>(total)) - kLn2 * ops::kMassBits;
    const auto logprob = [&](float x) {
      const double distance = static_cast<double>(x) - static_cast<double>(raw.highest);
      return static_cast<float>(distance - log_total);
    };
    result.logprob = logprob(row.logits[result.token]);
    if (rule.n_logprobs > 0) {
      for (const Candidate& candidate : model.likeliest(rule.n_logprobs)) {
        result.top[result.n_top++] = {candidate.token, logprob(candidate.logit)};
      }
    }
  }
  return result;
}

}  // namespace gptoss::cpu
