// wgmma for tf32, fed by tensor copies.
#include <cstdint>

namespace {

constexpr int kTileM = 64, kTileN = 32, kTileK = 32, kStages = 2;
constexpr int kConsumers = 128;
constexpr uint32_t kStageBytes = (kTileM + kTileN) * kTileK * sizeof(float);

struct alignas(64) TensorMap {
  char bytes[128];
};

__device__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}
__device__ void barrier_wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "WAIT:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@!p bra WAIT;\n}" ::"r"(
          shared_address(barrier)),
      "r"(parity)
      : "memory");
}
__device__ void copy_tile(float* to, const TensorMap* map, int k, int row, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
      "l"(map), "r"(k), "r"(row), "r"(shared_address(barrier))
      : "memory");
}

// Of rows of 128 bytes, swizzled: eight rows are 1,024 bytes.
__device__ uint64_t descriptor(const float* tile, int k) {
  const uint64_t start = shared_address(tile + k) >> 4;
  return start | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

__device__ void multiply(float (&d)[16], uint64_t a, uint64_t b, int accumulates) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k8.f32.tf32.tf32 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, %16, %17, p, 1, 1;\n}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15])
      : "l"(a), "l"(b), "r"(accumulates));
}

}  // namespace

// C = A B^T of f32, rounded to tf32 where it lies: a producer warp and a warpgroup. A (m, k),
// B (n, k), C (m, n).
extern "C" __global__ void __launch_bounds__(kConsumers + 32)
    matmul_tf32(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* c,
                int m, int n, int k) {
  extern __shared__ __align__(1024) float stages[][(kTileM + kTileN) * kTileK];
  __shared__ uint64_t full[kStages], empty[kStages];
  const int t = threadIdx.x, row = blockIdx.x * kTileM, column = blockIdx.y * kTileN;
  const int steps = (k + kTileK - 1) / kTileK;
  if (t < kStages) {
    barrier_init(&full[t], 1);
    barrier_init(&empty[t], kConsumers);
  }
  __syncthreads();
  if (t >= kConsumers) {
    if (t > kConsumers) return;
#pragma unroll 1
    for (int i = 0; i < steps; ++i) {
      const int s = i % kStages;
      if (i >= kStages) barrier_wait(&empty[s], (i / kStages - 1) & 1);
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                       shared_address(&full[s])),
                   "r"(kStageBytes)
                   : "memory");
      copy_tile(stages[s], &a, i * kTileK, row, &full[s]);
      copy_tile(stages[s] + kTileM * kTileK, &b, i * kTileK, column, &full[s]);
    }
    return;
  }
  float d[16] = {};
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    const int s = i % kStages;
    float* const tile = stages[s];
    barrier_wait(&full[s], (i / kStages) & 1);
    for (int j = t; j < (kTileM + kTileN) * kTileK; j += kConsumers) {
      uint32_t rounded;
      asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(tile[j]));
      tile[j] = __uint_as_float(rounded);
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    asm volatile("bar.sync 1, 128;" ::: "memory");
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    for (int at = 0; at < kTileK; at += 8)
      multiply(d, descriptor(tile, at), descriptor(tile + kTileM * kTileK, at), i || at);
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    if (i + kStages < steps)  // the stage is filled again
      asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&empty[s]))
                   : "memory");
  }
  for (int j = 0; j < 16; ++j) {
    const int y = row + t / 32 * 16 + t % 32 / 4 + j / 2 % 2 * 8;
    const int x = column + j / 4 * 8 + t % 4 * 2 + j % 2;
    if (y < m && x < n) c[(size_t)y * n + x] = d[j];
  }
}
