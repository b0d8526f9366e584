#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "core/check.h"
#include "core/thread_pool.h"
#include "harness.h"
#include "platform/platform.h"

namespace gptoss::test {
namespace {

GPTOSS_TEST(every_unit_runs_once) {
  for (const int threads : {1, 2, 4, 7}) {
    ThreadPool pool(threads);
    GPTOSS_CHECK(pool.size() == threads);
    for (int job = 0; job < 500; ++job) {
      // Not atomic: a unit that ran twice or too late would be a race.
      std::vector<int> runs(static_cast<size_t>(job % 37), 0);
      pool.run(static_cast<int64_t>(runs.size()),
               [&](int64_t i) { ++runs[static_cast<size_t>(i)]; });
      for (const int count : runs) GPTOSS_CHECK(count == 1, "threads ", threads, " job ", job);
    }
  }
}

GPTOSS_TEST(ranges_hold_every_unit_once) {
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (int job = 0; job < 500; ++job) {
      const int most = 1 + job % 9;
      std::vector<int> runs(static_cast<size_t>(job % 101), 0);
      pool.run_ranges(static_cast<int64_t>(runs.size()), most, [&](int64_t begin, int64_t end) {
        GPTOSS_CHECK(begin < end && end - begin <= most, begin, " to ", end, " of most ", most);
        for (int64_t i = begin; i < end; ++i) ++runs[static_cast<size_t>(i)];
      });
      for (const int count : runs) GPTOSS_CHECK(count == 1, "threads ", threads, " job ", job);
    }
  }
}

GPTOSS_TEST(the_share_of_a_thread_that_is_stuck_is_run_by_others) {
  ThreadPool pool(3);
  for (int stuck = 0; stuck < 30; ++stuck) {
    std::atomic<int> ended{0};
    pool.run(30, [&](int64_t i) {
      while (i == stuck && ended < 29) std::this_thread::yield();
      ++ended;
    });
    GPTOSS_CHECK(ended == 30);
  }
}

// Also: a thread that arrives when a short job is over, just as a longer one begins, must not take
// a unit of that under the old one's name. Throwing makes arrivals irregular enough to meet that
// moment now and then.
GPTOSS_TEST(an_exception_ends_the_job_and_not_the_pool) {
  ThreadPool pool(4);
  for (int job = 0; job < 1000; ++job) {
    std::atomic<int> ended{0};
    std::string message;
    try {
      pool.run(20, [&](int64_t i) {
        ++ended;
        if (i % 7 == 3) throw std::runtime_error("unit failed");
      });
    } catch (const std::runtime_error& error) {
      message = error.what();
    }
    GPTOSS_CHECK(message == "unit failed");
    GPTOSS_CHECK(ended == 20);
    std::atomic<int> sum{0};
    pool.run(10, [&](int64_t i) { sum += static_cast<int>(i); });
    GPTOSS_CHECK(sum == 45);
  }
}

GPTOSS_TEST(callers_share_a_pool) {
  ThreadPool pool(3);
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&, c] {
      for (int job = 0; job < 100; ++job) {
        std::vector<int> values(11, -1);
        pool.run(11, [&](int64_t i) { values[static_cast<size_t>(i)] = static_cast<int>(i) * c; });
        for (int i = 0; i < 11; ++i) wrong += values[static_cast<size_t>(i)] != i * c;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  GPTOSS_CHECK(wrong == 0);
}

GPTOSS_TEST(a_unit_may_use_another_pool) {
  ThreadPool outer(3);
  ThreadPool inner(2);
  std::vector<std::unique_ptr<ThreadPool>> own;
  for (int i = 0; i < 6; ++i) own.push_back(std::make_unique<ThreadPool>(2));
  std::atomic<int> runs{0};
  for (int job = 0; job < 20; ++job) {
    outer.run(6, [&](int64_t unit) {
      inner.run(5, [&](int64_t) { ++runs; });
      own[static_cast<size_t>(unit)]->run(5, [&](int64_t) { ++runs; });
    });
  }
  GPTOSS_CHECK(runs == 20 * 6 * 10);
}

GPTOSS_TEST(a_unit_that_calls_its_own_pool_runs_the_units_itself) {
  ThreadPool pool(3);
  ThreadPool other(2);
  std::atomic<int> runs{0};
  for (int job = 0; job < 50; ++job) {
    pool.run(4, [&](int64_t) {
      const std::thread::id self = std::this_thread::get_id();
      const auto here = [&](int64_t) { runs += std::this_thread::get_id() == self; };
      GPTOSS_CHECK(pool.runs_this_thread() && !other.runs_this_thread());
      pool.run(3, here);
      other.run(1, [&](int64_t) { pool.run(2, here); });
    });
  }
  GPTOSS_CHECK(runs == 50 * 4 * 5);
  GPTOSS_CHECK(!pool.runs_this_thread());
}

GPTOSS_TEST(a_process_has_one_pool_of_a_size) {
  const std::shared_ptr<ThreadPool> two = shared_pool(2);
  GPTOSS_CHECK(shared_pool(2) == two && two->size() == 2);
  GPTOSS_CHECK(shared_pool(3) != two && shared_pool(3)->size() == 3);
  set_variable("GPTOSS_NUM_THREADS", "2");
  // Of the size that it had when it was first used.
  const std::shared_ptr<ThreadPool> of_ops = shared_pool(default_pool().size());
  GPTOSS_CHECK(of_ops.get() == &default_pool());
  set_variable("GPTOSS_NUM_THREADS", "");
  for (const int size : {0, -1, kMaxThreads + 1}) {
    GPTOSS_CHECK_THROWS(std::invalid_argument, shared_pool(size));
  }
}

GPTOSS_TEST(a_shared_pool_ends_with_its_last_owner) {
  std::weak_ptr<ThreadPool> watched;
  for (int i = 0; i < 20; ++i) {
    std::shared_ptr<ThreadPool> pool = shared_pool(5);
    GPTOSS_CHECK(watched.expired());
    watched = pool;
    std::atomic<int> runs{0};
    pool->run(8, [&](int64_t) { ++runs; });
    GPTOSS_CHECK(runs == 8);
  }
  GPTOSS_CHECK(watched.expired());
}

// On whichever thread the last owner lets go: a worker, or the caller inside its job.
GPTOSS_TEST(a_unit_may_let_go_of_its_own_pool) {
  for (const int size : {1, 2, 4}) {
    for (int job = 0; job < 50; ++job) {
      std::shared_ptr<ThreadPool> owner = shared_pool(size);
      ThreadPool& pool = *owner;
      std::atomic<int> runs{0};
      pool.run(16, [&](int64_t unit) {
        if (unit == job % 16) owner.reset();
        ++runs;
      });
      GPTOSS_CHECK(runs == 16 && owner == nullptr);
    }
  }
}

GPTOSS_TEST(threads_may_share_pools_while_others_let_go) {
  std::atomic<int> runs{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int job = 0; job < 100; ++job) {
        shared_pool(2 + job % 2)->run(5, [&](int64_t) { ++runs; });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  GPTOSS_CHECK(runs == 4 * 100 * 5);
}

GPTOSS_TEST(pools_come_and_go) {
  for (int i = 0; i < 50; ++i) {
    ThreadPool pool(1 + i % 5);
    std::atomic<int> runs{0};
    if (i % 2 == 0) pool.run(8, [&](int64_t) { ++runs; });
    GPTOSS_CHECK(runs == (i % 2 == 0 ? 8 : 0));
  }
}

GPTOSS_TEST(bad_sizes_are_refused) {
  GPTOSS_CHECK_THROWS(std::invalid_argument, ThreadPool(0));
  GPTOSS_CHECK_THROWS(std::invalid_argument, ThreadPool(kMaxThreads + 1));
  ThreadPool pool(2);
  GPTOSS_CHECK_THROWS(std::invalid_argument, pool.run(int64_t{1} << 31, [](int64_t) {}));
  set_variable("GPTOSS_NUM_THREADS", "3");
  GPTOSS_CHECK(resolve_thread_count(0) == 3 && resolve_thread_count(5) == 5);
  for (const char* text : {"0", "-1", "two", "2x", "99999"}) {
    set_variable("GPTOSS_NUM_THREADS", text);
    GPTOSS_CHECK_THROWS(std::invalid_argument, resolve_thread_count(0));
  }
  set_variable("GPTOSS_NUM_THREADS", "");
  GPTOSS_CHECK(resolve_thread_count(0) == platform::usable_cpus());
}

}  // namespace
}  // namespace gptoss::test
