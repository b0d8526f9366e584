// Norms, rotations, activation functions: what is computed number by number.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/float16.h"
#include GPTOSS_ISA_SIMD

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

// e^x to 2 ulp for x in [-87.3, 88.3]; 0 below, e^88.3 above. exp(0) is exactly 1.
[[gnu::always_inline]] inline F32x16 exp(F32x16 x) {
  const F32x16 low = set1(-87.3f);
  const F32x16 clamped = min(set1(88.3f), max(low, x));  // in this order NaN stays NaN
  // x = n ln 2 + r with |r| <= ln(2)/2; ln 2 in two parts so that r keeps its digits.
  const F32x16 n = round(mul(clamped, set1(1.44269504f)));
  F32x16 r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  // Taylor terms to r^7: the remainder is below 2^-25 relative.
  F32x16 p = set1(1.0f / 5040);
  p = fma(p, r, set1(1.0f / 720));
  p = fma(p, r, set1(1.0f / 120));
  p = fma(p, r, set1(1.0f / 24));
  p = fma(p, r, set1(1.0f / 6));
  p = fma(p, r, set1(0.5f));
  p = fma(p, r, set1(1.0f));
  p = fma(p, r, set1(1.0f));
  // 2^n in two steps: 2^127 * 2 is not a float.
  const F32x16 half_n = round(mul(n, set1(0.5f)));
  p = mul(mul(p, pow2(half_n)), pow2(sub(n, half_n)));
  return select_less(x, low, set1(0.0f), p);
}

float exp_one(float x) {
  float lanes[16];
  store(lanes, exp(set1(x)));
  return lanes[0];
}

float square_root(float x) { return __builtin_sqrtf(x); }

// Sum of f over n elements in 16 lanes; the tail is padded with zeros.
template <class F>
float sum_lanes(const float* x, int n, F f) {
  F32x16 sum = set1(0.0f);
  int i = 0;
  for (; i + 16 <= n; i += 16) sum = f(load(x + i), sum);
  if (i < n) {
    float tail[16] = {};
    std::memcpy(tail, x + i, static_cast<size_t>(n - i) * sizeof(float));
    sum = f(load(tail), sum);
  }
  return reduce_add(sum);
}

void rms_norm(const float* x, const float* weight, float eps, int n, float* y) {
  const float squares = sum_lanes(x, n, [](F32x16 a, F32x16 sum) { return fma(a, a, sum); });
  const float factor = 1.0f / square_root(squares / static_cast<float>(n) + eps);
  const F32x16 factors = set1(factor);
  int i = 0;
  for (; i + 16 <= n; i += 16) store(y + i, mul(mul(load(x + i), factors), load(weight + i)));
  for (; i < n; ++i) y[i] = (x[i] * factor) * weight[i];
}

void from_bf16(const uint16_t* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = bf16_to_float(load_u16(x + i));
}

void rope(float* x, int heads, int head_dim, const float* cos, const float* sin) {
  const int half = head_dim / 2;
  for (int h = 0; h < heads; ++h, x += head_dim) {
    for (int i = 0; i < half; ++i) {
      const float a = x[i];
      const float b = x[half + i];
      x[i] = a * cos[i] - b * sin[i];
      x[half + i] = b * cos[i] + a * sin[i];
    }
  }
}

F32x16 swiglu_of(F32x16 gate, F32x16 up, float limit) {
  const F32x16 limits = set1(limit);
  const F32x16 one = set1(1.0f);
  gate = min(limits, gate);  // in this order NaN stays NaN
  up = min(limits, max(set1(-limit), up));
  const F32x16 sigmoid = div(one, add(one, exp(mul(gate, set1(-1.702f)))));
  return mul(mul(gate, sigmoid), add(up, one));
}

void swiglu(const float* gate_up, int n, float limit, float* h) {
  F32x16 gate;
  F32x16 up;
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    load_pairs(gate_up + 2 * i, gate, up);
    store(h + i, swiglu_of(gate, up, limit));
  }
  if (i < n) {
    const auto left = static_cast<size_t>(n - i);
    float padded[32] = {};
    std::memcpy(padded, gate_up + 2 * i, 2 * left * sizeof(float));
    load_pairs(padded, gate, up);
    store(padded, swiglu_of(gate, up, limit));
    std::memcpy(h + i, padded, left * sizeof(float));
  }
}

void add_scaled(const float* x, float weight, int n, float* y) {
  const F32x16 weights = set1(weight);
  int i = 0;
  for (; i + 16 <= n; i += 16) store(y + i, fma(weights, load(x + i), load(y + i)));
  for (; i < n; ++i) y[i] = y[i] + weight * x[i];
}

// What turns numbers of this largest magnitude into codes in [-127, 127]; 0 for what is so small
// that the factor could be infinite.
float int8_factor(float largest) { return largest > 1e-30f ? 127.0f / largest : 0.0f; }

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
