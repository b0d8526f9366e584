// Kernels of the emulator's tests: ordinary CUDA C++ as nvcc compiles it, each right as it stands.
// make_ptx.sh makes corpus.ptx of this file; test_faults.py plants faults in that PTX.
#include <assert.h>
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#include <stdio.h>

namespace cg = cooperative_groups;

// out[r, i] = x * rsqrt(mean(x^2) + eps) * w; one block of 256 threads per row, any width.
extern "C" __global__ void __launch_bounds__(256)
    rmsnorm(const float* __restrict__ x, const __nv_bfloat16* __restrict__ w, float* __restrict__ out,
            int n, float eps) {
  __shared__ float part[8];
  __shared__ float total;
  const float* row = x + (size_t)blockIdx.x * n;
  float sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += row[i] * row[i];
  for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
  if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = sum;
  __syncthreads();
  if (threadIdx.x < 32) {
    float t = threadIdx.x < 8 ? part[threadIdx.x] : 0.f;
    for (int o = 4; o; o >>= 1) t += __shfl_xor_sync(~0u, t, o);
    if (threadIdx.x == 0) total = t;
  }
  __syncthreads();
  float k = rsqrtf(total / n + eps);
  for (int i = threadIdx.x; i < n; i += blockDim.x)
    out[(size_t)blockIdx.x * n + i] = row[i] * k * __bfloat162float(w[i]);
}

// out[r, i] = softmax of row r; one block of 128 threads per row.
extern "C" __global__ void __launch_bounds__(128)
    softmax(const float* __restrict__ x, float* __restrict__ out, int n) {
  __shared__ float part[4];
  const float* row = x + (size_t)blockIdx.x * n;
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  float top = -INFINITY;
  for (int i = threadIdx.x; i < n; i += 128) top = fmaxf(top, row[i]);
  for (int o = 16; o; o >>= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
  if (lane == 0) part[warp] = top;
  __syncthreads();
  top = fmaxf(fmaxf(part[0], part[1]), fmaxf(part[2], part[3]));
  __syncthreads();
  float sum = 0;
  for (int i = threadIdx.x; i < n; i += 128) sum += __expf(row[i] - top);
  for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
  if (lane == 0) part[warp] = sum;
  __syncthreads();
  sum = part[0] + part[1] + part[2] + part[3];
  for (int i = threadIdx.x; i < n; i += 128)
    out[(size_t)blockIdx.x * n + i] = __expf(row[i] - top) / sum;
}

// C[M,N] = A[M,K] B[N,K]^T; bf16 in, f32 out. Tile 64x64x32, 4 warps, two stages of cp.async.
__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}
__device__ __forceinline__ void copy16(uint32_t to, const void* from, bool ok) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(ok ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void load_fragment(uint32_t* r, uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void multiply(float* c, const uint32_t* a, const uint32_t* b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
constexpr int kTile = 64, kStep = 32, kPitch = 40;
extern "C" __global__ void __launch_bounds__(128)
    matmul(const __nv_bfloat16* __restrict__ A, const __nv_bfloat16* __restrict__ B,
           float* __restrict__ C, int M, int N, int K) {
  __shared__ __align__(16) __nv_bfloat16 a_tile[2][kTile * kPitch], b_tile[2][kTile * kPitch];
  int t = threadIdx.x, w = t >> 5, l = t & 31, m0 = blockIdx.y * kTile, n0 = blockIdx.x * kTile;
  int wm = (w & 1) * 32, wn = (w >> 1) * 32;
  float acc[2][4][4] = {};
  auto load = [&](int s, int k0) {
    for (int i = t; i < kTile * kStep / 8; i += 128) {
      int r = i >> 2, c = (i & 3) * 8;
      bool ok = m0 + r < M && k0 + c < K;
      copy16(shared_address(&a_tile[s][r * kPitch + c]), ok ? A + (size_t)(m0 + r) * K + k0 + c : A, ok);
    }
    for (int i = t; i < kTile * kStep / 8; i += 128) {
      int r = i >> 2, c = (i & 3) * 8;
      bool ok = n0 + r < N && k0 + c < K;
      copy16(shared_address(&b_tile[s][r * kPitch + c]), ok ? B + (size_t)(n0 + r) * K + k0 + c : B, ok);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
  int steps = (K + kStep - 1) / kStep;
  load(0, 0);
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps)
      load((step + 1) & 1, (step + 1) * kStep);
    else
      asm volatile("cp.async.commit_group;" ::: "memory");
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncthreads();
    const __nv_bfloat16 *a = a_tile[step & 1], *b = b_tile[step & 1];
    for (int kk = 0; kk < kStep; kk += 16) {
      uint32_t ra[2][4], rb[4][2];
      for (int i = 0; i < 2; ++i)
        load_fragment(ra[i], shared_address(a + (wm + i * 16 + (l & 15)) * kPitch + kk + (l >> 4) * 8));
      for (int j = 0; j < 2; ++j) {
        uint32_t r[4];
        load_fragment(r, shared_address(b + (wn + j * 16 + (l & 7) + (l >> 4) * 8) * kPitch + kk +
                                        ((l >> 3) & 1) * 8));
        rb[2 * j][0] = r[0];
        rb[2 * j][1] = r[1];
        rb[2 * j + 1][0] = r[2];
        rb[2 * j + 1][1] = r[3];
      }
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 4; ++j) multiply(acc[i][j], ra[i], rb[j]);
    }
    __syncthreads();
  }
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 4; ++j)
      for (int e = 0; e < 4; ++e) {
        int r = m0 + wm + i * 16 + (l >> 2) + (e >> 1) * 8, c = n0 + wn + j * 8 + (l & 3) * 2 + (e & 1);
        if (r < M && c < N) C[(size_t)r * N + c] = acc[i][j][e];
      }
}

// out[c, r] = x[r, c] through a tile with a column of padding; rows and columns multiples of 32.
extern "C" __global__ void transpose(const float* __restrict__ x, float* __restrict__ out, int rows,
                                     int columns) {
  __shared__ float tile[32][33];
  int c = blockIdx.x * 32 + threadIdx.x, r = blockIdx.y * 32 + threadIdx.y;
  for (int i = 0; i < 32; i += 8) tile[threadIdx.y + i][threadIdx.x] = x[(size_t)(r + i) * columns + c];
  __syncthreads();
  c = blockIdx.y * 32 + threadIdx.x;
  r = blockIdx.x * 32 + threadIdx.y;
  for (int i = 0; i < 32; i += 8) out[(size_t)(r + i) * rows + c] = tile[threadIdx.x][threadIdx.y + i];
}

// Inclusive scan of 256 integers per block, within warps by shared memory and __syncwarp.
extern "C" __global__ void __launch_bounds__(256) scan(const int* __restrict__ x, int* __restrict__ out) {
  __shared__ int values[256];
  __shared__ int sums[8];
  int t = threadIdx.x, lane = t & 31, warp = t >> 5;
  int v = x[blockIdx.x * 256 + t];
  values[t] = v;
  for (int o = 1; o < 32; o <<= 1) {
    __syncwarp();
    int other = lane >= o ? values[t - o] : 0;
    __syncwarp();
    v += other;
    values[t] = v;
  }
  if (lane == 31) sums[warp] = v;
  __syncthreads();
  int before = 0;
  for (int i = 0; i < warp; ++i) before += sums[i];
  out[blockIdx.x * 256 + t] = v + before;
}

// Sum over all blocks, the last block to finish adds the parts in order: __threadfence and a counter.
extern "C" __global__ void __launch_bounds__(128)
    reduce_last_block(const float* __restrict__ x, float* part, unsigned* counter, float* out, int n) {
  __shared__ float warp_sum[4];
  __shared__ bool is_last;
  float sum = 0;
  for (int i = blockIdx.x * 128 + threadIdx.x; i < n; i += gridDim.x * 128) sum += x[i];
  for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
  if ((threadIdx.x & 31) == 0) warp_sum[threadIdx.x >> 5] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    part[blockIdx.x] = warp_sum[0] + warp_sum[1] + warp_sum[2] + warp_sum[3];
    __threadfence();
    is_last = atomicAdd(counter, 1) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (is_last && threadIdx.x == 0) {
    float total = 0;
    for (int i = 0; i < gridDim.x; ++i) total += part[i];
    *out = total;
  }
}

// Block b hands a tile to block b + 1: release and acquire at gpu scope, one flag per block.
extern "C" __global__ void __launch_bounds__(64)
    chain(const int* __restrict__ x, int* tile, unsigned* flag, int* out) {
  int b = blockIdx.x, t = threadIdx.x;
  int carry = 0;
  if (b > 0) {
    if (t == 0) {
      unsigned seen;
      do
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag + b - 1) : "memory");
      while (!seen);
    }
    __syncthreads();
    carry = tile[(b - 1) * 64 + t];
  }
  int v = x[b * 64 + t] + carry;
  tile[b * 64 + t] = v;
  out[b * 64 + t] = v;
  __syncthreads();
  if (t == 0)
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag + b), "r"(1u) : "memory");
}

// Two phases with a grid barrier of cooperative groups between them.
extern "C" __global__ void __launch_bounds__(64) grid_phases(const int* x, int* middle, int* out, int n) {
  int i = blockIdx.x * 64 + threadIdx.x;
  if (i < n) middle[i] = 2 * x[i];
  cg::this_grid().sync();
  if (i < n) out[i] = middle[n - 1 - i] + 1;
}

// Tiles of 8 lanes reduce by shuffles; then one atomic per tile.
extern "C" __global__ void __launch_bounds__(96) tile_sums(const int* __restrict__ x, int* out, int n) {
  auto tile = cg::tiled_partition<8>(cg::this_thread_block());
  int i = blockIdx.x * 96 + threadIdx.x;
  int v = i < n ? x[i] : 0;
  for (int o = 4; o; o >>= 1) v += tile.shfl_down(v, o);
  if (tile.thread_rank() == 0) atomicAdd(out, v);
}

// Histogram of bytes: shared atomics, then global ones.
extern "C" __global__ void __launch_bounds__(128)
    histogram(const uint8_t* __restrict__ x, unsigned* out, int n) {
  __shared__ unsigned bins[256];
  for (int i = threadIdx.x; i < 256; i += 128) bins[i] = 0;
  __syncthreads();
  for (int i = blockIdx.x * 128 + threadIdx.x; i < n; i += gridDim.x * 128) atomicAdd(&bins[x[i]], 1);
  __syncthreads();
#pragma unroll 1  // copies of a loop that are never executed test nothing
  for (int i = threadIdx.x; i < 256; i += 128)
    if (bins[i]) atomicAdd(&out[i], bins[i]);
}

// Producer warp fills, consumer warps read: named barriers 1 (full) and 2 (empty).
extern "C" __global__ void __launch_bounds__(64) named_barriers(const int* __restrict__ x, int* out, int n) {
  __shared__ int stage[32];
  int lane = threadIdx.x & 31;
  if (threadIdx.x < 32) {
    for (int i = 0; i < n; ++i) {
      asm volatile("bar.sync 2, 64;" ::: "memory");
      stage[lane] = x[i * 32 + lane];
      asm volatile("bar.arrive 1, 64;" ::: "memory");
    }
  } else {
    asm volatile("bar.arrive 2, 64;" ::: "memory");
    for (int i = 0; i < n; ++i) {
      asm volatile("bar.sync 1, 64;" ::: "memory");
      out[i * 32 + lane] = stage[31 - lane] * 3;
      if (i + 1 < n) asm volatile("bar.arrive 2, 64;" ::: "memory");
    }
  }
}

// A copy of rows with cp.async of 4, 8 and 16 bytes and wait_all.
extern "C" __global__ void __launch_bounds__(32) async_sizes(const int* __restrict__ x, int* out) {
  __shared__ __align__(16) int buffer[32 * 7];
  int t = threadIdx.x;
  int *small = buffer + t, *middle = buffer + 32 + 2 * t, *large = buffer + 96 + 4 * t;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(small)), "l"(x + t)
               : "memory");
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared_address(middle)), "l"(x + 32 + 2 * t)
               : "memory");
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(large)), "l"(x + 96 + 4 * t)
               : "memory");
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncwarp();
  for (int i = t; i < 224; i += 32) out[i] = buffer[223 - i];
}

// Double arithmetic, integer division, local arrays, divergence with a loop per lane.
extern "C" __global__ void mixed(const double* __restrict__ x, double* out, const int* __restrict__ k, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  double history[8];
  double v = x[i];
  for (int j = 0; j < 8; ++j) {
    v = v * 1.0001 + sqrt(fabs(v)) / (j + 1);
    history[(j * (k[i] % 7 + 7)) & 7] = v;
  }
  double sum = 0;
  for (int j = 0; j < (k[i] & 7); ++j) sum += history[((k[i] % 7 + 7) * j) & 7];
  out[i] = sum + k[i] / 3 + k[i] % 5;
}

__device__ __noinline__ float polynomial(float x, int degree) {
  float r = 1;
  for (int i = 0; i < degree; ++i) r = r * x + 1;
  return r;
}
// Calls a function, prints and asserts.
extern "C" __global__ void calls(const float* x, float* out, int n) {
  int i = threadIdx.x;
  assert(n <= 64);
  if (i < n) out[i] = polynomial(x[i], i % 4);
  if (i == 3) printf("lane %d has %5.2f and %s, 100%%\n", i, x[i], "text");
}

__constant__ float table[16] = {0.f, .5f, 1.f, 1.5f, 2.f, 3.f, 4.f, 6.f, -0.f, -.5f, -1.f, -1.5f, -2.f, -3.f, -4.f, -6.f};
__device__ unsigned launches;
// MXFP4 to bf16 by table, two per byte; counts its blocks in a global variable.
extern "C" __global__ void fp4_table(const uint8_t* __restrict__ codes, __nv_bfloat162* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = __floats2bfloat162_rn(table[codes[i] & 15], table[codes[i] >> 4]);
  if (threadIdx.x == 0) atomicAdd(&launches, 1);
}

// half2 arithmetic of cuda_fp16.h.
extern "C" __global__ void half_ops(const __half2* __restrict__ x, const __half2* __restrict__ y, __half2* out,
                                    int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  __half2 v = __hfma2(x[i], y[i], __hmul2(x[i], x[i]));
  v = __hmax2(v, y[i]);
  out[i] = __hadd2(v, h2rcp(__hadd2(__habs2(y[i]), __float2half2_rn(1.f))));
}

// A mutex by compare-and-swap; each thread of one lane per warp adds once.
extern "C" __global__ void locked(int* lock, int* sum) {
  if ((threadIdx.x & 31) == 0) {
    while (atomicCAS(lock, 0, 1) != 0) {
    }
    __threadfence();
    *sum += 1;
    __threadfence();
    atomicExch(lock, 0);
  }
}

// Votes, matches and ballots.
extern "C" __global__ void votes(const int* __restrict__ x, unsigned* out) {
  int t = threadIdx.x, v = x[t];
  unsigned same = __match_any_sync(~0u, v & 3);
  int all_equal;
  unsigned whole = __match_all_sync(~0u, v >> 8, &all_equal);
  unsigned positive = __ballot_sync(~0u, v > 0);
  out[4 * t] = same;
  out[4 * t + 1] = whole | (unsigned)all_equal;
  out[4 * t + 2] = positive;
  out[4 * t + 3] = __reduce_add_sync(~0u, (unsigned)v) + __reduce_max_sync(same, v) +
                   __any_sync(~0u, v == 7) * 2 + __all_sync(~0u, v > -1000);
}

// __syncthreads_count, _and, _or.
extern "C" __global__ void block_votes(const int* __restrict__ x, int* out) {
  int v = x[threadIdx.x];
  int n = __syncthreads_count(v > 0), all = __syncthreads_and(v > -50), any = __syncthreads_or(v > 90);
  out[threadIdx.x] = n * 4 + (all != 0) * 2 + (any != 0);
}
