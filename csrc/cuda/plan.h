// What a model takes of a device: computed before anything is allocated, also for a device that is
// not here, and in builds without kernels.
#pragma once

#include "backend/backend.h"
#include "cuda/weights.h"

namespace gptoss::cuda {

// Steps that may be submitted before the oldest is waited for.
inline constexpr int kStepsAhead = 1;

// Throws BackendError or std::invalid_argument where the kernels lack what is asked for.
Scheme scheme_of(const ModelConfig& config, const BackendOptions& options);

// Of `free` bytes on a device of `total` those that are planned with.
int64_t usable_bytes(int64_t free, int64_t total);

// Whether inputs of matmuls are made int8.
bool has_int8_inputs(const Weights& shapes, const Scheme& scheme);

// Bytes of keys and values of one layer in a page, and of a page with the group's layers.
int64_t layer_page_bytes(const ModelConfig& config, Kv kv);
int64_t page_bytes(const ModelConfig& config, Kv kv, const KvGroup& group);

// Of a model with these shapes and formats, on a device with so many usable bytes.
MemoryPlan plan_of(const Weights& shapes, const Scheme& scheme, const StepLimits& limits,
                   int64_t usable);

// Throws OutOfMemory if the weights alone take more than the usable bytes.
void check_weights_fit(const Weights& shapes, const Scheme& scheme, const DeviceInfo& device,
                       int64_t usable);

}  // namespace gptoss::cuda
