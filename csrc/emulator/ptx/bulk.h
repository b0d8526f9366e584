// Bulk copies (TMA) and mbarriers: what goes on beside the threads, and how it is waited for.
#pragma once

#include <cstdint>
#include <vector>

#include "emulator/ptx/machine.h"

namespace gptoss::emulator {

inline constexpr uint32_t kMbarrierBytes = 8;

// The mbarrier at a shared address. Throws LaunchFault after a report where there is none.
MBarrier& find_mbarrier(Warp& warp, uint32_t address, int lane);
// Ends the phase where nothing is pending any more.
void complete_phase(Warp& warp, MBarrier& barrier);
// Arrivals at the current phase, by one lane.
void arrive(Warp& warp, MBarrier& barrier, int lane, uint32_t count);

// mbarrier.inval
void invalidate(Warp& warp, uint32_t address, int lane);

// Where a copy into the shared memory of a CTA of the cluster goes to: addresses there.
struct BulkTarget {
  Cta* cta;
  uint64_t shared;
  uint32_t mbarrier;
};
// Of shared::cluster addresses; both must be of one CTA. Throws LaunchFault after a report.
BulkTarget bulk_target(Warp& warp, int lane, uint64_t shared, uint64_t mbarrier);

// Starts a copy to the shared memory of a CTA, whose mbarrier counts its bytes: from global memory,
// or (kAcross) from the warp's own shared memory.
void start_to_shared(Warp& warp, int lane, const BulkTarget& target,
                     std::vector<BulkCopy::Piece> pieces,
                     BulkCopy::Kind kind = BulkCopy::Kind::kToShared);
// The same copy to every CTA of the cluster whose rank is a bit of `ranks`, at the same addresses.
void start_multicast(Warp& warp, int lane, const BulkTarget& target, uint32_t ranks,
                     const std::vector<BulkCopy::Piece>& pieces);
// Starts a copy from shared to global memory in the lane's open bulk group.
void start_to_global(Warp& warp, int lane, std::vector<BulkCopy::Piece> pieces);
// cp.async.mbarrier.arrive: an arrival once the lane's cp.async up to now have landed.
void start_arrival(Warp& warp, int lane, uint32_t mbarrier);

void commit_bulk_group(Warp& warp, int lane);
void wait_bulk_groups(Warp& warp, int lane, uint32_t keep, bool only_reads);

// Lets a copy that is in flight arrive.
void land_bulk_copy(Chain& chain, size_t index);

// Lands the first cp.async of a lane, up to the number `end` of all that it has issued.
void land_copies(Warp& warp, int lane, uint64_t end);

}  // namespace gptoss::emulator
