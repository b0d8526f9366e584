// Kernels for compute capability 9.0: mbarriers, bulk copies, dependent launch.
#include <cstdint>

namespace {

__device__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}
__device__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
__device__ void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
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
__device__ void bulk_load(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}
__device__ void bulk_store(void* to, const void* from, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
               "r"(shared_address(from)), "r"(bytes)
               : "memory");
}
__device__ void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until shared memory has been read; the end of the grid makes the writes visible.
template <int kGroups>
__device__ void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kGroups) : "memory");
}
__device__ void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

}  // namespace

// out = 2 x, by blocks of 128: in by a bulk copy, out by another.
extern "C" __global__ void bulk_double(const int* x, int* out) {
  __shared__ alignas(16) int tile[128];
  __shared__ uint64_t full;
  const int t = threadIdx.x;
  if (t == 0) barrier_init(&full, 1);
  __syncthreads();
  if (t == 0) {
    barrier_expect(&full, sizeof tile);
    bulk_load(tile, x + blockIdx.x * 128, sizeof tile, &full);
  }
  barrier_wait(&full, 0);
  tile[t] *= 2;
  fence_async();
  __syncthreads();
  if (t == 0) {
    bulk_store(out + blockIdx.x * 128, tile, sizeof tile);
    bulk_commit();
    bulk_wait_read<0>();
  }
}

// A producer warp, three stages, two consumer warps: out = x reversed in each tile of 64.
extern "C" __global__ void bulk_pipeline(const int* x, int* out, int tiles) {
  constexpr int kStages = 3;
  __shared__ alignas(16) int stage[kStages][64];
  __shared__ uint64_t full[kStages], empty[kStages];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x < kStages) {
    barrier_init(&full[threadIdx.x], 1);
    barrier_init(&empty[threadIdx.x], 64);
  }
  __syncthreads();
  if (warp == 2) {
    if (lane == 0) {
      for (int i = 0; i < tiles; ++i) {
        const int s = i % kStages;
        if (i >= kStages) barrier_wait(&empty[s], (i / kStages - 1) & 1);
        barrier_expect(&full[s], 256);
        bulk_load(stage[s], x + i * 64, 128, &full[s]);
        bulk_load(stage[s] + 32, x + i * 64 + 32, 128, &full[s]);
      }
    }
  } else {
#pragma unroll 1  // so that one arrival serves all tiles
    for (int i = 0; i < tiles; ++i) {
      const int s = i % kStages;
      barrier_wait(&full[s], (i / kStages) & 1);
      const int v = stage[s][63 - threadIdx.x];
      if (i + kStages < tiles) barrier_arrive(&empty[s]);  // the stage is filled again
      out[i * 64 + threadIdx.x] = v;
    }
  }
}

// cp.async whose arrival an mbarrier counts; results leave by bulk copies, two at a time.
extern "C" __global__ void copies_arrive(const int* x, int* out, int tiles) {
  __shared__ alignas(16) int in[2][32], result[2][32];
  __shared__ uint64_t full[2];
  const int t = threadIdx.x;
  if (t < 2) barrier_init(&full[t], 32);
  __syncthreads();
#pragma unroll 1  // so that one wait serves all tiles
  for (int i = 0; i < tiles; ++i) {
    const int s = i & 1;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(&in[s][t])),
                 "l"(x + i * 32 + t)
                 : "memory");
    asm volatile(
        "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(&full[s]))
        : "memory");
    barrier_wait(&full[s], (i >> 1) & 1);
    if (t == 0) bulk_wait_read<1>();
    __syncwarp();
    result[s][t] = in[s][31 - t] + 1;
    fence_async();
    __syncwarp();
    if (t == 0) {
      bulk_store(out + i * 32, result[s], sizeof result[s]);
      bulk_commit();
    }
  }
  if (t == 0) bulk_wait_read<0>();
}

// A sum over the block by an mbarrier's own phases: arrive early, wait by what arriving gave.
extern "C" __global__ void split_barrier(const int* x, int* out) {
  __shared__ int part[64];
  __shared__ uint64_t barrier;
  const int t = threadIdx.x;
  if (t == 0) barrier_init(&barrier, blockDim.x);
  __syncthreads();
  part[t] = x[blockIdx.x * blockDim.x + t];
  uint64_t state;
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 %0, [%1];"
               : "=l"(state)
               : "r"(shared_address(&barrier))
               : "memory");
  uint32_t done = 0;
  while (!done)
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.test_wait.acquire.cta.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(shared_address(&barrier)), "l"(state)
        : "memory");
  int sum = 0;
  for (int i = 0; i < blockDim.x; ++i) sum += part[i];
  out[blockIdx.x * blockDim.x + t] = sum;
  __syncthreads();
  if (t == 0)
    asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(shared_address(&barrier)) : "memory");
}

// y = x + 1, launched behind the kernel that writes x.
extern "C" __global__ void dependent_step(const int* x, const int* weights, int* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  cudaTriggerProgrammaticLaunchCompletion();
  const int w = weights[i];
  cudaGridDependencySynchronize();
  y[i] = x[i] + w;
}
