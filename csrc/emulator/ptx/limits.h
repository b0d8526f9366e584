// What a card can hold: whether a launch fits, and how many blocks run at once.
#pragma once

#include <string>

#include "emulator/ptx/machine.h"

namespace gptoss::emulator {

struct LaunchLimits {
  Fault fault = Fault::kNone;
  std::string message;
  uint32_t warps_per_block = 0;
  uint64_t blocks_per_multiprocessor = 0;
  uint64_t blocks_at_once = 0;  // over the simulated multiprocessors
  Dim3 cluster{1, 1, 1};        // blocks
  uint64_t clusters_at_once = 0;
};

// A100 where the options name no card.
const DeviceProfile& profile_of(const LaunchOptions& options);
uint32_t simulated_multiprocessors(const LaunchOptions& options);
// Blocks that a cluster may have: where the function was not opted in to more, 8; none on cards
// before compute capability 9.0.
uint32_t largest_cluster(const DeviceProfile& profile, bool opted_in);

// PTX does not say how many registers a thread needs: they count only where .maxnreg does.
LaunchLimits check_limits(const Kernel& kernel, const LaunchOptions& options);

}  // namespace gptoss::emulator
