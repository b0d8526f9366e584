// Who takes which units, with threads whose clocks are scripted: no time passes, nothing is random.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "core/unit_shares.h"
#include "cpu/ops.h"
#include "harness.h"

namespace gptoss::test {
namespace {

void no_function(void*, int64_t, int64_t) {}

// A job on threads of which each does so many units in a second.
struct Outcome {
  double seconds = 0;             // until the last unit ended
  int64_t longest_range = 0;      // units
  std::vector<int64_t> units_of;  // [thread]
};

Outcome play(int64_t n_units, int64_t most, const std::vector<double>& speeds) {
  const size_t n_threads = speeds.size();
  UnitShares shares(static_cast<int>(n_threads));
  shares.open(1, n_units, most, no_function, nullptr);
  Outcome outcome;
  outcome.units_of.resize(n_threads);
  std::vector<int> runs(static_cast<size_t>(n_units), 0);
  std::vector<double> clocks(n_threads, 0.0);
  constexpr double kIdle = std::numeric_limits<double>::infinity();
  for (;;) {
    const auto next = std::min_element(clocks.begin(), clocks.end());
    if (*next == kIdle) break;
    const auto thread = static_cast<size_t>(next - clocks.begin());
    UnitShares::Range range{};
    if (!shares.take(1, static_cast<int>(thread), range)) {
      *next = kIdle;
      continue;
    }
    for (int64_t unit = range.begin; unit < range.end; ++unit) ++runs[static_cast<size_t>(unit)];
    const int64_t count = range.end - range.begin;
    *next += static_cast<double>(count) / speeds[thread];
    outcome.seconds = std::max(outcome.seconds, *next);
    outcome.longest_range = std::max(outcome.longest_range, count);
    outcome.units_of[thread] += count;
  }
  for (const int count : runs) GPTOSS_CHECK(count == 1, count);
  return outcome;
}

double ideal_seconds(int64_t n_units, const std::vector<double>& speeds) {
  double sum = 0;
  for (const double speed : speeds) sum += speed;
  return static_cast<double>(n_units) / sum;
}

struct Phase {
  const char* name;
  int64_t n_units, most;
};

Phase dense(const char* name, int rows, int tokens) {
  const cpu::RowUnits units = cpu::row_units(tokens);
  return {name, rows / units.rows, units.most};
}

// Those of gpt-oss-20b with much to do. Of the experts: 4 for a token, all 32 for a prompt.
std::vector<Phase> phases() {
  return {dense("q, k, v of a token", 5120, 1),
          dense("o of a token", 2880, 1),
          dense("unembedding", 201'088, 1),
          dense("q, k, v of 16 tokens", 5120, 16),
          dense("o of 16 tokens", 2880, 16),
          dense("q, k, v of a prompt", 5120, 512),
          dense("o of a prompt", 2880, 512),
          {"gate and up of a token", int64_t{4} * 5760 / cpu::kPanelRows, 1},
          {"down of a token", int64_t{4} * 2880 / cpu::kPanelRows, 1},
          {"gate and up of a prompt", int64_t{32} * 5760 / cpu::kPanelRows, 1},
          {"down of a prompt", int64_t{32} * 2880 / cpu::kPanelRows, 1}};
}

constexpr double kSlow = 0.45;  // an efficiency core beside a performance core

GPTOSS_TEST(threads_of_two_speeds_end_together) {
  const std::vector<std::pair<int, int>> machines = {{1, 1}, {2, 2}, {4, 4}, {1, 3}, {2, 6}};
  for (const auto& [fast, slow] : machines) {
    // Slow cores first or last: the thread of the caller is either.
    for (const bool slow_first : {false, true}) {
      std::vector<double> speeds(static_cast<size_t>(fast + slow), 1.0);
      const auto begin = slow_first ? speeds.begin() : speeds.begin() + fast;
      std::fill(begin, begin + slow, kSlow);
      for (const Phase& phase : phases()) {
        const double ratio =
            play(phase.n_units, phase.most, speeds).seconds / ideal_seconds(phase.n_units, speeds);
        GPTOSS_CHECK(ratio <= 1.1, phase.name, " on ", fast, " + ", slow, ": ", ratio);
      }
    }
  }
}

GPTOSS_TEST(threads_of_one_speed_do_the_same) {
  for (const int threads : {1, 2, 4, 8, 16}) {
    const std::vector<double> speeds(static_cast<size_t>(threads), 1.0);
    for (const Phase& phase : phases()) {
      const Outcome outcome = play(phase.n_units, phase.most, speeds);
      const auto [fewest, most] =
          std::minmax_element(outcome.units_of.begin(), outcome.units_of.end());
      GPTOSS_CHECK(*most - *fewest <= 1, phase.name, " on ", threads, ": ", *fewest, " to ", *most);
      GPTOSS_CHECK(outcome.longest_range <= phase.most, outcome.longest_range);
      // Most is done in ranges as long as they may be, where every thread has several of them.
      if (phase.n_units >= 4 * threads * phase.most) {
        GPTOSS_CHECK(outcome.longest_range == phase.most, phase.name, " on ", threads);
      }
    }
  }
}

// A thread that the system stops in its first range, and one that it stops all the time: the others
// do the rest, and wait for that range only.
GPTOSS_TEST(a_starved_thread_holds_up_no_more_than_its_range) {
  for (const int threads : {2, 4, 8}) {
    for (int starved = 0; starved < threads; ++starved) {
      std::vector<double> speeds(static_cast<size_t>(threads), 1.0);
      speeds[static_cast<size_t>(starved)] = 1e-6;
      std::vector<double> others(static_cast<size_t>(threads - 1), 1.0);
      for (const Phase& phase : phases()) {
        const Outcome outcome = play(phase.n_units, phase.most, speeds);
        const int64_t held = outcome.units_of[static_cast<size_t>(starved)];
        GPTOSS_CHECK(held >= 1 && held <= phase.most, phase.name, ": ", held);
        // Everything else is over long before, in the time of those who work.
        const int64_t rest = phase.n_units - held;
        int64_t longest = 0;
        for (int i = 0; i < threads; ++i) {
          if (i != starved) {
            longest = std::max(longest, outcome.units_of[static_cast<size_t>(i)]);
          }
        }
        const double ratio = static_cast<double>(longest) / ideal_seconds(rest, others);
        GPTOSS_CHECK(ratio <= 1.1, phase.name, " on ", threads, ": ", ratio);
      }
    }
  }
}

GPTOSS_TEST(ranges_become_shorter_towards_the_end) {
  UnitShares shares(2);
  shares.open(1, 64, 8, no_function, nullptr);
  std::vector<int64_t> lengths;
  UnitShares::Range range{};
  while (shares.take(1, 0, range)) lengths.push_back(range.end - range.begin);
  GPTOSS_CHECK(lengths.front() == 8 && lengths.back() == 1);
  GPTOSS_CHECK(std::is_sorted(lengths.rbegin(), lengths.rend()));
}

GPTOSS_TEST(a_thread_that_comes_late_gets_nothing_of_another_job) {
  UnitShares shares(2);
  UnitShares::Range range{};
  GPTOSS_CHECK(!shares.take(1, 0, range));
  shares.open(1, 3, 1, no_function, nullptr);
  int64_t units = 0;
  while (shares.take(1, units % 2 == 0, range)) units += range.end - range.begin;
  GPTOSS_CHECK(units == 3);
  int context = 0;
  shares.open(2, 5, 2, no_function, &context);
  GPTOSS_CHECK(!shares.take(1, 0, range) && !shares.take(3, 1, range));
  GPTOSS_CHECK(shares.take(2, 1, range) && range.context == &context);
}

}  // namespace
}  // namespace gptoss::test
