// Who computes which of a job's numbered units: shares, and what is taken of them at a time.
//
// Every thread has a share of the units, which lie in a row, and takes from its front; with nothing
// left there, it takes from the others' shares. A range of units is taken at once where many are
// left: at most what the job allows, and at most a part of what is left for each thread, so that
// ranges become shorter towards the end and threads of different speeds end together.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

namespace gptoss {

class UnitShares {
 public:
  // Computes units [begin, end).
  using Function = void (*)(void* context, int64_t begin, int64_t end);

  struct Range {
    int64_t begin, end;
    Function function;
    void* context;
  };

  explicit UnitShares(int n_threads);

  // Begins a job, whose number is another than that of the job before, of which all units have
  // ended: n_units < 2^31, of which a thread takes at most `most` at a time.
  void open(uint32_t job, int64_t n_units, int64_t most, Function function, void* context);
  // Takes units of a job for a thread; false if it has none left. From any thread at any time: one
  // that comes late gets nothing of a later job.
  bool take(uint32_t job, int thread, Range& range);

 private:
  // The job's number and how many units are left lie in one word, so that a thread which wakes late
  // can neither take a unit of a later job for one of its own nor reopen a finished one.
  struct alignas(64) Share {
    std::atomic<uint64_t> ticket{0};  // job << 32 | units left
    std::atomic<uint32_t> end{0};     // the unit after the last
  };
  static constexpr int kUnitBits = 32;

  bool take_from(Share& share, uint32_t job, Range& range);
  int64_t most_at_a_time() const;

  std::vector<Share> shares_;
  alignas(64) std::atomic<int64_t> units_taken_{0};  // counted where more than one may be taken
  alignas(64) std::atomic<int64_t> n_units_{0};
  std::atomic<int64_t> most_{1};
  std::atomic<Function> function_{nullptr};
  std::atomic<void*> context_{nullptr};
};

}  // namespace gptoss
