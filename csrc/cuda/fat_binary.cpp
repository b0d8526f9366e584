#include "cuda/fat_binary.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"

namespace gptoss::cuda {
namespace {

struct Header {
  uint32_t magic;
  uint16_t version;
  uint16_t header_bytes;
  uint64_t body_bytes;
};
constexpr uint32_t kMagic = 0xba55ed50;

// What stands before the bytes of PTX or of machine code.
struct Entry {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t payload_bytes;
  uint32_t compressed_bytes, options_offset;
  uint16_t minor, major;  // PTX: its version; machine code: 1 and the version of its ABI
  uint32_t architecture;  // 90
  uint32_t name_offset, name_bytes;
  uint64_t flags;
};
constexpr uint16_t kPtx = 1;
constexpr uint64_t kOneArchitecture = 0x100000;  // sm_90a, and with the next sm_100f
constexpr uint64_t kFamily = 0x1000000;

constexpr int kCuda12 = 12000, kCuda13 = 13000;
constexpr int kFirstWithFamilies = 12090;
constexpr int kFirstWithBlackwell = 12080;

// "PTX Release History" in NVIDIA's description of PTX: 8.0 came with CUDA 12.0, 8.5 with 12.5 and
// 12.6, 8.8 with 12.9, 9.0 with 13.0.
int cuda_of_ptx(int major, int minor) {
  if (major < 8) return kCuda12;
  const int skipped = major == 8 && minor > 5 ? 1 : 0;
  return 1000 * (major + 4) + 10 * (minor + skipped);
}

// Version 7 is that of CUDA 12, but for cards that came later, where it is 8, which CUDA 13 has for
// all. For 11.0, which CUDA 12 called otherwise, that is too early: no older driver shows such a
// card.
int cuda_of_abi(int version, int capability) {
  if (version <= 7) return kCuda12;
  return version == 8 && capability >= 100 ? kFirstWithBlackwell : kCuda13;
}

bool is_for(const Entry& entry, int capability) {
  const int architecture = static_cast<int>(entry.architecture);
  const bool same_generation = architecture / 10 == capability / 10 && architecture <= capability;
  if ((entry.flags & kFamily) != 0) return same_generation;
  if ((entry.flags & kOneArchitecture) != 0) return architecture == capability;
  return entry.kind == kPtx ? architecture <= capability : same_generation;
}

int oldest_driver_of(const Entry& entry, int capability) {
  const int oldest = entry.kind == kPtx ? cuda_of_ptx(entry.major, entry.minor)
                                        : cuda_of_abi(entry.minor, capability);
  return (entry.flags & kFamily) != 0 ? std::max(oldest, kFirstWithFamilies) : oldest;
}

}  // namespace

std::span<const uint8_t> first_fat_binary(std::span<const uint8_t> images) {
  Header header{};
  if (images.size() >= sizeof(header)) {
    std::memcpy(&header, images.data(), sizeof(header));
    const uint64_t rest = images.size() - std::min<uint64_t>(header.header_bytes, images.size());
    if (header.magic == kMagic && header.header_bytes >= sizeof(header) &&
        header.body_bytes <= rest) {
      return images.first(header.header_bytes + header.body_bytes);
    }
  }
  throw BackendError("[cuda] the kernels of this build are damaged: no fat binary");
}

int oldest_driver_for(std::span<const uint8_t> fat_binary, int capability) {
  Header header{};
  std::memcpy(&header, fat_binary.data(), sizeof(header));
  Entry best{};
  bool found = false;
  for (uint64_t at = header.header_bytes; at + sizeof(Entry) <= fat_binary.size();) {
    Entry entry{};
    std::memcpy(&entry, fat_binary.data() + at, sizeof(entry));
    at += std::max<uint64_t>(entry.header_bytes, sizeof(entry)) + entry.payload_bytes;
    if (!is_for(entry, capability)) continue;
    // Machine code before PTX, and what is nearest to the device.
    const bool is_better =
        entry.kind == best.kind ? entry.architecture > best.architecture : best.kind == kPtx;
    if (found && !is_better) continue;
    best = entry;
    found = true;
  }
  return found ? oldest_driver_of(best, capability) : 0;
}

}  // namespace gptoss::cuda
