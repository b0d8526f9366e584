// Stands in for csrc/cuda/ in builds without it.
#include "backend/backend.h"
#include "core/check.h"

namespace gptoss::cuda {

BackendInfo info() { return {"cuda", false, "this build of gptoss has no cuda (docs/cuda.md)"}; }

// NOLINTNEXTLINE(performance-unnecessary-value-param): a backend that can be made keeps them
std::unique_ptr<Backend> make(Weights, const BackendOptions&) { throw BackendError(info().detail); }

MemoryPlan plan(const ModelConfig&, const BackendOptions&, const StepLimits&) {
  throw BackendError(info().detail);
}

}  // namespace gptoss::cuda
