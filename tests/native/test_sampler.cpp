#include <algorithm>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "engine/sampler.h"
#include "harness.h"

namespace gptoss::test {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

int32_t draw(std::vector<float> logits, const SamplingParams& params, uint64_t index = 0,
             const TokenCounts& counts = {}) {
  return sample(logits, params, counts, index).token;
}

// The probabilities that the parameters leave, by sorting.
std::vector<double> distribution(const std::vector<float>& logits, const SamplingParams& params) {
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  std::vector<double> p(logits.size(), 0.0);
  const double top = logits[order[0]];
  for (size_t rank = 0; rank < order.size(); ++rank) {
    const double weight = std::exp((logits[order[rank]] - top) / params.temperature);
    if (weight < params.min_p || (params.top_k > 0 && rank >= static_cast<size_t>(params.top_k))) {
      break;
    }
    p[order[rank]] = weight;
  }
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  double sum = 0.0;
  for (const size_t token : order) {
    const bool kept = sum < params.top_p * total;
    sum += p[token];
    if (!kept) p[token] = 0.0;
  }
  const double kept_total = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= kept_total;
  return p;
}

GPTOSS_TEST(tokens_are_drawn_as_often_as_they_should) {
  Random random(21);
  const std::vector<float> logits = random.floats(60, 3.0f);
  std::vector<SamplingParams> cases(7);
  cases[1].temperature = 0.5f;
  cases[2].top_k = 5;
  cases[3].top_p = 0.6f;
  cases[4].min_p = 0.2f;
  cases[5].top_k = 20;
  cases[5].top_p = 0.8f;
  cases[6].temperature = 2.0f;
  cases[6].min_p = 0.05f;
  cases[6].top_p = 0.9f;
  for (size_t c = 0; c < cases.size(); ++c) {
    const std::vector<double> p = distribution(logits, cases[c]);
    constexpr int kDraws = 3000;
    std::vector<int> counts(logits.size(), 0);
    for (int i = 0; i < kDraws; ++i) {
      ++counts[static_cast<size_t>(draw(logits, cases[c], static_cast<uint64_t>(i)))];
    }
    for (size_t token = 0; token < p.size(); ++token) {
      // 5 standard deviations of the binomial, and one draw for what is rare.
      const double slack = 5 * std::sqrt(kDraws * p[token] * (1 - p[token])) + 1;
      const bool possible = p[token] > 0 ? true : counts[token] == 0;
      GPTOSS_CHECK(possible && is_near(counts[token], kDraws * p[token], slack), "case ", c,
                   " token ", token, ": ", counts[token], " of ", kDraws * p[token]);
    }
  }
}

GPTOSS_TEST(greedy_takes_the_highest_and_of_equals_the_first) {
  SamplingParams greedy;
  greedy.temperature = 0.0f;
  GPTOSS_CHECK(draw({1, 5, 5, 2}, greedy) == 1);
  GPTOSS_CHECK(draw({-kInf, -kInf, -3, -4}, greedy) == 2);
  GPTOSS_CHECK_THROWS(std::runtime_error, draw({kNan, -3}, greedy));
  GPTOSS_CHECK_THROWS(std::runtime_error, draw({-kInf, -kInf}, greedy));
  greedy.logit_bias = {{3, 10.0f}};
  GPTOSS_CHECK(draw({1, 5, 5, 2}, greedy) == 3);
  GPTOSS_CHECK_THROWS(std::runtime_error, draw({1, kInf}, SamplingParams{}));
}

GPTOSS_TEST(the_same_seed_and_index_draw_the_same_token) {
  Random random(22);
  const std::vector<float> logits = random.floats(1000);
  SamplingParams params;
  std::set<int32_t> tokens;
  for (uint64_t index = 0; index < 20; ++index) {
    params.seed = 7;
    GPTOSS_CHECK(draw(logits, params, index) == draw(logits, params, index));
    tokens.insert(draw(logits, params, index));
    params.seed = 8;
    tokens.insert(draw(logits, params, index));
  }
  GPTOSS_CHECK(tokens.size() > 30, tokens.size());
}

GPTOSS_TEST(penalties_count_prompt_and_output) {
  SamplingParams params;
  params.temperature = 0.0f;
  TokenCounts counts;
  counts.add_prompt(0);
  counts.add_output(1);
  counts.add_output(1);
  const std::vector<float> logits = {4.0f, 3.9f, 3.0f, -1.0f};
  params.presence_penalty = 0.5f;  // the prompt is not concerned
  GPTOSS_CHECK(draw(logits, params, 0, counts) == 0);
  params.presence_penalty = 0.0f;
  params.repetition_penalty = 1.4f;  // the prompt is
  GPTOSS_CHECK(draw(logits, params, 0, counts) == 2);
  params.repetition_penalty = 1.0f;
  params.frequency_penalty = -0.1f;  // twice
  GPTOSS_CHECK(draw(logits, params, 0, counts) == 1);
}

GPTOSS_TEST(logprobs_come_from_the_logits_as_given) {
  Random random(23);
  const std::vector<float> logits = random.floats(50, 4.0f);
  double total = 0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit));
  SamplingParams params;
  params.temperature = 0.3f;
  params.top_k = 2;
  params.logprobs = 3;
  std::vector<float> scratch = logits;
  const Sample chosen = sample(scratch, params, {}, 5);
  // A float's rounding, relative to values of up to 10.
  constexpr double kTolerance = 10 * 2 * kUnit;
  const auto expected = [&](int32_t token) {
    return logits[static_cast<size_t>(token)] - std::log(total);
  };
  GPTOSS_CHECK(is_near(chosen.logprob, expected(chosen.token), kTolerance));
  GPTOSS_CHECK(chosen.top.size() == 3);
  std::vector<float> sorted = logits;
  std::sort(sorted.rbegin(), sorted.rend());
  for (size_t i = 0; i < 3; ++i) {
    GPTOSS_CHECK(logits[static_cast<size_t>(chosen.top[i].token)] == sorted[i]);
    GPTOSS_CHECK(is_near(chosen.top[i].logprob, expected(chosen.top[i].token), kTolerance));
  }
}

}  // namespace
}  // namespace gptoss::test
