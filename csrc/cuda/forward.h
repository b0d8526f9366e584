// The forward pass as a sequence of kernels.
#pragma once

#include <span>
#include <vector>

#include "backend/backend.h"
#include "cuda/kernels/args.h"
#include "cuda/module.h"
#include "cuda/step_memory.h"
#include "cuda/weights.h"

namespace gptoss::cuda {

inline const char* name_of(Kv kv) { return kv == Kv::f32 ? "f32" : kv == Kv::f16 ? "f16" : "int8"; }

// (positions, D): cos (D/2), sin (D/2) of every position.
std::vector<float> make_rotations(const ModelConfig& config, int positions);

class Forward {
 public:
  // Everything is kept by reference; `pages` by group.
  Forward(const ModelConfig& config, const Scheme& scheme, const DeviceWeights& weights,
          const StepMemory& memory, const std::vector<DeviceMemory>& pages, Module& module,
          const Stream& stream);

  // Of attention over all positions, for `run`.
  int count_splits(int n_tokens, int highest_position) const;
  // A step is one segment more than there are layers whose experts the CPU has: each but the last
  // ends with the routing of one, and the next begins with what its experts made, in
  // Workspace.expert_out.
  int n_segments() const { return scheme_.cpu_experts + 1; }
  // Queues a segment of a step, which ends with its logits: kernels alone, which differ by nothing
  // but the arguments. `row_pages` by group.
  void run(const Step& step, std::span<const int> row_pages, int n_splits, int segment);

 private:
  void embed(const Step& step);
  void attention(const Step& step, std::span<const int> row_pages, int n_splits, int layer);
  void route(const Step& step, int layer);
  void experts(const Step& step, int layer);
  // The sum of what experts made, in n_active rows for each token, and what follows.
  void combine(const Step& step, int layer, const DeviceMemory& weights, int n_active);
  void norm(const DeviceMemory& weight, int rows, const int32_t* row_index);
  // Whether a product with it takes `codes` of the workspace instead of x.
  bool takes_int8(const DenseMemory& w) const;
  // codes of the workspace = x (rows, k)
  void quantize(const DeviceMemory& x, int rows, int k);
  void dense(const DeviceMemory& x, const DenseMemory& w, const DeviceMemory* bias,
             const DeviceMemory& y, int rows, int n, int k, bool accumulate = false);

  const ModelConfig& config_;
  const Scheme& scheme_;
  const DeviceWeights& weights_;
  const StepMemory& memory_;
  const Workspace& work_;
  const std::vector<DeviceMemory>& pages_;
  Module& module_;
  const Stream& stream_;
  std::vector<KvGroup> groups_;
  std::vector<int> index_in_group_;  // (layers)
};

}  // namespace gptoss::cuda
