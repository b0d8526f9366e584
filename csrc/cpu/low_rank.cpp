#include "cpu/low_rank.h"

#include <algorithm>

namespace gptoss::cpu {
namespace {

// Tokens that share a unit, so that a factor's rows are read once for all of them.
constexpr int kChunkTokens = 16;

// Outputs of a unit: with rank 16, 32 kB of the second factor.
constexpr int kPanelOutputs = 512;

struct Unit {
  int task;
  int first, end;  // tokens
  int begin;       // of the first factor's rows, or of the outputs
};

// f(task, first, end) for every chunk in which a token has a change.
template <class F>
void for_each_chunk(std::span<const LowRankTask> tasks, F&& f) {
  for (size_t i = 0; i < tasks.size(); ++i) {
    const auto& changes = tasks[i].changes;
    const int tokens = static_cast<int>(changes.size());
    for (int first = 0; first < tokens; first += kChunkTokens) {
      const int end = std::min(tokens, first + kChunkTokens);
      if (std::any_of(changes.begin() + first, changes.begin() + end,
                      [](const LowRank* change) { return change != nullptr; })) {
        f(static_cast<int>(i), first, end);
      }
    }
  }
}

}  // namespace

void add_low_rank(const Kernels& kernels, ThreadPool& pool, std::span<const LowRankTask> tasks,
                  std::vector<float>& scratch) {
  std::vector<int> ranks;       // [task]: the highest
  std::vector<int64_t> begins;  // [task]: of its (T, rank) in scratch
  int64_t size = 0;
  for (const LowRankTask& task : tasks) {
    int highest = 0;
    for (const LowRank* const change : task.changes) {
      if (change != nullptr) highest = std::max(highest, change->rank);
    }
    ranks.push_back(highest);
    begins.push_back(size);
    size += static_cast<int64_t>(task.changes.size()) * highest;
  }
  if (size == 0) return;
  if (scratch.size() < static_cast<size_t>(size)) scratch.resize(static_cast<size_t>(size));
  const auto low_of = [&](const Unit& unit, int token) {
    const auto i = static_cast<size_t>(unit.task);
    return scratch.data() + begins[i] + int64_t{token} * ranks[i];
  };

  std::vector<Unit> units;
  for_each_chunk(tasks, [&](int task, int first, int end) {
    for (int begin = 0; begin < ranks[static_cast<size_t>(task)]; begin += kRankRows) {
      units.push_back({task, first, end, begin});
    }
  });
  pool.run(static_cast<int64_t>(units.size()), [&](int64_t index) {
    const Unit& unit = units[static_cast<size_t>(index)];
    const LowRankTask& task = tasks[static_cast<size_t>(unit.task)];
    for (int t = unit.first; t < unit.end; ++t) {
      const LowRank* const change = task.changes[static_cast<size_t>(t)];
      if (change == nullptr || change->rank <= unit.begin) continue;
      kernels.low_rank_in(task.x + int64_t{t} * task.k, change->in + int64_t{unit.begin} * task.k,
                          task.k, std::min(kRankRows, change->rank - unit.begin),
                          low_of(unit, t) + unit.begin);
    }
  });

  units.clear();
  for_each_chunk(tasks, [&](int task, int first, int end) {
    for (int begin = 0; begin < tasks[static_cast<size_t>(task)].n; begin += kPanelOutputs) {
      units.push_back({task, first, end, begin});
    }
  });
  pool.run(static_cast<int64_t>(units.size()), [&](int64_t index) {
    const Unit& unit = units[static_cast<size_t>(index)];
    const LowRankTask& task = tasks[static_cast<size_t>(unit.task)];
    const int count = std::min(kPanelOutputs, task.n - unit.begin);
    for (int t = unit.first; t < unit.end; ++t) {
      const LowRank* const change = task.changes[static_cast<size_t>(t)];
      if (change == nullptr) continue;
      kernels.low_rank_out(low_of(unit, t), change->out + unit.begin, task.n, change->rank, count,
                           task.y + t * task.y_stride + unit.begin);
    }
  });
}

}  // namespace gptoss::cpu
