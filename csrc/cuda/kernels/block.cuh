// What kernels share: conversions, and sums over a warp or a block in a fixed order.
#pragma once

#include <cstdint>

#include "cuda/kernels/args.h"

namespace gptoss::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x & 31); }
__device__ __forceinline__ int warp_id() { return static_cast<int>(threadIdx.x >> 5); }

__device__ __forceinline__ float from_bf16(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}
__device__ __forceinline__ uint16_t to_bf16(float x) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
// Low half first.
__device__ __forceinline__ uint32_t to_bf16_pair(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
__device__ __forceinline__ float from_f16(uint16_t bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}
__device__ __forceinline__ uint16_t to_f16(float x) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
__device__ __forceinline__ uint32_t to_f16_pair(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- Programmatic dependent launch ----
//
// From compute capability 9.0 on a kernel may be launched while the one ahead of it still runs: its
// blocks begin as soon as every block of that one has called launch_dependents() and there is room.
// What they wait for is its end, and it has waited for the end of the one ahead of it, and so on.
// So every block of every kernel waits, those that have nothing to do as well; and before that it
// reads nothing but its arguments, weights, constants and what the host has written of the step,
// which no kernel writes, and writes nothing but shared memory.

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
inline constexpr bool kOverlapsGrids = true;
#else
inline constexpr bool kOverlapsGrids = false;
#endif

__device__ __forceinline__ void launch_dependents() {
  if constexpr (kOverlapsGrids) asm volatile("griddepcontrol.launch_dependents;");
}
__device__ __forceinline__ void wait_for_prerequisites() {
  if constexpr (kOverlapsGrids) asm volatile("griddepcontrol.wait;" ::: "memory");
}
// Where nothing more can be done ahead. The next kernel, which may now be brought to the
// multiprocessors, does what it can do ahead beside this one's wait.
__device__ __forceinline__ void take_turn() {
  launch_dependents();
  wait_for_prerequisites();
}
// Brings to L2 what is read after the wait.
__device__ __forceinline__ void prefetch(const void* from) {
  if constexpr (kOverlapsGrids) asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

// How an activation or a cached number of this type is read and written.
template <class T>
struct Stored;
template <>
struct Stored<float> {
  using Element = float;
  static __device__ __forceinline__ float load(const float* p) { return *p; }
  static __device__ __forceinline__ void store(float* p, float x) { *p = x; }
};
struct Bf16 {};
template <>
struct Stored<Bf16> {
  using Element = uint16_t;
  static __device__ __forceinline__ float load(const uint16_t* p) { return from_bf16(*p); }
  static __device__ __forceinline__ void store(uint16_t* p, float x) { *p = to_bf16(x); }
};
struct F16 {};
template <>
struct Stored<F16> {
  using Element = uint16_t;
  static __device__ __forceinline__ float load(const uint16_t* p) { return from_f16(*p); }
  static __device__ __forceinline__ void store(uint16_t* p, float x) { *p = to_f16(x); }
};
// Codes of numbers; what they are times is not here.
struct Int8 {};
template <>
struct Stored<Int8> {
  using Element = int8_t;
};

// Rises with the number: equal for both zeros, 0 for NaN, above that for all others.
__device__ __forceinline__ uint32_t rank_of(float x) {
  if (x != x) return 0;
  const uint32_t bits = __float_as_uint(x == 0.0f ? 0.0f : x);
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

// The same bits in every lane.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}
__device__ __forceinline__ uint64_t warp_sum(uint64_t x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

// The same bits in every thread; all threads of the block take part. `parts` is shared memory that
// nothing else uses until the next barrier.
template <int kThreads>
__device__ __forceinline__ float block_sum(float x, float (&parts)[kThreads / 32]) {
  x = warp_sum(x);
  if (lane_id() == 0) parts[warp_id()] = x;
  __syncthreads();
  float sum = parts[0];
#pragma unroll
  for (int i = 1; i < kThreads / 32; ++i) sum += parts[i];
  return sum;
}

// Whether this block is the last of `count` to come here; what they wrote before is then seen. All
// threads call. `arrived` is zero before and after.
__device__ __forceinline__ bool is_last_of(int32_t* arrived, int count) {
  __shared__ bool is_last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    is_last = atomicAdd(arrived, 1) == count - 1;
    if (is_last) atomicExch(arrived, 0);
    __threadfence();
  }
  __syncthreads();
  return is_last;
}

// Numbers in int8, 32 with a scale (args.h: QuantizeArgs), from the bits of their largest
// magnitude: as integers those have the order of the numbers, and what is not finite is the
// largest.
struct Int8Scale {
  float scale, factor;

  __device__ __forceinline__ explicit Int8Scale(uint32_t largest_bits)
      : scale(__fdiv_rn(__uint_as_float(largest_bits), 254.0f)),
        factor(__uint_as_float(largest_bits) > 1e-30f
                   ? __fdiv_rn(127.0f, __uint_as_float(largest_bits))
                   : 0.0f) {}
  __device__ __forceinline__ int8_t code(float x) const {
    return static_cast<int8_t>(__float2int_rn(__fmul_rn(x, factor)));
  }
};
__device__ __forceinline__ uint32_t magnitude_bits(float x) { return __float_as_uint(fabsf(x)); }

// ---- A norm that is begun (args.h: RowNorm) ----

// Of the 16 columns that half a warp has: the sum of x^2, in all of its lanes. All lanes call.
__device__ __forceinline__ float sum_of_squares(float x) {
  float sum = __fmul_rn(x, x);
#pragma unroll
  for (int step = 1; step < kNormColumns; step *= 2) {
    sum = __fadd_rn(sum, __shfl_xor_sync(kAllLanes, sum, step));
  }
  return sum;
}
// Of a row's parts; a warp together.
__device__ __forceinline__ float sum_of_parts(const float* parts, int n_parts) {
  float sum = 0.0f;
  for (int i = lane_id(); i < n_parts; i += 32) sum = __fadd_rn(sum, parts[i]);
  return warp_sum(sum);
}

// The norm of a row, by a block: x_of(i) is asked once for each i, by the thread that then has it.
template <int kThreads, class XOf>
__device__ __forceinline__ void begin_norm(int n, const float* weight, uint16_t* y, float* squares,
                                           XOf x_of) {
  __shared__ float parts[kMaxHidden / kNormColumns];
  const auto thread = static_cast<int>(threadIdx.x);
  for (int base = 0; base < n; base += kThreads) {
    const int i = base + thread;
    const float x = i < n ? x_of(i) : 0.0f;
    if (i < n) y[i] = to_bf16(x * weight[i]);
    const float sum = sum_of_squares(x);
    if (i < n && thread % kNormColumns == 0) parts[i / kNormColumns] = sum;
  }
  __syncthreads();
  if (warp_id() != 0) return;
  const float sum = sum_of_parts(parts, static_cast<int>(ceil_div(n, kNormColumns)));
  if (lane_id() == 0) *squares = sum;
}

// ---- The experts' sum ----

__device__ __forceinline__ float combined(const CombineArgs& a, int64_t t, int i) {
  float sum = 0.0f;
  for (int64_t pair = t * a.n_active; pair < (t + 1) * a.n_active; ++pair) {
    sum = __fmaf_rn(a.weights[pair], a.out[pair * a.n + i], sum);
  }
  return __fadd_rn(a.x[t * a.n + i], sum);
}

}  // namespace gptoss::cuda
