// The forward pass as a sequence of kernels.
#pragma once

#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/kept.h"
#include "cuda/kernels/args.h"
#include "cuda/module.h"
#include "cuda/step_memory.h"
#include "cuda/weights.h"

namespace gptoss::cuda {

inline const char* name_of(Kv kv) { return kv == Kv::f32 ? "f32" : kv == Kv::f16 ? "f16" : "int8"; }

// (positions, D): cos (D/2), sin (D/2) of every position.
std::vector<float> make_rotations(const ModelConfig& config, int positions);

// What a step is asked for beside its results, and what is added to it: copies between kernels.
struct Inspection {
  std::span<Kept> kept;
  std::span<const Steer> steers;
  std::span<const int32_t> sequence_offsets;  // of the step

  bool is_empty() const { return kept.empty() && steers.empty(); }
};

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
  // With an inspection there are copies as well, and a step has the same bits.
  void run(const Step& step, std::span<const int> row_pages, int n_splits, int segment,
           const Inspection& inspection);
  // Of a step's logits, for sampling; null if nothing was told of so many rows.
  LogitRange* logit_ranges(int n_rows) const;

 private:
  // How a dense product ends.
  struct DenseEnd {
    const DeviceMemory* bias = nullptr;
    RowNorm norm = {};
    LogitRange* ranges = nullptr;
    bool accumulate = false;
  };

  void queue_segment(const Step& step, std::span<const int> row_pages, int n_splits, int segment);
  void embed(const Step& step);
  void attention(const Step& step, std::span<const int> row_pages, int n_splits, int layer);
  void route(const Step& step, int layer);
  // With their sum and what follows.
  void experts(const Step& step, int layer);
  // The sum of what experts made, in n_active rows for each token, and what follows on this card.
  void combine(const Step& step, int layer, const DeviceMemory& weights, int n_active);
  CombineArgs combine_args(const Step& step, const DeviceMemory& weights, int n_active) const;
  void norm(const DeviceMemory& weight, int rows, const int32_t* row_index);
  // What is asked of a layer: each where the step has it, and before it is overwritten.
  bool is_asked(Activation activation, int layer) const;
  void keep(Activation activation, int layer, const DeviceMemory& rows, int64_t row_bytes) const;
  void keep_shares(const AttentionArgs& attention, int layer) const;
  // Once the residual stream has all of a layer: vectors are added and norms begun anew.
  void end_layer(const Step& step, int layer);
  // Of codes of the workspace, which are made of x if they are not there, where w is in int8.
  void dense(const DeviceMemory& x, const DenseMemory& w, const DeviceMemory& y, int rows, int n,
             int k, const DenseEnd& end);
  bool takes_int8(const DenseMemory& w) const;
  void quantize(const DeviceMemory& x, int rows, int k);

  // Whether the last product of the experts does all that follows them.
  bool finishes_experts(const Step& step) const;
  // Whether that goes as far as the norm before the logits.
  bool ends_with_all_rows(const Step& step) const;
  // What `normed` now has: in bf16 a norm that is begun.
  void begins_norm(int n_square_parts, bool has_codes);
  RowNorm row_norm() const;

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
  Inspection inspection_;            // of the step that is being queued, else empty
  // Of what was queued last.
  int n_square_parts_ = 1;
  bool has_codes_ = false;  // the next product's input is there in int8
};

}  // namespace gptoss::cuda
