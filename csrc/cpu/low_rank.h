// What adapters change of dense matmuls, on the CPU.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/thread_pool.h"
#include "cpu/kernels/kernels.h"
#include "model/adapter.h"

namespace gptoss::cpu {

// Rows of a low-rank factor that one unit of work covers: of 2,880 columns each they are 92 kB.
inline constexpr int kRankRows = 8;

// A matmul's inputs and outputs, and what is to be added to these, by token.
struct LowRankTask {
  std::vector<const LowRank*> changes;  // (T); null: none
  const float* x;                       // (T, K), rows K apart
  int k;
  float* y;  // (T, N), rows y_stride apart
  int n;
  int64_t y_stride;
};

// y += out^T (in x) for every token that has a change. A token's bits depend on nothing but its
// own x, y and change. `scratch` grows to what the tasks need.
void add_low_rank(const Kernels& kernels, ThreadPool& pool, std::span<const LowRankTask> tasks,
                  std::vector<float>& scratch);

}  // namespace gptoss::cpu
