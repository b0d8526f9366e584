// One warp's access to memory: where it goes, whether it may, and what it means for the checks.
#pragma once

#include <cstdint>
#include <string>

#include "emulator/ptx/machine.h"

namespace gptoss::emulator {

enum class AccessKind : uint8_t { kLoad, kStore, kAtomic };

// The addresses that the lanes access; lanes outside `mask` are undefined.
struct LaneAddresses {
  uint64_t at[kLanes];
  // All 32 lanes access one range, each the piece behind the one before: what is good for the first
  // and the last piece is good for all.
  bool is_range = false;

  void look_for_range(uint32_t mask, uint32_t bytes) {
    uint64_t different = 0;
    for (int l = 0; l < kLanes; ++l)
      different |= at[l] ^ (at[0] + static_cast<uint64_t>(l) * bytes);
    is_range = mask == kAllLanes && !different;
  }
};

struct AccessPlan {
  AccessKind kind = AccessKind::kLoad;
  uint32_t bytes = 0;  // per lane
  Scope scope = Scope::kNone;
  bool non_coherent = false;
};

// register + offset, with the check that the register was set.
LaneAddresses addresses(Warp& warp, int32_t reg, int reg_bytes, int64_t offset, uint32_t mask);

// The space of a generic address; `address` becomes one of that space.
Space resolve(uint64_t& address);

// Checks bounds and alignment (throws LaunchFault after a report), counts the traffic, and gives
// the places of the bytes.
void locate(Warp& warp, Space space, const LaneAddresses& a, uint32_t mask, const AccessPlan& plan,
            uint8_t* (&place)[kLanes]);

// Lanes all of whose bytes have been written. Reports reads of copies in flight.
uint32_t written_lanes(Warp& warp, Space space, const LaneAddresses& a, uint32_t mask,
                       const AccessPlan& plan);

// written_lanes() and the race check.
uint32_t check_load(Warp& warp, Space space, const LaneAddresses& a, uint32_t mask,
                    const AccessPlan& plan);

// The race check of a store, where `same_value` has the lanes that store what was there already;
// and the bytes' new state, written on the lanes of `defined`.
void check_store(Warp& warp, Space space, const LaneAddresses& a, uint32_t mask,
                 const AccessPlan& plan, uint32_t same_value, uint32_t defined);

// The race check alone.
void check_races(Warp& warp, Space space, const LaneAddresses& a, uint32_t mask,
                 const AccessPlan& plan, uint32_t same_value);

// Bounds of a bulk access that instruction `pc` makes, and its alignment; throws LaunchFault after
// a report.
void check_range(Warp& warp, Space space, uint64_t address, uint64_t bytes, int lane,
                 AccessKind kind, int pc);
void check_alignment(Warp& warp, Space space, uint64_t address, uint64_t alignment, int lane);
// Whether the bytes lie in one shared variable, or in dynamic shared memory.
bool is_in_shared(const Warp& warp, uint64_t address, uint64_t bytes);
// What is wrong with bytes that are no plain memory: in flight, or an mbarrier.
void report_state(Warp& warp, uint64_t address, int lane, const AccessPlan& plan, uint8_t state);

// Release and acquire at one address, for one lane. `key` is an address of `space`.
void publish(Warp& warp, Space space, uint64_t key, int lane, Semantics semantics, Scope scope,
             bool is_read_modify_write);
void observe(Warp& warp, Space space, uint64_t key, int lane, Semantics semantics, Scope scope);
// A plain store takes away what was released at the address.
void forget_released(Warp& warp, Space space, uint64_t key);
void fence(Warp& warp, uint32_t mask, Scope scope);

// What the shadow wants to know of an access by `lane`.
Access access_of(const Warp& warp, int lane, const AccessPlan& plan);
void report_conflict(Warp& warp, Space space, uint64_t address, int lane, const Conflict& conflict,
                     const AccessPlan& plan, bool same_value, int pc = -1);

}  // namespace gptoss::emulator
