#include "core/ggml.h"

#include <cstring>

namespace gptoss {
namespace {

// The low nibbles of 8 bytes as 4 bytes, the first of each pair in the low nibble.
uint32_t pair_low_nibbles(uint64_t bytes) {
  bytes &= 0x0f0f0f0f0f0f0f0fu;
  bytes = (bytes | bytes >> 4) & 0x00ff00ff00ff00ffu;
  bytes = (bytes | bytes >> 8) & 0x0000ffff0000ffffu;
  return static_cast<uint32_t>(bytes | bytes >> 16);
}

}  // namespace

void mxfp4_from_ggml(const uint8_t* ggml, int64_t n_blocks, uint8_t* blocks, uint8_t* scales) {
  for (int64_t i = 0; i < n_blocks; ++i, ggml += kGgmlMxfp4Bytes, blocks += 16) {
    uint64_t first;   // elements 0 to 7 below, 16 to 23 above
    uint64_t second;  // 8 to 15, 24 to 31
    std::memcpy(&first, ggml + 1, sizeof first);
    std::memcpy(&second, ggml + 9, sizeof second);
    const uint32_t words[4] = {pair_low_nibbles(first), pair_low_nibbles(second),
                               pair_low_nibbles(first >> 4), pair_low_nibbles(second >> 4)};
    std::memcpy(blocks, words, sizeof words);
    scales[i] = ggml[0];
  }
}

int64_t q8_0_from_ggml(const uint8_t* ggml, int64_t k, int8_t* codes, uint16_t* scales) {
  int64_t bad = -1;
  for (int64_t block = 0; block < k / kGgmlBlock; ++block, ggml += kGgmlQ80Bytes) {
    scales[block] = load_u16(ggml);
    if (bad < 0 && (scales[block] & 0x7c00) == 0x7c00) bad = block;
    int64_t odd;
    int8_t* const even = codes + q8_block_offset(k, block, &odd);
    for (int64_t i = 0; i < 16; ++i) {
      even[i] = static_cast<int8_t>(ggml[2 + 2 * i]);
      even[odd + i] = static_cast<int8_t>(ggml[3 + 2 * i]);
    }
  }
  return bad;
}

}  // namespace gptoss
