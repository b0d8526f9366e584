// Chooses one token from a row of logits, or scores a given one.
//   logits (V)              f32  read only
//   mask   (ceil(V/32))     u32  nullable; bit t % 32 of word t / 32 set: token t is allowed
// The same row gives the same token on every device: what follows fixes each rounding. Operations
// are f32, one rounding each, none contracted; fma is fused; subnormal numbers count.
//
// Possible tokens. A logit of -inf makes its token impossible, as its bit of the mask does: it is
// neither drawn nor counted by a cut. A NaN, +inf, or no finite logit at all is the status
// non_finite, no token that is possible and allowed empty_mask; neither gives a token.
//
// Logits. z = x; a bias is added: z = x + bias. Then, for a token of `counts` and |z| < 1e29:
//   z = z > 0 ? z / repetition_penalty : z * repetition_penalty
//   z = z - frequency_penalty * count
//   z = z - presence_penalty                if count > 0
//   z = min(max(z, -1e29), 1e29)
// and last, for every token, z = min(max(z, -1e30), 1e30). So parameters cannot make a logit
// non-finite, and a token banned or forced by a bias of +-1e30 and beyond stays so whatever the
// penalties do.
//
// The order of tokens: higher z first, of equal ones the lower id. Temperature 0 takes the first.
//
// Masses, probabilities relative to the likeliest token as integers of 40 fraction bits. With
// scale = log2(e) / temperature, computed in f64, rounded to f32 and kept within
// [2^-126, (2 - 2^-23) 2^127], and z_max the highest z of the possible tokens:
//   y = max((z - z_max) * scale, -64)
//   n = y rounded to a whole number, ties to even;   f = y - n  (exact)
//   p = kExp2[6];  p = fma(p, f, kExp2[i]) for i = 5, ..., 0
//   v = p * 2^(n + 40)  (exact)
//   mass = v < min_p * 2^40 ? 0 : v rounded to a whole number, ties to even
// The likeliest token has exactly 2^40. Sums of masses are exact in 64 bits, in any order.
//
// Cuts. top_k keeps the first k tokens of the order. top_p keeps the shortest beginning of it whose
// mass reaches max(1, floor(M * top_p)), M the mass of what top_k left and top_p a binary fraction
// of 64 digits.
//
// The draw. With M the mass of what is left, the token is the first, by id, at which the sum of
// masses exceeds the high 64 bits of M * random_bits(seed, index).
//
// Log-probabilities are of the softmax of x, before any change: x - x_max - log(sum of masses of x
// at temperature 1, less 40 binary digits), in f64, rounded to f32. The logarithm is the
// platform's: its last digit is not part of the contract. The top n are the first n in the order of
// x, -inf left out.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "core/check.h"

namespace gptoss {

inline constexpr int kMaxLogprobs = 20;  // alternatives that a row reports at most

struct TokenLogprob {
  int32_t token;
  float logprob;
};

struct TokenBias {
  int32_t token;
  float bias;
};

// Occurrences of a token in the output; a token of the prompt alone has 0.
struct TokenCount {
  int32_t token;
  int32_t count;
};

namespace ops {

// Masses of 2^24 tokens still add up in 64 bits.
inline constexpr int32_t kMaxVocabSize = (1 << 24) - 1;
inline constexpr float kLogitLimit = 1e30f;
inline constexpr float kPenaltyLimit = 1e29f;
inline constexpr int kMassBits = 40;
inline constexpr float kLowestExponent = -64.0f;

// 2^f on [-1/2, 1/2]: the first coefficient is 1, so that 2^0 is, the others minimise the largest
// relative error (2e-9; with the roundings 1.4 * 2^-24).
inline constexpr float kExp2[] = {1.0f,           0x1.62e430p-1f,  0x1.ebfbdcp-3f, 0x1.c6aee8p-5f,
                                  0x1.3b2d4cp-7f, 0x1.5f3e54p-10f, 0x1.41fbbcp-13f};

// How a row's token is chosen.
struct SamplingRule {
  float temperature = 1.0f;         // >= 0
  float top_p = 1.0f;               // (0, 1]
  float min_p = 0.0f;               // [0, 1]
  int32_t top_k = 0;                // 0: all
  float repetition_penalty = 1.0f;  // > 0, over prompt and output
  float presence_penalty = 0.0f;    // over the output
  float frequency_penalty = 0.0f;   // over the output
  uint64_t seed = 0;
  int32_t n_logprobs = -1;  // -1: none; 0: the token's own; n: the n likeliest as well
};

struct SampleRow {
  const float* logits;
  int32_t vocab_size;
  const SamplingRule* rule;
  uint64_t index = 0;                    // of the token in the output
  std::span<const TokenCount> counts{};  // any order, each token once; read if a penalty is set
  std::span<const TokenBias> biases{};   // any order, each token once
  const uint32_t* mask = nullptr;
  int32_t target = -1;  // >= 0: scored instead of sampled, with its log-probability and the top n
};

enum class SampleStatus : uint8_t { ok, non_finite, empty_mask };

struct SampledRow {
  int32_t token = -1;  // -1 unless the status is ok
  float logprob = 0;   // of `token`; 0 where none was asked for
  int32_t n_top = 0;
  TokenLogprob top[kMaxLogprobs];  // the n_top likeliest
  SampleStatus status = SampleStatus::ok;
};

// A finaliser of splitmix64 (Steele, Lea, Flood 2014) in two rounds over seed and index.
inline uint64_t random_bits(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15ull;
  for (int round = 0; round < 2; ++round) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    z += seed;
  }
  return z;
}

// The factor of a distance from the highest logit that makes it an exponent of 2.
inline float exponent_scale(float temperature) {
  constexpr double kLog2E = 0x1.71547652b82fep+0;
  const double scale = kLog2E / static_cast<double>(temperature);
  if (!(scale < static_cast<double>(std::numeric_limits<float>::max()))) {
    return std::numeric_limits<float>::max();
  }
  const auto rounded = static_cast<float>(scale);
  return rounded > std::numeric_limits<float>::min() ? rounded : std::numeric_limits<float>::min();
}

// top_p < 1 as a fraction of 64 binary digits.
inline uint64_t top_p_fraction(float top_p) {
  return static_cast<uint64_t>(static_cast<double>(top_p) * 0x1p64);
}

inline bool has_penalties(const SamplingRule& rule) {
  return rule.repetition_penalty != 1.0f || rule.presence_penalty != 0.0f ||
         rule.frequency_penalty != 0.0f;
}

inline void validate(const SamplingRule& rule) {
  check(rule.temperature >= 0.0f && std::isfinite(rule.temperature),
        "[sample] temperature must be at least 0 and finite, got ", rule.temperature);
  check(rule.top_p > 0.0f && rule.top_p <= 1.0f, "[sample] top_p must be in (0, 1], got ",
        rule.top_p);
  check(rule.min_p >= 0.0f && rule.min_p <= 1.0f, "[sample] min_p must be in [0, 1], got ",
        rule.min_p);
  check(rule.top_k >= 0, "[sample] top_k must not be negative, got ", rule.top_k);
  check(rule.repetition_penalty > 0.0f && std::isfinite(rule.repetition_penalty),
        "[sample] repetition_penalty must be positive and finite, got ", rule.repetition_penalty);
  check(std::isfinite(rule.presence_penalty) && std::isfinite(rule.frequency_penalty),
        "[sample] presence_penalty and frequency_penalty must be finite, got ",
        rule.presence_penalty, " and ", rule.frequency_penalty);
  check(rule.n_logprobs >= -1 && rule.n_logprobs <= kMaxLogprobs,
        "[sample] logprobs must be at most ", kMaxLogprobs, ", got ", rule.n_logprobs);
}

// Of what does not lie in arrays.
inline void validate(const SampleRow& row) {
  check(row.vocab_size >= 1 && row.vocab_size <= kMaxVocabSize, "[sample] logits must have 1 to ",
        kMaxVocabSize, " entries, got ", row.vocab_size);
  check(row.target >= -1 && row.target < row.vocab_size, "[sample] target must lie in [0, ",
        row.vocab_size, "), got ", row.target);
  validate(*row.rule);
}

// Of what does.
inline void validate_values(const SampleRow& row) {
  const auto check_token = [&](int32_t token) {
    check(token >= 0 && token < row.vocab_size, "[sample] token ids must lie in [0, ",
          row.vocab_size, "), got ", token);
  };
  for (const TokenCount& entry : row.counts) {
    check_token(entry.token);
    check(entry.count >= 0, "[sample] counts must not be negative, got ", entry.count);
  }
  for (const TokenBias& entry : row.biases) {
    check_token(entry.token);
    check(std::isfinite(entry.bias), "[sample] a bias must be finite, got ", entry.bias);
  }
}

}  // namespace ops
}  // namespace gptoss
