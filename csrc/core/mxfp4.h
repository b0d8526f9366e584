// The MXFP4 format (OCP Microscaling Formats v1.0), as the gpt-oss checkpoints store it. This is
// the only place that knows it.
//
//   blocks (rows, K/32, 16) u8   byte i of a block: element 2i in the low nibble, 2i+1 in the high
//   scales (rows, K/32)     u8   E8M0: 2^(s-127); 255 is NaN, refused when a checkpoint is opened
//   nibble                       E2M1: sign, two exponent bits, one mantissa bit
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace gptoss {

inline constexpr int kMxfp4BlockSize = 32;   // elements that share a scale
inline constexpr int kMxfp4BlockBytes = 16;  // two elements a byte

inline constexpr float kE2m1Values[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                          -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

// The values by code, doubled so that they are whole numbers, plus an offset: a register that one
// byte shuffle looks all codes up in.
struct alignas(16) E2m1Bytes {
  int8_t byte[16];
};
consteval E2m1Bytes e2m1_doubled(int offset) {
  E2m1Bytes table{};
  for (int code = 0; code < 16; ++code) {
    table.byte[code] = static_cast<int8_t>(static_cast<int>(2 * kE2m1Values[code]) + offset);
  }
  return table;
}
inline constexpr E2m1Bytes kE2m1Doubled = e2m1_doubled(0);
// Unsigned, as products of unsigned and signed bytes need one side.
inline constexpr E2m1Bytes kE2m1DoubledPlus12 = e2m1_doubled(12);
inline constexpr E2m1Bytes kE2m1DoubledPlus16 = e2m1_doubled(16);

// 2^(s-127). s = 0 is the subnormal 2^-127; s = 255 is NaN.
[[gnu::always_inline]] inline float e8m0_to_float(uint8_t s) {
  if (s == 255) return std::bit_cast<float>(0x7fc00000u);
  return std::bit_cast<float>(s == 0 ? 0x00400000u : static_cast<uint32_t>(s) << 23);
}

// y (32) f32 = one block. Exact, but for products beyond the range of f32, which become infinite.
inline void mxfp4_decode_block(const uint8_t* block, uint8_t scale, float* y) {
  const float factor = e8m0_to_float(scale);
  for (int64_t i = 0; i < kMxfp4BlockBytes; ++i) {
    y[2 * i] = kE2m1Values[block[i] & 15] * factor;
    y[2 * i + 1] = kE2m1Values[block[i] >> 4] * factor;
  }
}

// The E2M1 code nearest to x, ties to the even code; beyond 6 it saturates.
inline uint8_t e2m1_encode(float x) {
  const float a = std::fabs(x);
  // One step for each midpoint between neighbours that is passed; at a midpoint the code with
  // mantissa bit 0 wins.
  const int code = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) +
                   (a >= 3.5f) + (a > 5.0f);
  return static_cast<uint8_t>(code | (std::signbit(x) ? 8 : 0));
}

// The square error of 32 values at a scale byte, in units of that scale.
inline float mxfp4_block_error(const float* x, int byte) {
  const float inverse = std::bit_cast<float>((254u - static_cast<uint32_t>(byte)) << 23);
  float sum = 0.0f;
  for (int i = 0; i < kMxfp4BlockSize; ++i) {
    const float scaled = x[i] * inverse;
    const float error = scaled - kE2m1Values[e2m1_encode(scaled)];
    sum += error * error;
  }
  return sum;
}

// Quantises 32 finite values. The scale is 2^(floor(log2(max|x|)) - 2), as the OCP specification
// recommends; at that scale every block that came from MXFP4 returns to the same values. All
// zeros give scale byte 0.
//
// With `least_squares` it is the scale of the least square error, of two that err alike the one
// above. No other than that and its two neighbours can be: a scale above the upper neighbour has no
// number of its own up to the largest value; one below the lower loses more in the largest value
// (2.5^2 - 1 of the plain one's units at least) than it can win in the others (31 / 4^2).
inline void mxfp4_encode_block(const float* x, uint8_t* block, uint8_t* scale,
                               bool least_squares = false) {
  float amax = 0.0f;
  for (int i = 0; i < kMxfp4BlockSize; ++i) amax = std::fmax(amax, std::fabs(x[i]));
  // The biased exponent is floor(log2(amax)) + 127, and 0 for subnormal numbers and zero.
  const int biased = static_cast<int>(std::bit_cast<uint32_t>(amax) >> 23);
  int byte = biased > 2 ? biased - 2 : 0;  // 2 is the exponent of E2M1's largest value
  if (least_squares && amax > 0.0f) {
    // A neighbour's error counts in its own units: times 4 or a quarter, exactly.
    const int plain = byte;
    float least = mxfp4_block_error(x, plain);
    for (int step = 1; step >= -1; step -= 2) {
      const int other = plain + step;
      if (other < 0 || other > 252) continue;
      const float error = mxfp4_block_error(x, other) * (step > 0 ? 4.0f : 0.25f);
      if (error < least) {
        least = error;
        byte = other;
      }
    }
  }
  *scale = static_cast<uint8_t>(byte);
  // A finite amax makes byte at most 252, so that the inverse scale is a normal number.
  const float inverse = std::bit_cast<float>((254u - static_cast<uint32_t>(byte)) << 23);
  for (int64_t i = 0; i < kMxfp4BlockBytes; ++i) {
    const uint8_t low = e2m1_encode(x[2 * i] * inverse);
    const uint8_t high = e2m1_encode(x[2 * i + 1] * inverse);
    block[i] = static_cast<uint8_t>(low | (high << 4));
  }
}

}  // namespace gptoss
