// What a model takes of a device: computed before anything is allocated, also for a device that is
// not here, and in builds without kernels.
#pragma once

#include <span>
#include <string>
#include <vector>

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

// As kv_groups() has them, with as many layers as the part has of each.
std::vector<KvGroup> kv_groups_of(const ModelConfig& config, const Part& part);
// Bytes of keys and values of one layer in a page, and of a page with the group's layers.
int64_t layer_page_bytes(const ModelConfig& config, Kv kv);
int64_t page_bytes(const ModelConfig& config, Kv kv, const KvGroup& group);

// Which card has which layers.
struct Split {
  std::vector<DeviceRoom> cards;  // those that are used, named as "cuda:0 (...)"
  std::vector<int> indices;       // of them, among those that there are
  std::vector<Part> parts;        // one for each
  int cpu_experts = 0;            // of so many layers the CPU has the experts
  bool fits = false;              // with all that is to have room
};

// A model with these shapes and formats, on the first card that holds it and what `room` leaves
// room for; else over as few as do, those with most memory, with layers in proportion to what is
// usable; else, with options.cpu_experts as kFewestCpuExperts, with the experts of as few layers as
// can be on the CPU. Where nothing fits, on all cards. With `on_all` every card gets layers. Throws
// std::invalid_argument if these are fewer.
Split split_of(const Weights& shapes, const Scheme& scheme, const BackendOptions& options,
               std::span<const DeviceRoom> cards, bool on_all);

// Whether a card alone has that room, with as many experts on the CPU as the scheme says.
bool fits_alone(const Weights& shapes, const Scheme& scheme, const Room& room,
                const DeviceRoom& card);

// Of a model that is split so; the scheme's cpu_experts count.
MemoryPlan plan_of(const Weights& shapes, const Scheme& scheme, const Split& split,
                   const StepLimits& limits);

// Throws OutOfMemory if the weights alone take more than there is.
void check_weights_fit(const Weights& shapes, const Scheme& scheme, const Split& split);

// What of each card's memory is needed and what is free, where there are several; else empty.
std::string shares_text(const MemoryPlan& plan);

}  // namespace gptoss::cuda
