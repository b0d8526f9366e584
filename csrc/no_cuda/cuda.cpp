// Stands in for csrc/cuda/ in builds without it.
#include "backend/backend.h"
#include "core/check.h"

namespace gptoss::cuda {

BackendInfo info() { return {"cuda", false, "gptoss has no cuda backend yet"}; }

std::unique_ptr<Backend> make(Weights, const BackendOptions&) { throw BackendError(info().detail); }

MemoryPlan plan(const ModelConfig&, const BackendOptions&, const StepLimits&) {
  throw BackendError(info().detail);
}

}  // namespace gptoss::cuda
