// A fixed set of threads that share out numbered units of work.
//
// Every thread takes units from the front of a share of its own, then from the others' (see
// unit_shares.h). So what a unit asks memory for beyond its end is what the same thread reads next,
// slow cores do less than fast ones, and a thread that the system starves delays only what it
// holds. What a unit computes must not depend on the thread that runs it: results are then the same
// for any number of threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/unit_shares.h"
#include "core/watched_word.h"

namespace gptoss {

// `requested` threads if positive; else GPTOSS_NUM_THREADS; else the CPUs that the process may use.
// Throws std::invalid_argument for values below 1 or above kMaxThreads.
int resolve_thread_count(int requested);

inline constexpr int kMaxThreads = 1024;

// Allocates the calling thread's thread_local variables. Their first use does so too, but ends the
// process if there is no memory left then.
void prepare_thread();

class ThreadPool {
 public:
  // Throws BackendError if the system does not give so many threads.
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return n_threads_; }
  // Whether this thread is in one of the pool's units.
  bool runs_this_thread() const;

  // Calls f(unit) for every unit in [0, n_units) and returns when all have ended. The calling
  // thread works too. One caller at a time (callers queue on a mutex); a unit that calls the pool
  // that runs it runs its units itself. The first exception of a unit is thrown again here once no
  // unit runs any more; units not begun may have been left out.
  // Throws BackendError in a process that was forked after the pool was made: the threads did not
  // come along.
  template <class F>
  void run(int64_t n_units, F&& f) {
    run_ranges(n_units, 1, [&f](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) f(unit);
    });
  }

  // The same with f(begin, end) for ranges of units, of at most `most` each: where many units in a
  // row cost less than each alone, and few at the end let all threads end together.
  template <class F>
  void run_ranges(int64_t n_units, int64_t most, F&& f) {
    using Function = std::remove_reference_t<F>;
    run_raw(
        n_units, most,
        [](void* context, int64_t begin, int64_t end) {
          (*static_cast<Function*>(context))(begin, end);
        },
        const_cast<void*>(static_cast<const void*>(&f)));
  }

 private:
  void run_raw(int64_t n_units, int64_t most, UnitShares::Function function, void* context);
  void stop();
  void worker(int index);
  void work(uint32_t epoch, int index);

  const int n_threads_;
  const int64_t process_;
  UnitShares shares_;
  std::vector<std::thread> threads_;
  std::mutex callers_;

  alignas(64) WatchedWord units_done_;
  alignas(64) WatchedWord epoch_;  // what idle threads watch
  std::atomic<bool> stopping_{false};

  std::mutex error_mutex_;
  std::exception_ptr error_;
};

// The process's pool of this size, so that those who compute at the same time (models, gptoss.ops)
// queue for the same threads instead of spinning against each other. It ends when its last owner
// lets go, which may be in one of its own units. A forked process gets pools of its own; the
// parent's stay unusable in it. Throws std::invalid_argument as ThreadPool does.
std::shared_ptr<ThreadPool> shared_pool(int n_threads);

// The pool behind gptoss.ops, that of size resolve_thread_count(0) when it is first used.
ThreadPool& default_pool();

}  // namespace gptoss
