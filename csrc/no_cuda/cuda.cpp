// Stands in for csrc/cuda/backend.cpp in builds without kernels; rooms() and plan() are the same.
#include "backend/backend.h"
#include "core/check.h"

namespace gptoss::cuda {

BackendInfo info() { return {"cuda", false, "this build of gptoss has no cuda (docs/cuda.md)"}; }

// NOLINTNEXTLINE(performance-unnecessary-value-param): a backend that can be made keeps them
std::unique_ptr<Backend> make(Weights, const BackendOptions&) { throw BackendError(info().detail); }

}  // namespace gptoss::cuda
