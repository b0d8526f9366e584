#include "core/thread_pool.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string>
#include <system_error>
#include <utility>

#include "core/check.h"
#include "platform/platform.h"

namespace gptoss {
namespace {

int check_thread_count(const char* source, long count) {
  check(count >= 1 && count <= kMaxThreads, source, " must be between 1 and ", kMaxThreads,
        ", got ", count);
  return static_cast<int>(count);
}

// The pools whose units this thread is in, innermost first.
struct RunningUnits {
  const ThreadPool* pool;
  const RunningUnits* outer;
};
thread_local const RunningUnits* running_units = nullptr;

class RunningScope {
 public:
  explicit RunningScope(const ThreadPool* pool) : units_{pool, running_units} {
    running_units = &units_;
  }
  ~RunningScope() { running_units = units_.outer; }
  RunningScope(const RunningScope&) = delete;
  RunningScope& operator=(const RunningScope&) = delete;

 private:
  const RunningUnits units_;
};

// Deletes a pool; on a thread of its own if this one is in a unit of the pool, whose threads cannot
// wait for themselves.
void retire(ThreadPool* pool) {
  if (!pool->runs_this_thread()) {
    delete pool;
    return;
  }
  try {
    std::thread([pool] { delete pool; }).detach();
  } catch (const std::system_error&) {
    // No thread to be had: the pool sleeps until the process ends.
  }
}

// Never destroyed: threads may outlive static objects.
class SharedPools {
 public:
  static SharedPools& get() {
    static auto* const pools = new SharedPools;
    return *pools;
  }

  std::shared_ptr<ThreadPool> of_size(int n_threads) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return find_or_make(n_threads);
  }

  ThreadPool& of_ops() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (of_ops_ == nullptr || owner_ != platform::process_id()) {
      of_ops_ = new std::shared_ptr<ThreadPool>(find_or_make(resolve_thread_count(0)));
    }
    return **of_ops_;
  }

 private:
  // A fork waits until nobody holds the mutex, so that the child does not inherit it locked.
  SharedPools() {
    platform::at_fork([] { get().mutex_.lock(); }, [] { get().mutex_.unlock(); },
                      [] { get().mutex_.unlock(); });
  }

  std::shared_ptr<ThreadPool> find_or_make(int n_threads) {
    check_thread_count("threads", n_threads);
    if (owner_ != platform::process_id()) {  // what was made before a fork is the parent's
      by_size_.clear();
      owner_ = platform::process_id();
    }
    std::weak_ptr<ThreadPool>& entry = by_size_[n_threads];
    std::shared_ptr<ThreadPool> pool = entry.lock();
    if (pool == nullptr) {
      pool = {new ThreadPool(n_threads), retire};
      entry = pool;
    }
    return pool;
  }

  std::mutex mutex_;
  int64_t owner_ = 0;
  std::map<int, std::weak_ptr<ThreadPool>> by_size_;
  std::shared_ptr<ThreadPool>* of_ops_ = nullptr;  // never released: there are references
};

}  // namespace

int resolve_thread_count(int requested) {
  if (requested != 0) return check_thread_count("threads", requested);
  if (const char* text = std::getenv("GPTOSS_NUM_THREADS"); text != nullptr && *text != '\0') {
    char* end = nullptr;
    const long count = std::strtol(text, &end, 10);
    check(*end == '\0', "GPTOSS_NUM_THREADS must be a whole number, got '", text, "'");
    return check_thread_count("GPTOSS_NUM_THREADS", count);
  }
  return platform::usable_cpus();
}

void prepare_thread() {
  // Those of a library come in one piece.
  static thread_local std::atomic<bool> is_prepared{false};
  is_prepared.store(true);
}

ThreadPool::ThreadPool(int n_threads)
    : n_threads_(check_thread_count("threads", n_threads)),
      process_(platform::process_id()),
      shares_(n_threads) {
  threads_.reserve(static_cast<size_t>(n_threads - 1));
  try {
    for (int i = 1; i < n_threads; ++i) threads_.emplace_back([this, i] { worker(i); });
  } catch (const std::system_error& error) {
    const size_t started = threads_.size() + 1;
    stop();
    throw BackendError(concat("could start ", started, " of ", n_threads,
                              " threads: ", error.what(),
                              "; ask for fewer (threads, GPTOSS_NUM_THREADS), or "
                              "raise the limit of memory or processes"));
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  if (platform::process_id() != process_) {
    // The threads exist only in the parent: their handles can be neither joined nor detached here.
    new std::vector<std::thread>(std::move(threads_));
    return;
  }
  stop();
}

void ThreadPool::stop() {
  // The caller of a job may still be on its way out of run_raw().
  const std::lock_guard<std::mutex> lock(callers_);
  stopping_.store(true, std::memory_order_relaxed);
  epoch_.add(1);
  for (auto& thread : threads_) thread.join();
}

void ThreadPool::run_raw(int64_t n_units, int64_t most, UnitShares::Function function,
                         void* context) {
  if (platform::process_id() != process_) {
    throw BackendError(concat("this process was forked from process ", process_,
                              ", whose threads did not come along: load the model in the "
                              "process that uses it"));
  }
  if (n_units <= 0) return;
  check(n_units < (int64_t{1} << 31), "[thread_pool] too many units: ", n_units);
  if (n_threads_ == 1 || n_units == 1 || runs_this_thread()) {
    const RunningScope scope(this);
    for (int64_t unit = 0; unit < n_units; unit += most) {
      function(context, unit, std::min(n_units, unit + most));
    }
    return;
  }
  const std::lock_guard<std::mutex> lock(callers_);
  // All units of the previous job are taken and done.
  units_done_.reset(0);
  const uint32_t epoch = epoch_.load() + 1;
  shares_.open(epoch, n_units, most, function, context);
  epoch_.store(epoch);

  work(epoch, 0);
  for (;;) {
    const uint32_t done = units_done_.load();
    if (done == n_units) break;
    units_done_.wait_for_change(done);
  }
  if (error_) {
    const std::lock_guard<std::mutex> error_lock(error_mutex_);
    std::rethrow_exception(std::exchange(error_, nullptr));
  }
}

void ThreadPool::worker(int index) {
  prepare_thread();
  uint32_t seen = 0;
  for (;;) {
    epoch_.wait_for_change(seen);
    seen = epoch_.load();
    if (stopping_.load(std::memory_order_relaxed)) return;
    work(seen, index);
  }
}

void ThreadPool::work(uint32_t epoch, int index) {
  const RunningScope scope(this);
  uint32_t done = 0;
  UnitShares::Range range{};
  while (shares_.take(epoch, index, range)) {
    try {
      range.function(range.context, range.begin, range.end);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
    }
    done += static_cast<uint32_t>(range.end - range.begin);
  }
  if (done != 0) units_done_.add(done);
}

bool ThreadPool::runs_this_thread() const {
  for (const RunningUnits* units = running_units; units != nullptr; units = units->outer) {
    if (units->pool == this) return true;
  }
  return false;
}

std::shared_ptr<ThreadPool> shared_pool(int n_threads) {
  return SharedPools::get().of_size(n_threads);
}

ThreadPool& default_pool() { return SharedPools::get().of_ops(); }

}  // namespace gptoss
