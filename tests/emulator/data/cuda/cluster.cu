// Clusters: distributed shared memory, barriers, arrivals and copies across blocks; registers that
// warpgroups hand to each other.
#include <cooperative_groups.h>

#include <cstdint>
#include <utility>

namespace cg = cooperative_groups;

namespace {

__device__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ uint32_t cluster_size() {
  uint32_t size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
}
// The same variable in the block of a rank.
__device__ uint32_t mapped(const void* p, uint32_t rank) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(p)), "r"(rank));
  return address;
}
__device__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
__device__ void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}
// What one thread has initialised, for the whole cluster.
__device__ void publish_barriers(bool by_this_thread) {
  if (by_this_thread) asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
__device__ void remote_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(barrier)
               : "memory");
}
__device__ void cluster_wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "WAIT:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1;\n"
      "@!p bra WAIT;\n}" ::"r"(shared_address(barrier)),
      "r"(parity)
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
__device__ void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

}  // namespace

// Counts of values below `bins` times the cluster's size; each block keeps its part of them.
extern "C" __global__ void cluster_histogram(const int* x, int* out, int n, int bins) {
  extern __shared__ int mine[];
  auto cluster = cg::this_cluster();
  for (int i = threadIdx.x; i < bins; i += blockDim.x) mine[i] = 0;
  cluster.sync();
  for (unsigned i = cg::this_grid().thread_rank(); i < n; i += cg::this_grid().size())
    atomicAdd(cluster.map_shared_rank(mine, x[i] / bins) + x[i] % bins, 1);
  cluster.sync();
  const int first = cluster.block_rank() * bins;
  for (int i = threadIdx.x; i < bins; i += blockDim.x) atomicAdd(&out[first + i], mine[i]);
}

// Sums of rows by four blocks each, which tell each other their parts; out has the sum and the rank
// of every block.
extern "C" __global__ void __cluster_dims__(4, 1, 1)
    cluster_sum(const float* x, float* out, int n) {
  __shared__ float part[4];
  __shared__ float total[4];
  auto cluster = cg::this_cluster();
  const float* row = x + size_t(blockIdx.y) * n;
  float sum = 0;
  for (int i = cluster.thread_rank(); i < n; i += cluster.num_threads()) sum += row[i];
  for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(~0u, sum, d);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    float all = 0;
    for (int i = 0; i < blockDim.x / 32; ++i) all += part[i];
    for (unsigned r = 0; r < cluster.num_blocks(); ++r)
      *cluster.map_shared_rank(&total[cluster.block_rank()], r) = all;
  }
  auto token = cluster.barrier_arrive();
  cluster.barrier_wait(std::move(token));
  if (threadIdx.x) return;
  float all = 0;
  for (unsigned r = 0; r < cluster.num_blocks(); ++r) all += total[r];
  float* p = out + 2 * (blockIdx.y * gridDim.x + blockIdx.x);
  p[0] = all;
  p[1] = cluster.query_shared_rank(cluster.map_shared_rank(total, cluster.block_index().x));
}

// Rows of 64 go round the cluster: every block adds its rank's row to what it gets.
extern "C" __global__ void cluster_ring(const int* x, int* out) {
  __shared__ int inbox[64];
  __shared__ uint64_t full;
  const uint32_t t = threadIdx.x, rank = cluster_rank(), size = cluster_size();
  if (t == 0) barrier_init(&full, 64);
  publish_barriers(t == 0);
  const uint32_t next = (rank + 1) % size;
  int value = x[rank * 64 + t];
  if (rank) {
    cluster_wait(&full, 0);
    value += inbox[t];
  }
  if (next) {
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(mapped(&inbox[63 - t], next)), "r"(value)
                 : "memory");
    remote_arrive(mapped(&full, next));
  }
  out[rank * 64 + t] = value;
}

// out = the rank plus x, by tiles of 128: rank 0 has them copied to all blocks, two stages ahead.
extern "C" __global__ void cluster_multicast(const int* x, int* out, int tiles) {
  __shared__ alignas(16) int stage[2][128];
  __shared__ uint64_t full[2], empty[2];
  const uint32_t t = threadIdx.x, rank = cluster_rank(), size = cluster_size();
  if (t == 0) {
    for (int s = 0; s < 2; ++s) {
      barrier_init(&full[s], 1);
      barrier_init(&empty[s], size * 4);
    }
  }
  publish_barriers(t == 0);
  if (t < 32) {  // the producer's warp
    if (t == 0) {
      for (int i = 0; i < tiles; ++i) {
        const int s = i % 2;
        // Only who issues copies must know that the stage is free everywhere.
        if (rank == 0 && i >= 2) cluster_wait(&empty[s], (i / 2 + 1) & 1);
        if (i >= 2) barrier_wait(&full[s], (i / 2 + 1) & 1);
        barrier_expect(&full[s], 512);
        if (rank == 0)
          asm volatile(
              "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
              "[%0], [%1], 512, [%2], %3;" ::"r"(shared_address(stage[s])),
              "l"(x + i * 128), "r"(shared_address(&full[s])),
              "h"(static_cast<uint16_t>((1 << size) - 1))
              : "memory");
      }
    }
  } else {
    const uint32_t place = t - 32;
    for (int i = 0; i < tiles; ++i) {
      const int s = i % 2;
      barrier_wait(&full[s], i / 2 & 1);
      out[(size_t(rank) * tiles + i) * 128 + place] = stage[s][place] + rank;
      __syncwarp();
      if (place % 32 == 0) remote_arrive(mapped(&empty[s], 0));
    }
  }
  cluster_sync();
}

// Every block's row of 128, doubled, is copied into the block of the next rank, which writes it.
extern "C" __global__ void cluster_copy(const int* x, int* out) {
  __shared__ alignas(16) int mine[128];
  __shared__ alignas(16) int theirs[128];
  __shared__ uint64_t full;
  const uint32_t t = threadIdx.x, rank = cluster_rank(), size = cluster_size();
  if (t == 0) {
    barrier_init(&full, 1);
    barrier_expect(&full, 512);
  }
  mine[t] = 2 * x[rank * 128 + t];
  fence_async();
  cluster_sync();
  if (t == 0) {
    const uint32_t next = (rank + 1) % size;
    asm volatile(
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes "
        "[%0], [%1], 512, [%2];" ::"r"(mapped(theirs, next)),
        "r"(shared_address(mine)), "r"(mapped(&full, next))
        : "memory");
  }
  barrier_wait(&full, 0);
  out[rank * 128 + t] = theirs[t];
  cluster_sync();
}

// A warpgroup that loads gives registers to one that computes: out = x * x, by tiles of 128.
extern "C" __global__ void __maxnreg__(64) specialised(const int* x, int* out, int tiles) {
  __shared__ alignas(16) int tile[2][128];
  __shared__ uint64_t full[2], empty[2];
  const uint32_t t = threadIdx.x;
  if (t == 0) {
    for (int s = 0; s < 2; ++s) {
      barrier_init(&full[s], 1);
      barrier_init(&empty[s], 128);
    }
  }
  __syncthreads();
  if (t < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    for (int i = 0; t == 0 && i < tiles; ++i) {
      const int s = i % 2;
      if (i >= 2) barrier_wait(&empty[s], (i / 2 + 1) & 1);
      barrier_expect(&full[s], 512);
      asm volatile(
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 512, "
          "[%2];" ::"r"(shared_address(tile[s])),
          "l"(x + i * 128), "r"(shared_address(&full[s]))
          : "memory");
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 104;");
    const uint32_t place = t - 128;
    for (int i = 0; i < tiles; ++i) {
      const int s = i % 2;
      barrier_wait(&full[s], i / 2 & 1);
      const int v = tile[s][place];
      if (i + 2 < tiles)
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&empty[s]))
                     : "memory");
      out[i * 128 + place] = v * v;
    }
  }
}
