// What a step needs on the device beside weights and pages, and in pinned memory of the host.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "cuda/kernels/args.h"
#include "cuda/memory.h"
#include "cuda/weights.h"

namespace gptoss::cuda {

// Activations of one step, used again by the next: the stream keeps their order.
struct Workspace {
  DeviceMemory x;               // (T, hidden) f32: the residual stream, which cards hand over
  DeviceMemory normed;          // (T, hidden): inputs of matmuls
  DeviceMemory squares;         // (T, ceil(hidden / 16)) f32: of norms that are begun
  DeviceMemory qkv;             // (T, H*D + 2 G*D) f32
  DeviceMemory attended;        // (T, H*D)
  DeviceMemory codes;           // (T, q8_columns): inputs of matmuls in int8
  DeviceMemory code_scales;     // (T, q8_columns / 32) f32
  DeviceMemory partials;        // of attention in splits (kernels/args.h)
  DeviceMemory splits_arrived;  // (T, G), zeros
  DeviceMemory router_logits;   // (T, E) f32
  DeviceMemory experts;         // (T, A)
  DeviceMemory expert_weights;  // (T, A) f32
  DeviceMemory arrived;         // (T + 1), zeros
  DeviceMemory pairs;           // (T*A)
  DeviceMemory offsets;         // (E + 1)
  DeviceMemory h;               // (T*A, I)
  DeviceMemory expert_out;      // (T*A, hidden) f32; of the CPU's experts (T, hidden)
  DeviceMemory down_arrived;    // (ceil(hidden / 64)), zeros
  DeviceMemory ones;            // (T) f32, where there are such
  // On the last card:
  DeviceMemory logits;          // (R, V) f32
  DeviceMemory logit_ranges;    // (R up to 64, ceil(V / 16))
  DeviceMemory changed_logits;  // (R, V) f32: with biases and penalties
  DeviceMemory candidates;      // (R, V)
};

// What stays from step to step.
struct SlotMemory {
  DeviceMemory states;               // (slots) SlotState: the last card's, and the first one's copy
  DeviceMemory counts;               // (slots, V), on the last card
  DeviceMemory tokens;               // tokens that join a slot's counts, on their way
  DeviceMemory rotations;            // (positions, D) f32
  std::vector<DeviceMemory> tables;  // [group] (slots, row_pages)
};

// Places of a step's arrays in one piece of memory, which is copied at once.
struct InputLayout {
  InputLayout(int tokens, int sequences, int logit_rows);

  int64_t positions, token_slots, sequence_offsets, first_positions, sequence_slots, logit_rows;
  int64_t bytes;  // tokens come first
};

// Inputs and results of a step in flight: pinned memory, and the device's twin of it.
struct FlightMemory {
  DeviceMemory input;  // InputLayout
  // On the last card:
  DeviceMemory sample_rows;            // (R) SampleRow
  DeviceMemory units;                  // (R + 1)
  DeviceMemory masks;                  // (R, mask_words(V))
  DeviceMemory samples;                // (R) SampleOut
  DeviceMemory finite;                 // (S)
  DeviceMemory biases;                 // BiasEntry; grows
  std::vector<DeviceMemory> outgrown;  // what those had before
  PinnedMemory host_input, host_sample_rows, host_units, host_masks, host_samples, host_finite;
  std::vector<PinnedMemory> host_tables;  // [group], as SlotMemory.tables, on every card
};

// Entries of a row of a group's block table at most, whatever the engine makes of these limits.
int most_row_pages(const KvGroup& group, const StepLimits& limits);

// Each allocates within these limits, or counts what that takes on the device.
struct StepMemory {
  static int64_t device_bytes(const ModelConfig& config, const Scheme& scheme, const Part& part,
                              bool has_int8_inputs, const StepLimits& limits, int flights);
  StepMemory() = default;
  StepMemory(const Context& context, const ModelConfig& config, const Scheme& scheme,
             const Part& part, bool has_int8_inputs, const StepLimits& limits, int n_flights);

  Workspace work;
  SlotMemory slots;
  std::vector<FlightMemory> flights;
};

}  // namespace gptoss::cuda
