#include "emulator/ptx/clocks.h"

#include <algorithm>
#include <bit>

namespace gptoss::emulator {

bool VectorClock::covers_lane(uint32_t slot, int lane, uint32_t clock) const {
  for (const LaneClock& known : lanes_)
    if (known.slot == slot && known.lane == lane && clock <= known.clock) return true;
  return false;
}

bool VectorClock::covers_lanes(uint32_t slot, uint32_t lanes, uint32_t clock) const {
  for (const LaneClock& known : lanes_)
    if (known.slot == slot && clock <= known.clock) lanes &= ~(1u << known.lane);
  return !lanes;
}

void VectorClock::know_warp(uint32_t slot, uint32_t clock) {
  if (slot >= base_.size()) base_.resize(slot + 1, 0);
  base_[slot] = std::max(base_[slot], clock);
  if (!lanes_.empty()) drop_known();
}

void VectorClock::know_lane(uint32_t slot, int lane, uint32_t clock) {
  if (slot < base_.size() && clock <= base_[slot]) return;
  for (LaneClock& known : lanes_) {
    if (known.slot == slot && known.lane == lane) {
      known.clock = std::max(known.clock, clock);
      return;
    }
  }
  lanes_.push_back({slot, lane, clock});
}

void VectorClock::join(const VectorClock& other) {
  if (other.base_.size() > base_.size()) base_.resize(other.base_.size(), 0);
  for (size_t i = 0; i < other.base_.size(); ++i) base_[i] = std::max(base_[i], other.base_[i]);
  for (const LaneClock& known : other.lanes_) know_lane(known.slot, known.lane, known.clock);
  if (!lanes_.empty()) drop_known();
}

void VectorClock::drop_known() {
  std::erase_if(lanes_, [this](const LaneClock& known) {
    return known.slot < base_.size() && known.clock <= base_[known.slot];
  });
}

}  // namespace gptoss::emulator
