// Stands in for csrc/metal/ in builds without it.
#include "backend/backend.h"
#include "core/check.h"

namespace gptoss::metal {

BackendInfo info() { return {"metal", false, "gptoss has no metal backend yet"}; }

// NOLINTNEXTLINE(performance-unnecessary-value-param): a backend that can be made keeps them
std::unique_ptr<Backend> make(Weights, const BackendOptions&) { throw BackendError(info().detail); }

std::vector<DeviceRoom> rooms(std::span<const int>, std::span<const int64_t>) {
  throw BackendError(info().detail);
}

MemoryPlan plan(const Weights&, const BackendOptions&, const StepLimits&,
                std::span<const DeviceRoom>) {
  throw BackendError(info().detail);
}

}  // namespace gptoss::metal
