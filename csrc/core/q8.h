#pragma once

#include <cstdint>

namespace gptoss {

// Weights in int8, 32 of a row with a scale: w = code * scale / 2, codes in [-127, 127]. K is a
// multiple of 32. Codes are stored in groups of 4 blocks: (2, 4, 16), all even elements before all
// odd ones, the last group with as many blocks as are left.
//
//   codes  (N, K)     i8
//   scales (N, K/32)  bf16
//
// q8_0 holds the numbers of ggml's Q8_0 (core/ggml.h) in the same order: w = code * scale, codes in
// [-128, 127], scales in f16.
inline constexpr int kQ8Block = 32;

// A scale of q8_0, told from one of q8 by its type.
struct HalfScale {
  uint16_t bits;
};

// Where the 16 even codes of a row's block are; its odd ones come `*odd` bytes later.
[[gnu::always_inline]] inline int64_t q8_block_offset(int64_t k, int64_t block, int64_t* odd) {
  const int64_t blocks = k / kQ8Block;
  const int64_t in_group = blocks - block / 4 * 4 < 4 ? blocks - block / 4 * 4 : 4;
  *odd = 16 * in_group;
  return block / 4 * 4 * kQ8Block + block % 4 * 16;
}

}  // namespace gptoss
