// MXFP4 to f32 and back, block by block (core/mxfp4.h).
//   values (B, 32)  f32
//   blocks (B, 16)  u8   byte i: element 2i = low nibble, 2i+1 = high nibble
//   scales (B)      u8   E8M0: 2^(s-127)
// Requires B >= 1. Dequantising is exact, but for products beyond the range of f32. Quantising
// takes finite values: the scale is 2^(floor(log2(largest magnitude)) - 2), or with `least_squares`
// the one with the least square error; elements are rounded to the nearest value, ties to the even
// code.
#pragma once

#include <cstdint>

#include "core/check.h"

namespace gptoss::ops {

struct Mxfp4Dequantize {
  const uint8_t* blocks;
  const uint8_t* scales;
  float* values;
  int64_t n_blocks;
};

struct Mxfp4Quantize {
  const float* values;
  uint8_t* blocks;
  uint8_t* scales;
  int64_t n_blocks;
  bool least_squares;
};

inline void validate(const Mxfp4Dequantize& op) {
  check(op.n_blocks >= 1, "[mxfp4_dequantize] blocks must not be empty");
}

inline void validate(const Mxfp4Quantize& op) {
  check(op.n_blocks >= 1, "[mxfp4_quantize] x must not be empty");
}

}  // namespace gptoss::ops
