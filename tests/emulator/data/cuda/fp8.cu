// cuda_fp8.h where the card has instructions for it (compute capability 8.9).
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

// Of each value the six conversions to 8 bits: from float, half and bfloat16, to e4m3 and e5m2.
extern "C" __global__ void to_fp8(const float* x, const __half* h, const __nv_bfloat16* b,
                                  uint8_t* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  uint8_t* p = out + 6 * size_t(i);
  p[0] = __nv_fp8_e4m3(x[i]).__x;
  p[1] = __nv_fp8_e5m2(x[i]).__x;
  p[2] = __nv_fp8_e4m3(h[i]).__x;
  p[3] = __nv_fp8_e5m2(h[i]).__x;
  p[4] = __nv_fp8_e4m3(b[i]).__x;
  p[5] = __nv_fp8_e5m2(b[i]).__x;
}

// Four at a time, and what comes back of all pairs.
extern "C" __global__ void packed_fp8(const float4* x, __nv_fp8x4_e4m3* a, __nv_fp8x4_e5m2* b,
                                      float4* back, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  a[i] = __nv_fp8x4_e4m3(x[i]);
  b[i] = __nv_fp8x4_e5m2(x[i]);
  back[2 * i] = float4(a[i]);
  back[2 * i + 1] = float4(b[i]);
}

extern "C" __global__ void pairs_of_fp8(__half2* out) {
  const unsigned pair = blockIdx.x * blockDim.x + threadIdx.x;
  __nv_fp8x2_e4m3 a;
  __nv_fp8x2_e5m2 b;
  a.__x = b.__x = static_cast<uint16_t>(pair);
  out[2 * pair] = __half2(a);
  out[2 * pair + 1] = __half2(b);
}
