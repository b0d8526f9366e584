// A number that threads watch for changes.
#pragma once

#include <atomic>
#include <cstdint>

namespace gptoss {

class WatchedWord {
 public:
  uint32_t load() const { return value_.load(std::memory_order_acquire); }
  // While nobody watches.
  void reset(uint32_t value) { value_.store(value, std::memory_order_relaxed); }
  // Whoever watches goes on.
  void store(uint32_t value) {
    value_.store(value);
    wake();
  }
  void add(uint32_t change) {
    value_.fetch_add(change);
    wake();
  }

  // Returns once the number is another than `old`: watches for a while, then sleeps.
  void wait_for_change(uint32_t old);

 private:
  void wake();

  // Both sequentially consistent: either a change sees the sleeper, or the sleeper the change.
  std::atomic<uint32_t> value_{0};
  std::atomic<uint32_t> sleepers_{0};
};

}  // namespace gptoss
