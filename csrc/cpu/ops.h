// The ops on the CPU; contracts in csrc/ops/.
#pragma once

#include <span>

#include "core/thread_pool.h"
#include "cpu/kernels/kernels.h"
#include "ops/target.h"

namespace gptoss::cpu {

void rms_norm(const Kernels&, ThreadPool&, const ops::RmsNorm&);
void dense_matmul(const Kernels&, ThreadPool&, const ops::DenseMatmul&);
void mxfp4_dequantize(ThreadPool&, const ops::Mxfp4Dequantize&);
void mxfp4_quantize(ThreadPool&, const ops::Mxfp4Quantize&);
void mxfp4_matmul(const Kernels&, ThreadPool&, const ops::Mxfp4Matmul&);
void q8_encode(const Kernels&, ThreadPool&, const ops::Q8Encode&);
void q8_matmul(const Kernels&, ThreadPool&, const ops::Q8Matmul&);
void bf12_encode(ThreadPool&, const ops::Bf12Encode&);
void bf12_matmul(const Kernels&, ThreadPool&, const ops::Bf12Matmul&);
void rope(const Kernels&, ThreadPool&, const ops::Rope&);
void banded_attention(const Kernels&, ThreadPool&, const ops::BandedAttention&);
void swiglu(const Kernels&, ThreadPool&, const ops::Swiglu&);
void route_topk(const ops::RouteTopk&);
void expert_gather(const ops::ExpertGather&);

// Rows of weights that one unit of work covers: 64 rows of 2880 MXFP4 weights are 98 kB and of
// bf16 weights 369 kB, which stay in a second-level cache of 1 MB while all tokens pass. A multiple
// of 64, so that a panel of interleaved gate and up rows makes whole packed blocks of 32.
inline constexpr int kPanelRows = 64;

// How the rows of a dense matmul are shared out: in units, of which a thread takes several at once
// while many are left.
struct RowUnits {
  int rows;      // of a unit: whole tiles of every kernel, which are wider from 8 tokens on
  int64_t most;  // units at once: a panel; from 64 tokens on, when it is their activations that are
                 // read from afar, 256 rows
};
inline RowUnits row_units(int tokens) {
  const int rows = tokens < 8 ? 16 : 32;
  return {rows, (tokens < 64 ? kPanelRows : 256) / rows};
}

// Runs a matmul over all rows of several tasks (their row_end is N) as one job.
void matmul_panels(const Matmul& matmul, ThreadPool& pool, std::span<const MatmulTask> tasks);

// Groups of up to 16 tokens, the unit in which activations are packed for a matmul.
inline int64_t group_count(int64_t tokens) { return (tokens + kGroupTokens - 1) / kGroupTokens; }

}  // namespace gptoss::cpu
