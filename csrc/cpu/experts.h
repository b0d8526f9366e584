// A layer's experts on the CPU: rows sorted by expert, gate and up, SwiGLU, down, weighted sum.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/aligned_bytes.h"
#include "core/thread_pool.h"
#include "cpu/ops.h"
#include "model/config.h"
#include "model/matrix.h"

namespace gptoss::cpu {

// Of one layer.
struct ExpertWeights {
  ExpertMatrices gate_up;           // (E, 2I, hidden)
  std::vector<float> gate_up_bias;  // (E, 2I)
  ExpertMatrices down;              // (E, hidden, I)
  std::vector<float> down_bias;     // (E, hidden)
};

// Some of the rows sorted by expert: of one expert, their activations packed together.
struct ExpertGroup {
  int first, count;
};

// What is held of a step. T tokens; sizes only grow.
struct ExpertArrays {
  std::vector<int32_t> offsets;      // (E + 1): an expert's first row of those sorted by expert
  std::vector<int32_t> pairs;        // (T*A): which pair (t * A + a) each of these rows is
  std::vector<int32_t> row_of_pair;  // (T*A): the inverse of pairs
  std::vector<ExpertGroup> groups;   // all rows, in groups that begin anew with every expert
  std::vector<int> active;           // the experts that have rows
  AlignedBytes gathered;             // (T*A) the experts' inputs, packed, sorted by expert
  AlignedBytes intermediate;         // (T*A) inputs of their second matmul, likewise
  std::vector<float> out;            // (T*A, hidden), sorted by expert

  // f(array, elements) for every array of a step of so many tokens.
  template <class F>
  void for_each(const ModelConfig& config, int tokens, const Matmul& matmul, F&& f) {
    const int64_t n_pairs = int64_t{tokens} * config.n_active;
    f(offsets, config.n_experts + 1);
    f(pairs, n_pairs);
    f(row_of_pair, n_pairs);
    f(gathered, n_pairs * matmul.row_bytes(config.hidden_size));
    f(intermediate, n_pairs * matmul.row_bytes(config.intermediate_size));
    f(out, n_pairs * config.hidden_size);
  }
};

class Experts {
 public:
  // Adds to outputs [begin, end) of a row, of its expert, what an adapter changes of them.
  using Change = std::function<void(int64_t row, int expert, int begin, int end, float* y)>;

  // All are kept by reference.
  Experts(const Kernels& kernels, const Matmul& matmul, ThreadPool& pool, const ModelConfig& config)
      : kernels_(kernels), matmul_(matmul), pool_(pool), config_(config) {}

  // Grows the arrays to a step of so many tokens.
  void reserve(int tokens);
  // Sorts the rows of x (T, hidden) by expert and packs them. experts: (T, A).
  void gather(const float* x, const int32_t* experts, int tokens);
  // Gate and up, and SwiGLU. `change` may be empty. `h` (T*A, I), unless null: the results before
  // they are packed, by row.
  void gate_up(const ExpertWeights& w, const Change& change, float* h);
  void down(const ExpertWeights& w, const Change& change);
  // x (T, hidden) += every expert's output times its weight (T, A).
  void add_to(float* x, const float* weights);

  const ExpertArrays& arrays() const { return arrays_; }
  // Of a row of those sorted by expert.
  int pair_of(int64_t row) const { return arrays_.pairs[static_cast<size_t>(row)]; }
  int token_of(int64_t row) const { return pair_of(row) / config_.n_active; }

 private:
  // f(expert, row_begin, row_end) for panels of the n_rows rows of every expert that has tokens.
  template <class F>
  void for_each_panel(int n_rows, F&& f);

  const Kernels& kernels_;
  const Matmul& matmul_;
  ThreadPool& pool_;
  const ModelConfig& config_;
  int tokens_ = 0;  // T
  ExpertArrays arrays_;
};

}  // namespace gptoss::cpu
