#pragma once

namespace gptoss {

// Weights in int8, 32 of a row with a scale: w = code * scale / 2, codes in [-127, 127]. K is a
// multiple of 32. Codes are stored in groups of 4 blocks: (2, 4, 16), all even elements before all
// odd ones, the last group with as many blocks as are left.
//
//   codes  (N, K)     i8
//   scales (N, K/32)  bf16
inline constexpr int kQ8Block = 32;

}  // namespace gptoss
