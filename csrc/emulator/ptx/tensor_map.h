// Tensor maps: what cuTensorMapEncodeTiled makes and cp.async.bulk.tensor reads. The card's format
// is secret; this is the emulator's own in the same 128 bytes.
#pragma once

#include <cstdint>
#include <string>

namespace gptoss::emulator {

inline constexpr uint32_t kTensorMapBytes = 128;
inline constexpr int kMostDimensions = 5;

struct TensorMap {
  uint64_t magic = 0;
  uint64_t address = 0;
  uint64_t strides[kMostDimensions - 1] = {};  // bytes, of the dimensions from the second on
  uint32_t last[kMostDimensions] = {};         // index of the last element per dimension
  uint16_t box[kMostDimensions] = {};          // elements
  uint8_t rank = 0, element_bytes = 0;
  uint8_t swizzle = 0;  // 0: none; 1, 2, 3: 32, 64, 128 bytes

  bool is_valid() const;
  uint32_t row_bytes() const { return uint32_t{box[0]} * element_bytes; }
  uint32_t box_bytes() const;
};
static_assert(sizeof(TensorMap) <= kTensorMapBytes);

struct TensorMapRequest {
  int element_bytes = 0;
  uint32_t rank = 0;
  uint64_t address = 0;
  const uint64_t* sizes = nullptr;    // elements, `rank` of them
  const uint64_t* strides = nullptr;  // bytes, rank - 1
  const uint32_t* box = nullptr;      // elements, rank
  int swizzle = 0;
};

// Empty, or what the driver refuses.
std::string encode(const TensorMapRequest& request, TensorMap& out);

// The place of a byte of a tile in shared memory: the XOR of address bits that swizzling is.
inline uint32_t swizzled(uint32_t address, int mode) {
  constexpr uint32_t kMask[] = {0, 0x10, 0x30, 0x70};
  return address ^ (address >> 3 & kMask[mode]);
}

}  // namespace gptoss::emulator
