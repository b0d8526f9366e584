// A model's weights on the device, as the kernels read them.
#pragma once

#include <algorithm>
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

// What precision and the modes of loading ask for.
struct Scheme {
  Act act;
  Kv kv;
  Format dense;         // bf16 or q8: what matrices in bf16 become
  int cpu_experts = 0;  // of so many layers, the first ones, the CPU has the experts
};

// Consecutive layers of a model, which one card has, with a part of what is around all layers.
struct Part {
  int begin, end;  // layers
  int n_layers;    // of the model

  bool is_first() const { return begin == 0; }      // has the embedding
  bool is_last() const { return end == n_layers; }  // has the unembedding, and samples
  // Of so many layers, the first ones, the CPU has the experts: how many of them are here?
  int cpu_experts(const Scheme& scheme) const {
    return std::clamp(scheme.cpu_experts, begin, end) - begin;
  }
};
inline Part whole(const ModelConfig& config) { return {0, config.n_layers, config.n_layers}; }

// In bf16, q8 or q8_0. With Act::f32 as the checkpoint has it, else in fragments.
struct DenseMemory {
  Format format = Format::bf16;
  DeviceMemory data, scales;
};

struct LayerMemory {
  DeviceMemory attention_norm;  // (hidden) f32
  DenseMemory qkv;              // (H*D + 2 G*D, hidden): q, k and v, one after the other
  DeviceMemory qkv_bias;        // f32
  DeviceMemory sinks;           // (H) f32
  DenseMemory o;                // (hidden, H*D)
  DeviceMemory o_bias;          // (hidden) f32
  DeviceMemory mlp_norm;        // (hidden) f32
  DeviceMemory router;          // (E, hidden) bf16, row-major: computed in f32 always
  DeviceMemory router_bias;     // (E) f32
  bool has_experts = true;      // else the CPU has them
  ExpertMemory gate_up;         // (E, 2I, hidden)
  ExpertMemory down;            // (E, hidden, I)
};

class DeviceWeights {
 public:
  // Dense and expert matrices as the scheme's kernels read them (kernels/args.h): row-major as in
  // the checkpoint, or in fragments, which the device makes. Copies through two pieces of pinned
  // memory. Throws OutOfMemory, CheckpointError.
  DeviceWeights(const Context& context, const Stream& stream, Module& module,
                const Weights& weights, const Scheme& scheme, const Part& part);

  // Formats alone: nothing is allocated.
  DeviceWeights(const Weights& weights, const Scheme& scheme);

  // Bytes on the device, as it hands them out. Of `weights` shapes and formats count, not the data.
  static int64_t allocated_bytes(const Weights& weights, const Scheme& scheme, const Part& part);

  // How many dense matrices are in this format, the embedding aside.
  int count(Format format) const;

  DenseMemory embedding;            // (V, hidden) bf16 or q8_0, row-major
  std::vector<LayerMemory> layers;  // all of the model, those of other cards without memory
  DeviceMemory final_norm;          // (hidden) f32
  DenseMemory unembedding;          // (V, hidden)
};

}  // namespace gptoss::cuda
