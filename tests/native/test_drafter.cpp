// The drafter on texts whose repetitions are known.
#include <algorithm>
#include <vector>

#include "engine/drafter.h"
#include "harness.h"

namespace gptoss::test {
namespace {

// A further token takes 0.4 of the time of a step of one.
constexpr StepCost kCost = {.fixed = 0.6, .per_token = 0.4};

using Tokens = std::vector<int32_t>;

Tokens draft(const Drafter& drafter, const Tokens& text, int limit, int step_tokens = 1) {
  StepYield step(kCost, step_tokens);
  return drafter.draft(text, limit, step);
}

void write(Drafter& drafter, Tokens& text, const Tokens& more) {
  for (const int32_t token : more) {
    text.push_back(token);
    drafter.push(text);
  }
}

// 0 to n - 1.
Tokens count_up(int n) {
  Tokens text(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) text[static_cast<size_t>(i)] = i;
  return text;
}

GPTOSS_TEST(guesses_go_on_where_the_text_occurred_before) {
  Tokens text = count_up(40);
  Drafter drafter(text);
  GPTOSS_CHECK(draft(drafter, text, 8).empty());
  write(drafter, text, {7});
  GPTOSS_CHECK(draft(drafter, text, 8).empty());  // one token says nothing
  write(drafter, text, {8, 9, 10, 11, 12});
  const Tokens guesses = draft(drafter, text, 2);
  GPTOSS_CHECK(guesses == (Tokens{13, 14}));
  GPTOSS_CHECK(draft(drafter, text, 0).empty() && draft(drafter, text, -1).empty());
  write(drafter, text, {99});
  GPTOSS_CHECK(draft(drafter, text, 8).empty());
}

GPTOSS_TEST(guesses_follow_the_latest_occurrence) {
  Tokens text = {1, 2, 3, 4, 50, 1, 2, 3, 4, 60, 1, 2, 3, 4};
  const Drafter drafter(text);
  GPTOSS_CHECK(draft(drafter, text, 1) == Tokens{60});
}

GPTOSS_TEST(guesses_prefer_the_longer_occurrence) {
  // 3 4 occurred last before 70, but 1 2 3 4 before 50.
  Tokens text = {1, 2, 3, 4, 50, 51, 9, 3, 4, 70, 1, 2, 3, 4};
  const Drafter drafter(text);
  GPTOSS_CHECK(draft(drafter, text, 1) == Tokens{50});
}

GPTOSS_TEST(guesses_continue_a_loop_past_the_end) {
  Tokens text = {5, 6, 7, 5, 6, 7, 5, 6, 7, 5, 6, 7};
  Drafter drafter(text);
  for (int round = 0; round < 20; ++round) write(drafter, text, {5, 6, 7});
  const Tokens guesses = draft(drafter, text, 100);
  GPTOSS_CHECK(static_cast<int>(guesses.size()) == Drafter::kMaxTokens);
  for (size_t i = 0; i < guesses.size(); ++i) {
    GPTOSS_CHECK(guesses[i] == 5 + static_cast<int32_t>(i % 3));
  }
}

GPTOSS_TEST(guesses_stop_while_they_fail_and_come_back) {
  // Pairs that were followed by something else every time.
  Random random(5);
  Tokens text;
  Drafter drafter(text);
  int late = 0;
  for (int i = 0; i < 600; ++i) {
    if (i > 300) late += !draft(drafter, text, 8).empty();
    write(drafter, text, {1, 2, 100 + i});
  }
  GPTOSS_CHECK(late == 0, late);
  const Tokens quoted = count_up(60);
  write(drafter, text, quoted);
  int guessed = 0;
  for (const int32_t token : quoted) {
    const Tokens guesses = draft(drafter, text, 8);
    guessed += !guesses.empty() && guesses[0] == token;
    write(drafter, text, {token});
  }
  GPTOSS_CHECK(guessed > 50, guessed);
}

GPTOSS_TEST(guesses_must_be_likelier_in_fuller_steps) {
  Tokens text = count_up(40);
  Drafter drafter(text);
  write(drafter, text, {7, 8, 9});
  size_t last = 100;
  for (const int step_tokens : {1, 2, 4, 8, 16, 500}) {
    const size_t count = draft(drafter, text, 8, step_tokens).size();
    GPTOSS_CHECK(count <= last, step_tokens);
    last = count;
  }
  GPTOSS_CHECK(last == 0);
}

GPTOSS_TEST(a_guess_pays_from_the_stated_share_on) {
  for (const int tokens : {1, 8}) {
    const double time = 1 + kCost.per_token * (tokens - 1);
    const double share = kCost.per_token * tokens / time;
    GPTOSS_CHECK(!StepYield(kCost, tokens).add(share - 1e-6) &&
                 StepYield(kCost, tokens).add(share + 1e-6));
  }
  // As many as make the yield, tokens by time, the highest.
  StepYield step(kCost, 1);
  int count = 0;
  for (double p = 0.8; step.add(p); p *= 0.8) ++count;
  const auto yield = [](int guesses) {
    double expected = 1.0;
    double p = 1.0;
    for (int i = 0; i < guesses; ++i) expected += p *= 0.8;
    return expected / (1 + kCost.per_token * guesses);
  };
  for (int other = 0; other < 10; ++other) {
    GPTOSS_CHECK(yield(count) >= yield(other) - 1e-12, count, " ", other);
  }
}

// A long text in pieces and at once give the same: nothing is lost when the index grows, except to
// tokens that meet in a slot.
GPTOSS_TEST(the_index_grows_with_the_text) {
  Random random(3);
  Tokens text(20000);
  for (int32_t& token : text) token = random.below(200000);
  Drafter whole(text);
  Tokens written(text.begin(), text.begin() + 10);
  Drafter grown(written);
  write(grown, written, {text.begin() + 10, text.end()});
  int found = 0;
  for (int i = 0; i < 100; ++i) {
    const int from = random.below(19000);
    const Tokens quote(text.begin() + from, text.begin() + from + 6);
    Tokens a = text;
    Drafter drafter = grown;
    write(drafter, a, quote);
    const Tokens guesses = draft(drafter, a, 1);
    found += guesses == Tokens{text[static_cast<size_t>(from) + 6]};
    Drafter same = whole;
    Tokens b = text;
    write(same, b, quote);
    GPTOSS_CHECK(draft(same, b, 1) == guesses, i);
  }
  GPTOSS_CHECK(found > 95, found);
}

}  // namespace
}  // namespace gptoss::test
