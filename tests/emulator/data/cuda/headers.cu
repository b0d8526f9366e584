// What nvcc's headers make of ordinary functions on sm_80: mathematics, 16- and 8-bit floats.
// headers.ptx is made of it by make_ptx.sh; test_headers.py compares with numpy.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <math.h>
#include <stdint.h>

#define INDEX                                    \
  int i = blockIdx.x * blockDim.x + threadIdx.x; \
  if (i >= n) return;

extern "C" __global__ void f32_math(const float* x, float* out, int n) {
  INDEX;
  float v = x[i], *p = out + (size_t)i * 24;
  p[0] = expf(v);
  p[1] = logf(fabsf(v));
  p[2] = powf(fabsf(v), 1.7f);
  p[3] = tanhf(v);
  p[4] = sinf(v * 100);
  p[5] = cosf(v * 1e6f);
  p[6] = erff(v);
  p[7] = rsqrtf(fabsf(v));
  p[8] = exp2f(v);
  p[9] = log1pf(fabsf(v));
  p[10] = expm1f(v);
  p[11] = cbrtf(v);
  p[12] = fmodf(v, 0.3f);
  p[13] = atan2f(v, 2.f);
  p[14] = roundf(v * 10);
  p[15] = rintf(v * 10);
  p[16] = truncf(v * 10);
  p[17] = ceilf(v * 10);
  p[18] = floorf(v * 10);
  p[19] = hypotf(v, 1.f);
  p[20] = ldexpf(v, 3);
  p[21] = v / 3.f;
  p[22] = sqrtf(fabsf(v));
  p[23] = __fdividef(v, 3.f);
}

extern "C" __global__ void f64_math(const double* x, double* out, int n) {
  INDEX;
  double v = x[i], *p = out + (size_t)i * 8;
  p[0] = exp(v);
  p[1] = log(fabs(v));
  p[2] = pow(fabs(v), 1.7);
  p[3] = tanh(v);
  p[4] = sin(v * 100);
  p[5] = v / 3;
  p[6] = sqrt(fabs(v));
  p[7] = erf(v);
}

extern "C" __global__ void integer_math(const long long* x, long long* out, int n) {
  INDEX;
  long long v = x[i], *p = out + (size_t)i * 12;
  unsigned u = (unsigned)v;
  p[0] = v / 7919;
  p[1] = v % 7919;
  p[2] = v / (v >> 33 | 1);
  p[3] = __popcll(v);
  p[4] = __clzll(v);
  p[5] = __ffsll(v);
  p[6] = __brevll(v);
  p[7] = __mulhi((int)v, 12345);
  p[8] = __umul64hi(v, v);
  p[9] = __byte_perm(u, ~u, 0x3715);
  p[10] = __funnelshift_l(u, ~u, u & 31);
  p[11] = (long long)((unsigned __int128)(unsigned long long)v * (unsigned long long)v >> 70);
}

extern "C" __global__ void f16_math(const __half* x, __half* out, int n) {
  INDEX;
  __half v = x[i], *p = out + (size_t)i * 10;
  p[0] = hexp(v);
  p[1] = hlog(__habs(v));
  p[2] = hsin(v);
  p[3] = hsqrt(__habs(v));
  p[4] = v / (v * v + __float2half(1.f));
  p[5] = __hmax(v, __float2half(.5f));
  p[6] = hrint(v);
  p[7] = __hlt(v, p[0]) ? v : p[0];
  p[8] = hrsqrt(__habs(v));
  p[9] = __hfma_sat(v, v, v);
}

extern "C" __global__ void bf16_math(const __nv_bfloat16* x, __nv_bfloat16* out, int n) {
  INDEX;
  __nv_bfloat16 v = x[i], *p = out + (size_t)i * 8;
  p[0] = hexp(v);
  p[1] = v * v + v;
  p[2] = __hmin(v, __float2bfloat16(.25f));
  p[3] = __hgt(v, p[0]) ? v : p[0];
  p[4] = -v;
  p[5] = __habs(v);
  p[6] = v / (v * v + __float2bfloat16(1.f));
  p[7] = __float2bfloat16_rz(__bfloat162float(v) * 1.001f);
}

extern "C" __global__ void fp8(const float* x, uint8_t* out, float* back, int n) {
  INDEX;
  __nv_fp8_e4m3 a(x[i]);
  __nv_fp8_e5m2 b(x[i]);
  out[2 * i] = a.__x;
  out[2 * i + 1] = b.__x;
  back[2 * i] = float(a);
  back[2 * i + 1] = float(b);
}

__device__ int choose(int k, int v) {
  switch (k) {
    case 0: return v + 1;
    case 1: return v * 3;
    case 2: return v - 7;
    case 3: return v ^ 55;
    case 4: return v << 2;
    case 5: return v >> 1;
    case 6: return -v;
    case 7: return ~v;
    default: return 0;
  }
}
extern "C" __global__ void switches(const int* x, int* out, int n) {
  INDEX;
  out[i] = choose(x[i] & 15, x[i]);
}

// A structure by value, indexed at run time.
struct Table {
  int a[20];
  float b;
};
extern "C" __global__ void by_value(Table table, int* out, int n) {
  INDEX;
  out[i] = table.a[i % 20] + (int)table.b;
}
