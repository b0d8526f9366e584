#include "emulator/ptx/tensor_map.h"

namespace gptoss::emulator {
namespace {

constexpr uint64_t kMagic = 0x70616d2d726f736eull;  // bytes that nothing else begins with
constexpr uint64_t kMostElements = 1ull << 32;
constexpr uint64_t kMostStride = 1ull << 40;
constexpr uint32_t kMostBox = 256;

}  // namespace

bool TensorMap::is_valid() const { return magic == kMagic && rank >= 1 && rank <= kMostDimensions; }

uint32_t TensorMap::box_bytes() const {
  uint32_t bytes = element_bytes;
  for (int i = 0; i < rank; ++i) bytes *= box[i];
  return bytes;
}

std::string encode(const TensorMapRequest& r, TensorMap& out) {
  if (r.rank < 1 || r.rank > kMostDimensions) return "a tensor has 1 to 5 dimensions";
  if (!r.address || r.address % 16) return "the address is not a multiple of 16";
  if (r.swizzle < 0 || r.swizzle > 3) return "unknown swizzle";
  out = TensorMap{};
  out.magic = kMagic;
  out.address = r.address;
  out.rank = static_cast<uint8_t>(r.rank);
  out.element_bytes = static_cast<uint8_t>(r.element_bytes);
  out.swizzle = static_cast<uint8_t>(r.swizzle);
  for (uint32_t i = 0; i < r.rank; ++i) {
    if (r.sizes[i] == 0 || r.sizes[i] > kMostElements) return "a dimension has 1 to 2^32 elements";
    if (r.box[i] == 0 || r.box[i] > kMostBox) return "a box has 1 to 256 elements per dimension";
    if (i && (r.strides[i - 1] % 16 || r.strides[i - 1] >= kMostStride))
      return "a stride is a multiple of 16 below 2^40";
    out.last[i] = static_cast<uint32_t>(r.sizes[i] - 1);
    out.box[i] = static_cast<uint16_t>(r.box[i]);
    if (i) out.strides[i - 1] = r.strides[i - 1];
  }
  if (out.row_bytes() % 16) return "the rows of a box are a multiple of 16 bytes";
  if (r.swizzle && out.row_bytes() > (16u << r.swizzle))
    return "the rows of a box are wider than the swizzle";
  return "";
}

}  // namespace gptoss::emulator
