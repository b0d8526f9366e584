// Matrix products in f32, one simple kernel each: what precision "reference" runs, and the judge of
// the fast ones. A warp computes one number (gate_up: one gate and one up), lane l over every 32nd
// element of k from l on, then a tree over the lanes. Weights are as in the checkpoint.
#include "cuda/kernels/expert_tile.cuh"
#include "cuda/kernels/q8_0.cuh"

namespace gptoss::cuda {
namespace {

constexpr int kThreads = 256;  // 8 warps
constexpr int kWarps = kThreads / 32;

// E2M1 code times 2^(scale - 127), exactly: a subnormal's or small number's bits times 2^126.
__device__ __forceinline__ float mxfp4_value(int code, int scale) {
  const uint32_t bits = static_cast<uint32_t>(code & 8) << 28 | static_cast<uint32_t>(code & 7)
                                                                    << 22;
  const float factor =
      __uint_as_float(scale == 0 ? 0x00400000u : static_cast<uint32_t>(scale) << 23);
  return __uint_as_float(bits) * 0x1p126f * factor;
}

// This lane's part of x (k) . row of MXFP4 weights: element l of every block of 32.
__device__ __forceinline__ float mxfp4_dot(const float* x, const uint8_t* blocks,
                                           const uint8_t* scales, int k) {
  const int lane = lane_id();
  float sum = 0.0f;
  for (int block = 0; block < k / 32; ++block) {
    const int byte = blocks[block * 16 + lane / 2];
    const int code = lane % 2 == 0 ? byte & 15 : byte >> 4;
    sum += x[block * 32 + lane] * mxfp4_value(code, scales[block]);
  }
  return sum;
}

struct ExpertRow {
  const uint8_t* blocks;
  const uint8_t* scales;
};

__device__ __forceinline__ ExpertRow expert_row(const ExpertWeights& w, int64_t row, int k) {
  return {w.blocks + row * (k / 2), w.scales + row * (k / 32)};
}

struct Bf16Row {
  const uint16_t* row;
  __device__ __forceinline__ float operator[](int column) const { return from_bf16(row[column]); }
};

// weights_of(n): row n of w.
template <class WeightsOf>
__device__ __forceinline__ void dense_matmul(const DenseMatmulArgs& a, WeightsOf weights_of) {
  take_turn();
  const int n = static_cast<int>(blockIdx.x) * kWarps + warp_id();
  const int row = static_cast<int>(blockIdx.y);
  if (n >= a.n || row >= a.rows) return;
  const float* x = static_cast<const float*>(a.x) + static_cast<int64_t>(row) * a.x_stride;
  const auto w = weights_of(n);
  float sum = 0.0f;
  for (int k = lane_id(); k < a.k; k += 32) sum += x[k] * w[k];
  sum = warp_sum(sum);
  if (lane_id() != 0) return;
  float* y = a.y + static_cast<int64_t>(row) * a.y_stride + n;
  if (a.bias != nullptr) sum += a.bias[n];
  if (a.accumulate) sum += *y;
  *y = sum;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
    gptoss_dense_matmul_f32(const __grid_constant__ DenseMatmulArgs a) {
  dense_matmul(a, [&](int n) {
    return Bf16Row{static_cast<const uint16_t*>(a.w) + static_cast<int64_t>(n) * a.k};
  });
}
extern "C" __global__ void __launch_bounds__(kThreads)
    gptoss_dense_matmul_q8_0_f32(const __grid_constant__ DenseMatmulArgs a) {
  dense_matmul(a, [&](int n) { return Q8Row(a.w, a.scales, n, a.k); });
}

extern "C" __global__ void __launch_bounds__(kThreads)
    gptoss_gate_up_f32(const __grid_constant__ GateUpArgs a) {
  take_turn();
  const int i = static_cast<int>(blockIdx.x) * kWarps + warp_id();
  const int row = static_cast<int>(blockIdx.y);
  if (i >= a.n / 2 || row >= a.n_pairs) return;
  const int expert = expert_tile<1>(a.offsets, a.n_experts, row).expert;
  const int token = a.pairs[row] / a.n_active;
  const float* x = static_cast<const float*>(a.x) + static_cast<int64_t>(token) * a.k;
  const int64_t gate_row = static_cast<int64_t>(expert) * a.n + 2 * i;
  const ExpertRow gate_w = expert_row(a.w, gate_row, a.k);
  const ExpertRow up_w = expert_row(a.w, gate_row + 1, a.k);
  const float gate = warp_sum(mxfp4_dot(x, gate_w.blocks, gate_w.scales, a.k));
  const float up = warp_sum(mxfp4_dot(x, up_w.blocks, up_w.scales, a.k));
  if (lane_id() != 0) return;
  static_cast<float*>(a.h)[static_cast<int64_t>(row) * (a.n / 2) + i] =
      swiglu(gate + a.w.bias[gate_row], up + a.w.bias[gate_row + 1], a.limit);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    gptoss_down_f32(const __grid_constant__ DownArgs a) {
  take_turn();
  const int n = static_cast<int>(blockIdx.x) * kWarps + warp_id();
  const int row = static_cast<int>(blockIdx.y);
  if (n >= a.n || row >= a.n_pairs) return;
  const int expert = expert_tile<1>(a.offsets, a.n_experts, row).expert;
  const int64_t w_row = static_cast<int64_t>(expert) * a.n + n;
  const ExpertRow w = expert_row(a.w, w_row, a.k);
  const float* h = static_cast<const float*>(a.h) + static_cast<int64_t>(row) * a.k;
  const float sum = warp_sum(mxfp4_dot(h, w.blocks, w.scales, a.k));
  if (lane_id() != 0) return;
  a.out[static_cast<int64_t>(a.pairs[row]) * a.n + n] = sum + a.w.bias[w_row];
}

}  // namespace gptoss::cuda
