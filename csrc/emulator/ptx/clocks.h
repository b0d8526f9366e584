// Vector clocks: what each thread knows of the others' accesses.
//
// A warp counts up one clock for all its lanes; an access is named by warp slot, lane and clock.
// A vector clock says for each slot up to which clock every lane's accesses are known, and besides
// which single lanes are known further: so a flag released by one lane publishes that lane only.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "emulator/ptx/types.h"

namespace gptoss::emulator {

class VectorClock {
 public:
  VectorClock() = default;
  explicit VectorClock(size_t slots) : base_(slots, 0) {}

  bool covers(uint32_t slot, int lane, uint32_t clock) const {
    if (slot < base_.size() && clock <= base_[slot]) return true;
    return !lanes_.empty() && covers_lane(slot, lane, clock);
  }
  // Whether the accesses of all of `lanes` are known.
  bool covers_all(uint32_t slot, uint32_t lanes, uint32_t clock) const {
    if (slot < base_.size() && clock <= base_[slot]) return true;
    return lanes == 0 || (!lanes_.empty() && covers_lanes(slot, lanes, clock));
  }

  void join(const VectorClock& other);
  void know_warp(uint32_t slot, uint32_t clock);
  void know_lane(uint32_t slot, int lane, uint32_t clock);
  bool empty() const { return base_.empty(); }

 private:
  struct LaneClock {
    uint32_t slot;
    int lane;
    uint32_t clock;
  };
  bool covers_lane(uint32_t slot, int lane, uint32_t clock) const;
  bool covers_lanes(uint32_t slot, uint32_t lanes, uint32_t clock) const;
  void drop_known();

  std::vector<uint32_t> base_;
  std::vector<LaneClock> lanes_;
};

// Which writes of threads are fenced for the async proxy: a fence may be for one state space only.
struct ProxyClock {
  VectorClock in_shared, in_global;

  void join(const ProxyClock& other) {
    in_shared.join(other.in_shared);
    in_global.join(other.in_global);
  }
  void join(const VectorClock& fenced_everywhere) {
    in_shared.join(fenced_everywhere);
    in_global.join(fenced_everywhere);
  }
  void know_warp(uint32_t slot, uint32_t clock) {
    in_shared.know_warp(slot, clock);
    in_global.know_warp(slot, clock);
  }
  void know_lane(uint32_t slot, int lane, uint32_t clock) {
    in_shared.know_lane(slot, lane, clock);
    in_global.know_lane(slot, lane, clock);
  }
};

// A value that the lanes of a warp mostly share, and single lanes may have for themselves.
template <class T>
class PerLane {
 public:
  T& shared() { return shared_; }
  const T& operator[](int lane) const { return own_ >> lane & 1 ? *lanes_[lane] : shared_; }
  bool is_uniform() const { return own_ == 0; }

  // The lane's own copy, made of the shared one where it has none.
  T& own(int lane) {
    if (!(own_ >> lane & 1)) {
      lanes_[lane] = std::make_unique<T>(shared_);
      own_ |= 1u << lane;
    }
    return *lanes_[lane];
  }
  void make_uniform() {
    for (int lane = 0; own_ && lane < kLanes; ++lane) lanes_[lane].reset();
    own_ = 0;
  }

 private:
  T shared_;
  uint32_t own_ = 0;
  std::array<std::unique_ptr<T>, kLanes> lanes_;
};

// What a fence has made ready to be published by the thread's next strong write.
struct Fenced {
  VectorClock seen;
  uint32_t clock = 0;  // of the thread itself, at the fence
  Scope scope = Scope::kNone;
};

// What strong reads have met, which a fence makes known.
struct Met {
  VectorClock seen;
  Scope scope = Scope::kNone;
};

// What has been released at an address.
struct Released {
  VectorClock seen;
  Scope scope = Scope::kNone;
  uint64_t cta = 0;
};

}  // namespace gptoss::emulator
