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
  // Everything is kept by reference but the part; `pages` by group, with the part's layers.
  Forward(const ModelConfig& config, const Scheme& scheme, const Part& part,
          const DeviceWeights& weights, const StepMemory& memory,
          const std::vector<DeviceMemory>& pages, Module& module, const Stream& stream);

  // Of attention over all positions, for `run`.
  int count_splits(int n_tokens, int highest_position) const;
  // A step is one segment more than there are layers whose experts the CPU has: each but the last
  // ends with the routing of one, and the next begins with what its experts made, in
  // Workspace.expert_out.
  int n_segments() const { return part_.cpu_experts(scheme_) + 1; }
  // Queues a segment of a step: kernels alone, which differ by nothing but the arguments. The first
  // one begins with the embedding, or with the residual stream of another card; the last ends with
  // the logits, or with the residual stream for the next card. `row_pages` by group.
  void run(const Step& step, std::span<const int> row_pages, int n_splits, int segment);

 private:
  void embed(const Step& step);
  void attention(const Step& step, std::span<const int> row_pages, int n_splits, int layer);
  void route(const Step& step, int layer);
  void experts(const Step& step, int layer);
  // The sum of what experts made, in n_active rows for each token, and what follows on this card.
  void combine(const Step& step, int layer, const DeviceMemory& weights, int n_active);
  void norm(const DeviceMemory& weight, int rows, const int32_t* row_index);
  void dense(const DeviceMemory& x, const DenseMemory& w, const DeviceMemory* bias,
             const DeviceMemory& y, int rows, int n, int k, bool accumulate = false);

  const ModelConfig& config_;
  const Scheme& scheme_;
  const Part part_;
  const DeviceWeights& weights_;
  const StepMemory& memory_;
  const Workspace& work_;
  const std::vector<DeviceMemory>& pages_;
  Module& module_;
  const Stream& stream_;
  std::vector<KvGroup> groups_;
  std::vector<int> index_in_group_;  // (layers): of the part's, from 0
};

}  // namespace gptoss::cuda
