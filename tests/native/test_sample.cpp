// The sampling op on every instruction set against a plain model that sorts, and against each
// other: tokens and masses are the same bits everywhere, scalar included.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "core/fma.h"
#include "core/thread_pool.h"
#include "cpu/sample.h"
#include "harness.h"

namespace gptoss::test {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int kSizes[] = {1, 2, 15, 16, 17, 63, 64, 65, 129, 1023, 1024, 1025, 4100};

enum class Kind { flat, peaked, ties, equal, wide, impossible };
constexpr Kind kKinds[] = {Kind::flat,  Kind::peaked, Kind::ties,
                           Kind::equal, Kind::wide,   Kind::impossible};

std::vector<float> make_logits(Kind kind, int size, uint64_t seed) {
  Random random(seed);
  std::vector<float> logits = random.floats(static_cast<size_t>(size), 4.0f);
  for (float& logit : logits) {
    switch (kind) {
      case Kind::flat:
        break;
      case Kind::peaked:
        logit += random.below(40) == 0 ? 15.0f : 0.0f;
        break;
      case Kind::ties:
        logit = std::round(logit);
        break;
      case Kind::equal:
        logit = -2.5f;
        break;
      case Kind::wide:
        logit = std::ldexp(logit, random.below(160) - 80);
        break;
      case Kind::impossible:
        logit = random.below(2) == 0 ? logit : -kInf;
        break;
    }
  }
  logits[static_cast<size_t>(random.below(size))] = 4.0f;
  return logits;
}

uint64_t high_product(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>(static_cast<Wide>(a) * b >> 64);
}

// The contract's mass of one token, with the library's fused multiply-add.
uint64_t mass_of(float z, float top, const ops::SamplingRule& rule) {
  const float y = std::max((z - top) * ops::exponent_scale(rule.temperature), ops::kLowestExponent);
  const float n = std::nearbyint(y);
  const float f = y - n;
  float p = ops::kExp2[6];
  for (int i = 5; i >= 0; --i) p = std::fma(p, f, ops::kExp2[i]);
  const float v = std::ldexp(p, static_cast<int>(n) + ops::kMassBits);
  return v < rule.min_p * 0x1p40f ? 0 : static_cast<uint64_t>(std::nearbyint(v));
}

std::vector<size_t> order_of(const std::vector<float>& z) {
  std::vector<size_t> order(z.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return z[a] > z[b]; });
  return order;
}

// The token of logits that no bias, penalty or mask changes, all within the limit.
int32_t plain_token(const std::vector<float>& z, const ops::SamplingRule& rule, uint64_t index) {
  const std::vector<size_t> order = order_of(z);
  if (rule.temperature == 0.0f) return static_cast<int32_t>(order[0]);
  std::vector<uint64_t> masses(z.size());
  for (size_t i = 0; i < z.size(); ++i) masses[i] = mass_of(z[i], z[order[0]], rule);
  const auto total = [&] { return std::accumulate(masses.begin(), masses.end(), uint64_t{0}); };
  const auto cut_after = [&](size_t kept) {
    for (size_t rank = kept; rank < order.size(); ++rank) masses[order[rank]] = 0;
  };
  if (rule.top_k > 0) cut_after(static_cast<size_t>(rule.top_k));
  if (rule.top_p < 1.0f) {
    const uint64_t target =
        std::max<uint64_t>(1, high_product(total(), ops::top_p_fraction(rule.top_p)));
    uint64_t sum = 0;
    size_t kept = 0;
    while (sum < target) sum += masses[order[kept++]];
    cut_after(kept);
  }
  uint64_t place = high_product(total(), ops::random_bits(rule.seed, index));
  int32_t token = 0;
  for (; place >= masses[static_cast<size_t>(token)]; ++token) {
    place -= masses[static_cast<size_t>(token)];
  }
  return token;
}

std::vector<ops::SamplingRule> make_rules() {
  return {
      {.temperature = 0.0f},  {},
      {.temperature = 0.3f},  {.temperature = 1e-44f},
      {.temperature = 3e38f}, {.min_p = 0.1f},
      {.min_p = 1.0f},        {.top_k = 1},
      {.top_k = 5},           {.top_k = 700},
      {.top_p = 0.9f},        {.top_p = 1e-30f},
      {.top_p = 0.99999994f}, {.temperature = 1.4f, .top_p = 0.7f, .min_p = 0.01f, .top_k = 50}};
}

GPTOSS_TEST(sampled_tokens_are_those_of_the_plain_model) {
  cpu::SampleScratch scratch;  // one for all, so that nothing of another row is left in it
  for (const Kind kind : kKinds) {
    for (const int size : kSizes) {
      const std::vector<float> logits = make_logits(kind, size, static_cast<uint64_t>(size));
      const Input<float> input(logits, sizeof(float));
      for (const ops::SamplingRule& rule : make_rules()) {
        for (uint64_t index = 0; index < 3; ++index) {
          const int32_t expected = plain_token(logits, rule, index);
          for (const cpu::Kernels* kernels : supported_kernels()) {
            const ops::SampledRow found = cpu::sample(
                *kernels,
                {.logits = input.data(), .vocab_size = size, .rule = &rule, .index = index},
                scratch);
            GPTOSS_CHECK(found.status == ops::SampleStatus::ok && found.token == expected,
                         kernels->name, " kind ", static_cast<int>(kind), " size ", size, ": ",
                         found.token, " for ", expected);
          }
        }
      }
    }
  }
}

GPTOSS_TEST(fused_multiply_add_in_f64_is_the_librarys) {
  // Just beside halfway, where rounding to f64 first goes to the wrong side.
  const float below[] = {0x1.00004p-12f, 0x1.ffff8p-13f, 1 + 0x1p-23f};
  GPTOSS_CHECK(exact_fma(below[0], below[1], below[2]) == 1 + 0x1p-23f);
  GPTOSS_CHECK(static_cast<float>(static_cast<double>(below[0]) * below[1] + below[2]) ==
               1 + 0x1p-22f);
  Random random(3);
  for (int i = 0; i < 200'000; ++i) {
    // Exponents near each other, and some that end in subnormal numbers.
    const int shift = i % 10 == 0 ? -70 : 0;
    const auto number = [&](int spread) {
      return std::ldexp(random.uniform(), shift + random.below(spread) - spread / 2);
    };
    const float a = number(30);
    const float b = number(30);
    const float c = std::ldexp(number(30), shift);
    GPTOSS_CHECK(exact_fma(a, b, c) == std::fma(a, b, c), a, " ", b, " ", c);
    GPTOSS_CHECK(exact_fma(below[0], std::ldexp(below[1], -i % 40), below[2] + c) ==
                 std::fma(below[0], std::ldexp(below[1], -i % 40), below[2] + c));
  }
}

// Every mass by itself, so that the fused multiply-adds of all instruction sets are seen to be
// those of the library, also where their rounding is close.
GPTOSS_TEST(masses_are_the_same_bits_everywhere) {
  constexpr int kValues = 300'000;
  Random random(5);
  std::vector<float> logits(kValues);
  for (float& logit : logits) {
    const float number = random.uniform() - 1.0f;  // first: compilers order arguments differently
    logit = std::ldexp(number, random.below(10));
  }
  for (const ops::SamplingRule& rule :
       {ops::SamplingRule{}, ops::SamplingRule{.temperature = 0.37f, .min_p = 1e-6f}}) {
    const cpu::MassRule masses = {0.0f, ops::exponent_scale(rule.temperature),
                                  rule.min_p * 0x1p40f};
    for (const cpu::Kernels* kernels : supported_kernels()) {
      for (int begin = 0; begin < kValues; begin += cpu::kMassBlock) {
        const int size = std::min(cpu::kMassBlock, kValues - begin);
        Output<float> found(static_cast<size_t>(size));
        const uint64_t sum =
            kernels->sample.sum_masses(logits.data() + begin, size, masses, -kInf, found.data());
        uint64_t expected_sum = 0;
        const std::vector<float> values = found.values();
        for (int i = 0; i < size; ++i) {
          const uint64_t expected = mass_of(logits[static_cast<size_t>(begin + i)], 0.0f, rule);
          GPTOSS_CHECK(values[static_cast<size_t>(i)] == static_cast<float>(expected),
                       kernels->name, " ", logits[static_cast<size_t>(begin + i)]);
          expected_sum += expected;
        }
        GPTOSS_CHECK(sum == expected_sum && found.intact(), kernels->name);
        note_bits(*kernels, "sample masses", values);
      }
    }
  }
}

GPTOSS_TEST(changed_rows_are_sampled_alike_by_all) {
  Random random(11);
  cpu::SampleScratch scratch;
  for (const int size : kSizes) {
    for (int round = 0; round < 20; ++round) {
      std::vector<float> logits = make_logits(kKinds[round % 6], size, random.bits());
      std::vector<TokenBias> biases;
      std::vector<TokenCount> counts;
      for (int32_t token = 0; token < size; ++token) {
        if (random.below(4) == 0) biases.push_back({token, random.uniform() * 5});
        if (random.below(4) == 0) counts.push_back({token, random.below(3)});
      }
      std::vector<uint32_t> mask(static_cast<size_t>((size + 31) / 32));
      for (uint32_t& word : mask) word = static_cast<uint32_t>(random.bits() >> 32);
      const Input<uint32_t> allowed(mask, sizeof(uint32_t));
      const ops::SamplingRule rule = {.temperature = round % 3 == 0 ? 0.0f : 0.8f,
                                      .top_p = round % 2 == 0 ? 1.0f : 0.8f,
                                      .repetition_penalty = 1.3f,
                                      .presence_penalty = 0.4f,
                                      .frequency_penalty = 0.2f};
      ops::SampleRow row = {.logits = logits.data(),
                            .vocab_size = size,
                            .rule = &rule,
                            .index = static_cast<uint64_t>(round),
                            .counts = counts,
                            .biases = biases};
      if (round % 4 < 3) row.mask = allowed.data();
      // The contract's logits, one by one.
      std::vector<float> z = logits;
      for (const TokenBias& entry : biases) z[static_cast<size_t>(entry.token)] += entry.bias;
      for (const TokenCount& entry : counts) {
        float& logit = z[static_cast<size_t>(entry.token)];
        logit = logit > 0 ? logit / 1.3f : logit * 1.3f;
        logit -= 0.2f * static_cast<float>(entry.count);
        if (entry.count > 0) logit -= 0.4f;
      }
      bool any = false;
      for (size_t i = 0; i < z.size(); ++i) {
        if (row.mask != nullptr && (mask[i / 32] >> i % 32 & 1) == 0) z[i] = -kInf;
        any |= z[i] > -kInf;
      }
      const int32_t expected = any ? plain_token(z, rule, row.index) : -1;
      for (const cpu::Kernels* kernels : supported_kernels()) {
        const ops::SampledRow found = cpu::sample(*kernels, row, scratch);
        GPTOSS_CHECK(found.token == expected, kernels->name, " size ", size, " round ", round);
        GPTOSS_CHECK((found.status == ops::SampleStatus::ok) == any);
        GPTOSS_CHECK(any || found.status == ops::SampleStatus::empty_mask);
      }
    }
  }
}

GPTOSS_TEST(rows_without_a_token_say_why) {
  const ops::SamplingRule rule;
  cpu::SampleScratch scratch;
  for (const cpu::Kernels* kernels : supported_kernels()) {
    for (const int size : kSizes) {
      const auto status_of = [&](const std::vector<float>& logits, const uint32_t* mask) {
        return cpu::sample(
                   *kernels,
                   {.logits = logits.data(), .vocab_size = size, .rule = &rule, .mask = mask},
                   scratch)
            .status;
      };
      std::vector<float> logits = make_logits(Kind::flat, size, 1);
      const std::vector<uint32_t> none(static_cast<size_t>((size + 31) / 32), 0);
      GPTOSS_CHECK(status_of(logits, nullptr) == ops::SampleStatus::ok);
      GPTOSS_CHECK(status_of(logits, none.data()) == ops::SampleStatus::empty_mask);
      for (const float bad : {kNan, -kNan, kInf}) {
        for (const int place : {0, size / 2, size - 1}) {
          std::vector<float> damaged = logits;
          damaged[static_cast<size_t>(place)] = bad;
          GPTOSS_CHECK(status_of(damaged, nullptr) == ops::SampleStatus::non_finite);
          GPTOSS_CHECK(status_of(damaged, none.data()) == ops::SampleStatus::non_finite);
        }
      }
      logits.assign(logits.size(), -kInf);
      GPTOSS_CHECK(status_of(logits, nullptr) == ops::SampleStatus::non_finite);
    }
  }
}

GPTOSS_TEST(log_probabilities_by_sorting) {
  cpu::SampleScratch scratch;
  for (const Kind kind : {Kind::flat, Kind::peaked, Kind::ties, Kind::equal}) {
    for (const int size : kSizes) {
      const std::vector<float> logits = make_logits(kind, size, 8);
      const std::vector<size_t> order = order_of(logits);
      const double top = logits[order[0]];
      double total = 0;
      for (const float logit : logits) total += std::exp(logit - top);
      // Of distances up to 27, and logarithms up to 9: the rounding of the exponents and results.
      constexpr double kTolerance = 40 * kUnit;
      for (const int n : {0, 1, 20}) {
        const ops::SamplingRule rule = {.temperature = 0.5f, .top_k = 3, .n_logprobs = n};
        for (const cpu::Kernels* kernels : supported_kernels()) {
          const int32_t target = size / 2;
          const ops::SampledRow row = cpu::sample(
              *kernels,
              {.logits = logits.data(), .vocab_size = size, .rule = &rule, .target = target},
              scratch);
          GPTOSS_CHECK(row.token == target && row.n_top == std::min(n, size));
          const auto is_expected = [&](int32_t token, float logprob) {
            return is_near(logprob, logits[static_cast<size_t>(token)] - top - std::log(total),
                           kTolerance);
          };
          GPTOSS_CHECK(is_expected(target, row.logprob), row.logprob);
          for (int i = 0; i < row.n_top; ++i) {
            GPTOSS_CHECK(row.top[i].token == static_cast<int32_t>(order[static_cast<size_t>(i)]));
            GPTOSS_CHECK(is_expected(row.top[i].token, row.top[i].logprob));
          }
        }
      }
    }
  }
}

GPTOSS_TEST(rows_in_parallel_are_rows_alone) {
  constexpr int kRows = 24;
  constexpr int kVocab = 5000;
  const std::vector<ops::SamplingRule> rules = make_rules();
  std::vector<std::vector<float>> logits;
  for (int i = 0; i < kRows; ++i) {
    logits.push_back(make_logits(kKinds[i % 6], kVocab, static_cast<uint64_t>(i)));
  }
  const cpu::Kernels& kernels = *supported_kernels().front();
  const auto token_of = [&](int64_t i, cpu::SampleScratch& scratch) {
    const auto place = static_cast<size_t>(i);
    const ops::SampleRow row = {.logits = logits[place].data(),
                                .vocab_size = kVocab,
                                .rule = &rules[place % rules.size()],
                                .index = place};
    return cpu::sample(kernels, row, scratch).token;
  };
  std::vector<int32_t> together(kRows);
  ThreadPool pool(4);
  pool.run(kRows, [&](int64_t i) {
    thread_local cpu::SampleScratch scratch;
    together[static_cast<size_t>(i)] = token_of(i, scratch);
  });
  cpu::SampleScratch scratch;
  for (int64_t i = 0; i < kRows; ++i) {
    GPTOSS_CHECK(together[static_cast<size_t>(i)] == token_of(i, scratch));
  }
}

}  // namespace
}  // namespace gptoss::test
