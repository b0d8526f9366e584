#include "engine/drafter.h"

#include <algorithm>
#include <bit>

namespace gptoss {
namespace {

// Lengths of the runs of tokens that are indexed, the longest looked up first. One token alone
// occurs again too often to say anything.
constexpr size_t kGrams[] = {4, 3, 2};
constexpr size_t kShortestGram = kGrams[std::size(kGrams) - 1];

// Longer matches are not told apart.
constexpr int kLongestMatch = 16;

// Shares of right guesses to begin with, by class of length: what the texts of bench_speculative.py
// that are not copied have, about. The gain hardly depends on them, nor on the runs' lengths and
// the learning rate (1/4 to 1/64).
constexpr std::array<float, 6> kFirstHitRates = {0.35f, 0.45f, 0.55f, 0.7f, 0.8f, 0.9f};
// The weight of the latest token in them.
constexpr float kLearningRate = 1.0f / 16.0f;

// 2, 3, 4-5, 6-7, 8-15, 16 and more.
size_t length_class(int length) {
  if (length < 4) return static_cast<size_t>(length) - kShortestGram;
  if (length < 8) return length < 6 ? 2 : 3;
  return length < kLongestMatch ? 4 : 5;
}

}  // namespace

Drafter::Drafter(std::span<const int32_t> prompt) : hit_rates_(kFirstHitRates) {
  reserve(prompt);
  match_ = look_up(prompt);
}

// Multiplies and mixes, a whole token at a time.
size_t Drafter::slot(std::span<const int32_t> gram) const {
  uint64_t hash = 0xcbf29ce484222325ull + gram.size();
  for (const int32_t token : gram) {
    hash = (hash ^ static_cast<uint32_t>(token)) * 0x9e3779b97f4a7c15ull;
    hash ^= hash >> 32;
  }
  return static_cast<size_t>(hash) & (slots_.size() - 1);
}

// At least two slots for every run of tokens; when they run out, twice as many.
void Drafter::reserve(std::span<const int32_t> tokens) {
  const size_t needed = 2 * std::size(kGrams) * tokens.size();
  if (needed <= slots_.size()) return;
  slots_.assign(std::bit_ceil(std::max<size_t>(needed, 1024)), 0);
  for (size_t next = kShortestGram; next < tokens.size(); ++next) index(tokens, next);
}

void Drafter::index(std::span<const int32_t> tokens, size_t next) {
  for (const size_t n : kGrams) {
    if (n <= next) slots_[slot(tokens.subspan(next - n, n))] = static_cast<int32_t>(next);
  }
}

Drafter::Match Drafter::look_up(std::span<const int32_t> tokens) const {
  for (const size_t n : kGrams) {
    if (n > tokens.size()) continue;
    const auto next = static_cast<size_t>(slots_[slot(tokens.last(n))]);
    const auto before = tokens.subspan(0, next).last(std::min<size_t>(next, kLongestMatch));
    const auto end = std::mismatch(before.rbegin(), before.rend(), tokens.rbegin()).first;
    const auto length = static_cast<size_t>(end - before.rbegin());
    if (length >= n) return {next, static_cast<int>(length)};
  }
  return {};
}

void Drafter::push(std::span<const int32_t> tokens) {
  bool hit = false;
  if (match_.length > 0) {
    hit = tokens[match_.next] == tokens.back();
    float& rate = hit_rates_[length_class(match_.length)];
    rate += kLearningRate * ((hit ? 1.0f : 0.0f) - rate);
  }
  reserve(tokens);
  index(tokens, tokens.size() - 1);
  // An occurrence that goes on is followed, else the latest one is taken.
  match_ =
      hit ? Match{match_.next + 1, std::min(match_.length + 1, kLongestMatch)} : look_up(tokens);
}

std::vector<int32_t> Drafter::draft(std::span<const int32_t> tokens, int limit,
                                    StepYield& step) const {
  std::vector<int32_t> guesses;
  if (match_.length == 0) return guesses;
  double probability = 1.0;
  for (int i = 0; i < std::min(limit, kMaxTokens); ++i) {
    probability *= hit_rates_[length_class(match_.length + i)];
    if (!step.add(probability)) break;
    const size_t next = match_.next + static_cast<size_t>(i);
    // Past the end of the text the guesses themselves go on: a loop.
    guesses.push_back(next < tokens.size() ? tokens[next] : guesses[next - tokens.size()]);
  }
  return guesses;
}

}  // namespace gptoss
