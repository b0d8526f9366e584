// Blocks of 32 elements as GGUF files hold them, and what the kernels read of the same numbers.
//
//   MXFP4  17 bytes  the scale byte (E8M0), then 16 bytes: byte i has element i in its low nibble,
//                    i + 16 in its high one. Codes and scale bytes are those of core/mxfp4.h.
//   Q8_0   34 bytes  the scale d (f16), then 32 i8: w = code * d
#pragma once

#include <cstdint>

#include "core/float16.h"
#include "core/q8.h"

namespace gptoss {

inline constexpr int kGgmlBlock = 32;  // elements
inline constexpr int kGgmlMxfp4Bytes = 17;
inline constexpr int kGgmlQ80Bytes = 34;

// blocks (n_blocks, 16) and scales (n_blocks) of core/mxfp4.h from ggml's, without loss.
void mxfp4_from_ggml(const uint8_t* ggml, int64_t n_blocks, uint8_t* blocks, uint8_t* scales);

// A row of k in q8_0: codes (k) and scales (k/32) from ggml's blocks, without loss. Returns the
// first block whose scale is not finite, or -1.
int64_t q8_0_from_ggml(const uint8_t* ggml, int64_t k, int8_t* codes, uint16_t* scales);

// y (k) f32 = a row of q8_0, exactly.
inline void q8_0_decode_row(const int8_t* codes, const uint16_t* scales, int64_t k, float* y) {
  for (int64_t block = 0; block < k / kQ8Block; ++block) {
    const float scale = half_to_float(load_u16(scales + block));
    int64_t odd;
    const int8_t* const even = codes + q8_block_offset(k, block, &odd);
    for (int64_t i = 0; i < 16; ++i) {
      y[kQ8Block * block + 2 * i] = static_cast<float>(even[i]) * scale;
      y[kQ8Block * block + 2 * i + 1] = static_cast<float>(even[odd + i]) * scale;
    }
  }
}

}  // namespace gptoss
