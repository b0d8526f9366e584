// A model's weights on the device, as the kernels read them.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/memory.h"
#include "cuda/module.h"
#include "model/weights.h"

namespace gptoss::cuda {

// Of all experts.
struct ExpertMemory {
  DeviceMemory blocks, scales;
  DeviceMemory bias;  // (E, n) f32

  ExpertWeights view() const {
    return {blocks.as<const uint8_t>(), scales.as<const uint8_t>(), bias.as<const float>()};
  }
};

struct LayerMemory {
  DeviceMemory attention_norm;  // (hidden) f32
  DeviceMemory qkv;             // (H*D + 2 G*D, hidden): q, k and v, one after the other
  DeviceMemory qkv_bias;        // f32
  DeviceMemory sinks;           // (H) f32
  DeviceMemory o;               // (hidden, H*D)
  DeviceMemory o_bias;          // (hidden) f32
  DeviceMemory mlp_norm;        // (hidden) f32
  DeviceMemory router;          // (E, hidden) bf16, row-major: computed in f32 always
  DeviceMemory router_bias;     // (E) f32
  ExpertMemory gate_up;         // (E, 2I, hidden)
  ExpertMemory down;            // (E, hidden, I)
};

class DeviceWeights {
 public:
  // Dense and expert matrices as the kernels of `act` read them (kernels/args.h): row-major as in
  // the checkpoint, or in fragments, which the device makes. Copies through two pieces of pinned
  // memory. Throws OutOfMemory.
  DeviceWeights(const Context& context, const Stream& stream, Module& module,
                const Weights& weights, Act act);

  // Bytes on the device, as it hands them out.
  static int64_t allocated_bytes(const ModelConfig& config, Act act);

  DeviceMemory embedding;  // (V, hidden) bf16, row-major
  std::vector<LayerMemory> layers;
  DeviceMemory final_norm;   // (hidden) f32
  DeviceMemory unembedding;  // (V, hidden)
};

}  // namespace gptoss::cuda
