#include "engine/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace gptoss {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Uniform in [0, 1): the finaliser of splitmix64 (Steele, Lea, Flood 2014) over seed and index.
double uniform(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15ull;
  for (int round = 0; round < 2; ++round) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    z += seed;
  }
  return static_cast<double>(z >> 11) * 0x1p-53;
}

// The highest logit, its lowest id; NaN never wins.
int32_t argmax(std::span<const float> logits) {
  int32_t best = -1;
  float top = kMinusInfinity;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > top) {
      top = logits[i];
      best = static_cast<int32_t>(i);
    }
  }
  if (best < 0 || std::isinf(top)) {
    throw std::runtime_error(
        "the logits are not finite: the checkpoint is damaged or its values are out of range");
  }
  return best;
}

struct Candidate {
  float logit;
  int32_t token;
  bool operator<(const Candidate& other) const {  // likelier first, then lower id
    return logit > other.logit || (logit == other.logit && token < other.token);
  }
};

// Buckets by distance from the highest logit. What decides where to cut lies within a few dozen
// nats of it, so one pass over the vocabulary and a sort of the few tokens above the cut replace a
// sort of all 201,088.
constexpr int kBuckets = 512;
constexpr float kBucketsPerNat = 16.0f;

int bucket_of(float logit, float top) {
  const float distance = (top - logit) * kBucketsPerNat;
  return distance < kBuckets - 1 ? static_cast<int>(distance) : kBuckets - 1;
}

// The tokens in the first buckets whose total of `weight_of` reaches `target`, sorted.
template <class Weight>
std::vector<Candidate> top_candidates(std::span<const float> logits, float top, float floor,
                                      double target, Weight weight_of) {
  std::array<double, kBuckets> totals{};
  for (const float logit : logits) {
    if (logit >= floor) totals[static_cast<size_t>(bucket_of(logit, top))] += weight_of(logit);
  }
  int last = 0;
  for (double sum = totals[0]; sum < target && last < kBuckets - 1;) {
    sum += totals[static_cast<size_t>(++last)];
  }
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] >= floor && bucket_of(logits[i], top) <= last) {
      candidates.push_back({logits[i], static_cast<int32_t>(i)});
    }
  }
  std::sort(candidates.begin(), candidates.end());
  return candidates;
}

std::vector<Candidate> largest(std::span<const float> logits, float top, float floor, int count) {
  auto candidates = top_candidates(logits, top, floor, count, [](float) { return 1.0; });
  if (candidates.size() > static_cast<size_t>(count)) candidates.resize(static_cast<size_t>(count));
  return candidates;
}

void apply_penalties(std::span<float> logits, const SamplingParams& params,
                     const TokenCounts& counts) {
  for (const auto& [token, bias] : params.logit_bias) logits[static_cast<size_t>(token)] += bias;
  if (params.repetition_penalty == 1.0f && params.presence_penalty == 0.0f &&
      params.frequency_penalty == 0.0f) {
    return;
  }
  for (const auto& [token, count] : counts.items()) {
    float& logit = logits[static_cast<size_t>(token)];
    logit = logit > 0.0f ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    logit -= params.frequency_penalty * static_cast<float>(count);
    if (count > 0) logit -= params.presence_penalty;
  }
}

// Draws from softmax over candidates (their order is fixed, so the draw is too).
template <class Range, class LogitOf>
size_t draw(const Range& range, float top, double u, LogitOf logit_of) {
  double total = 0.0;
  for (const auto& item : range) total += std::exp(logit_of(item) - top);
  double rest = u * total;
  size_t last = 0;
  for (size_t i = 0; i < range.size(); ++i) {
    const double p = std::exp(logit_of(range[i]) - top);
    if (p > 0.0) {
      last = i;
      if (rest < p) return i;
      rest -= p;
    }
  }
  return last;  // rounding in the sums
}

int32_t choose(std::span<float> logits, const SamplingParams& params, uint64_t token_index) {
  const int32_t best = argmax(logits);
  if (params.temperature == 0.0f) return best;
  // Relative to the likeliest, so that no temperature is too low to divide by.
  const float highest = logits[static_cast<size_t>(best)];
  for (float& logit : logits) logit = (logit - highest) / params.temperature;
  const float top = 0.0f;
  const double u = uniform(params.seed, token_index);
  const float floor =
      params.min_p > 0.0f ? top + std::log(params.min_p) : std::numeric_limits<float>::lowest();
  const bool cut_k = params.top_k > 0 && static_cast<size_t>(params.top_k) < logits.size();
  if (!cut_k && params.top_p >= 1.0f) {
    return static_cast<int32_t>(
        draw(logits, top, u, [&](float logit) { return logit >= floor ? logit : kMinusInfinity; }));
  }
  const auto mass = [&](float logit) { return std::exp(static_cast<double>(logit) - top); };
  std::vector<Candidate> candidates;
  if (cut_k) {
    candidates = largest(logits, top, floor, params.top_k);
  } else {
    double total = 0.0;
    for (const float logit : logits) total += logit >= floor ? mass(logit) : 0.0;
    candidates = top_candidates(logits, top, floor, params.top_p * total, mass);
    // The tail below the candidates belongs to the total that top_p is a share of.
    double sum = 0.0;
    size_t keep = 0;
    while (keep < candidates.size() && (keep == 0 || sum < params.top_p * total)) {
      sum += mass(candidates[keep++].logit);
    }
    candidates.resize(keep);
  }
  if (cut_k && params.top_p < 1.0f) {
    double total = 0.0;
    for (const Candidate& c : candidates) total += mass(c.logit);
    double sum = 0.0;
    size_t keep = 0;
    while (keep < candidates.size() && (keep == 0 || sum < params.top_p * total)) {
      sum += mass(candidates[keep++].logit);
    }
    candidates.resize(keep);
  }
  return candidates[draw(candidates, top, u, [](const Candidate& c) { return c.logit; })].token;
}

}  // namespace

Sample sample(std::span<float> logits, const SamplingParams& params, const TokenCounts& counts,
              uint64_t token_index) {
  Sample result{};
  if (params.logprobs < 0) {
    apply_penalties(logits, params, counts);
    result.token = choose(logits, params, token_index);
    return result;
  }
  const float top = logits[static_cast<size_t>(argmax(logits))];
  double total = 0.0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit) - top);
  const double log_total = std::log(total) + top;
  if (params.logprobs > 0) {
    for (const Candidate& c :
         largest(logits, top, std::numeric_limits<float>::lowest(), params.logprobs)) {
      result.top.push_back({c.token, static_cast<float>(c.logit - log_total)});
    }
  }
  const std::vector<float> raw(logits.begin(), logits.end());
  apply_penalties(logits, params, counts);
  result.token = choose(logits, params, token_index);
  result.logprob = static_cast<float>(raw[static_cast<size_t>(result.token)] - log_total);
  return result;
}

}  // namespace gptoss
