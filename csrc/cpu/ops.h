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

// Runs a matmul over all rows of several tasks (their row_end is N) in panels, as one job.
void matmul_panels(const Matmul& matmul, ThreadPool& pool, std::span<const MatmulTask> tasks);

// Groups of up to 16 tokens, the unit in which activations are packed for a matmul.
inline int64_t group_count(int64_t tokens) { return (tokens + kGroupTokens - 1) / kGroupTokens; }

}  // namespace gptoss::cpu
