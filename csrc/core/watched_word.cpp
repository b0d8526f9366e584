#include "core/watched_word.h"

#include <chrono>

#include "platform/platform.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gptoss {
namespace {

// How long a thread watches before it sleeps. The gaps between the phases of a forward pass are a
// few microseconds; waking a sleeping thread costs some 50. Longer spinning only takes time from
// others when cores are shared.
constexpr auto kSpinTime = std::chrono::microseconds(60);
constexpr int kSpinsPerClockRead = 64;

void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void WatchedWord::wait_for_change(uint32_t old) {
  const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < kSpinsPerClockRead; ++i) {
      if (load() != old) return;
      pause_cpu();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  sleepers_.fetch_add(1);
  while (value_.load() == old) platform::wait(value_, old);
  sleepers_.fetch_sub(1);
}

void WatchedWord::wake() {
  if (sleepers_.load() != 0) platform::wake_all(value_);
}

}  // namespace gptoss
