// How many pages the KV cache gets, decided before anything is allocated.
#pragma once

#include <functional>
#include <vector>

#include "engine/engine.h"

namespace gptoss {

struct CachePlan {
  int context_length;          // of a sequence, at most
  StepLimits limits;           // with as many pages as that takes
  MemoryPlan memory;           // with these limits
  std::vector<int> n_pages;    // [group]
  std::vector<int> row_pages;  // [group]: entries of a block table's row

  int64_t bytes() const;
};

// What steps may hold where the longest context has so many tokens.
StepLimits step_limits(const EngineOptions& options, int context_length);

// Throws std::invalid_argument.
void check_options(const ModelConfig& config, const EngineOptions& options);

// What is to have a place beside the weights: pages for a text of context_length tokens, or of a
// usual length if that is open, or what was asked for. `options` need not be checked.
Room room_of(const ModelConfig& config, const EngineOptions& options);

// Of the window groups what the sequences need, of the others what was asked for or what there is
// memory for. `options` are checked, `max_steps_ahead` is what there will be; `plan` is the
// backend's. Throws OutOfMemory if one sequence of the context cannot fit, naming what would.
CachePlan plan_cache(const ModelConfig& config,
                     const std::function<MemoryPlan(const StepLimits&)>& plan,
                     const EngineOptions& options);

}  // namespace gptoss
