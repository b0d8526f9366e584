// A fixed set of threads that share out numbered units of work.
//
// Every thread has a share of the units, which lie in a row, and takes them one by one from its
// front; with nothing left there, it takes from the others' shares. So what a unit asks memory for
// beyond its end is what the same thread reads next, and a thread that the system starves delays
// only the unit it holds. What a unit computes must not depend on the thread that runs it: results
// are then the same for any number of threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

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
    using Function = std::remove_reference_t<F>;
    run_raw(
        n_units, [](void* context, int64_t unit) { (*static_cast<Function*>(context))(unit); },
        const_cast<void*>(static_cast<const void*>(&f)));
  }

 private:
  using UnitFunction = void (*)(void* context, int64_t unit);

  // The job's number (epoch) and how many units are left lie in one word, so that a thread which
  // wakes late can neither take a unit of a later job for one of its own nor reopen a finished one.
  struct alignas(64) Share {
    std::atomic<uint64_t> ticket{0};  // epoch << 32 | units left
    std::atomic<uint32_t> end{0};     // the unit after the last
  };
  static constexpr int kUnitBits = 32;

  void run_raw(int64_t n_units, UnitFunction function, void* context);
  void stop();
  void worker(int index);
  void work(uint32_t epoch, int index);
  // Units of a share that this thread has run.
  uint32_t work_on(Share& share, uint32_t epoch);

  const int n_threads_;
  const int64_t process_;
  std::vector<Share> shares_;
  std::vector<std::thread> threads_;
  std::mutex callers_;

  alignas(64) WatchedWord units_done_;
  alignas(64) WatchedWord epoch_;  // what idle threads watch
  std::atomic<UnitFunction> function_{nullptr};
  std::atomic<void*> context_{nullptr};
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
