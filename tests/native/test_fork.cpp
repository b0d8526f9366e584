// Threads, and a process that is forked or may have no more of them.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>

#include "core/check.h"
#include "core/thread_pool.h"
#include "harness.h"

namespace gptoss::test {
namespace {

// Sanitizers reserve address space of their own.
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
GPTOSS_TEST(threads_that_cannot_be_made_are_an_error) {
  if (std::getenv("GPTOSS_TEST_EMULATED") != nullptr) return;
  const pid_t child = fork();
  if (child == 0) {
    // Each thread's stack takes 8 MB of address space.
    const rlimit limit = {.rlim_cur = 2000000000, .rlim_max = RLIM_INFINITY};
    setrlimit(RLIMIT_AS, &limit);
    int code = 1;
    try {
      ThreadPool pool(kMaxThreads);
    } catch (const BackendError& error) {
      code = std::string(error.what()).find("of 1024 threads") != std::string::npos ? 0 : 2;
    }
    // Those that ran have ended, and others can be made.
    std::atomic<int> runs{0};
    ThreadPool(4).run(10, [&](int64_t) { ++runs; });
    _exit(runs == 10 ? code : 3);
  }
  int status = 0;
  GPTOSS_CHECK(waitpid(child, &status, 0) == child);
  GPTOSS_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, status);
}
#endif

// ThreadSanitizer does not support threads that are started after a fork, nor does qemu-user; a
// fork may leave AddressSanitizer's own locks taken in the child.
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
GPTOSS_TEST(a_forked_process_gets_an_error_or_a_pool_of_its_own) {
  if (std::getenv("GPTOSS_TEST_EMULATED") != nullptr) return;
  ThreadPool pool(3);
  pool.run(10, [](int64_t) {});
  default_pool().run(10, [](int64_t) {});
  const std::shared_ptr<ThreadPool> shared = shared_pool(4);
  shared->run(10, [](int64_t) {});
  const pid_t child = fork();
  if (child == 0) {
    int code = 1;
    try {
      pool.run(10, [](int64_t) {});
    } catch (const BackendError&) {
      std::atomic<int> runs{0};
      default_pool().run(10, [&](int64_t) { ++runs; });
      const std::shared_ptr<ThreadPool> own = shared_pool(4);
      own->run(10, [&](int64_t) { ++runs; });
      code = runs == 20 && own != shared && own == shared_pool(4) ? 0 : 2;
    }
    _exit(code);
  }
  int status = 0;
  GPTOSS_CHECK(waitpid(child, &status, 0) == child);
  GPTOSS_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, status);
}
#endif

// Forks while others make and end pools: the child must not find the registry locked. Threads that
// start and end at the time of a fork leave AddressSanitizer's own locks taken in the child.
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
GPTOSS_TEST(a_fork_beside_threads_that_make_pools) {
  if (std::getenv("GPTOSS_TEST_EMULATED") != nullptr) return;
  std::atomic<bool> stop{false};
  std::thread maker([&] {
    while (!stop) shared_pool(3)->run(3, [](int64_t) {});
  });
  int failed = 0;
  for (int i = 0; i < 20; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);  // ends a child that waits for ever
      std::atomic<int> runs{0};
      shared_pool(3)->run(3, [&](int64_t) { ++runs; });
      _exit(runs == 3 ? 0 : 1);
    }
    int status = 0;
    failed += waitpid(child, &status, 0) != child || status != 0;
  }
  stop = true;
  maker.join();
  GPTOSS_CHECK(failed == 0, failed);
}
#endif

}  // namespace
}  // namespace gptoss::test
