// PTX out of what cuModuleLoadData is given: text, a fat binary, or the wrapper that nvcc puts
// around one.
#include <cstring>

#include "emulator/driver/state.h"

namespace gptoss::emulator::driver {
namespace {

constexpr uint32_t kWrapperMagic = 0x466243b1;
constexpr uint32_t kFatbinMagic = 0xba55ed50;
constexpr uint16_t kPtxEntry = 1;
constexpr uint64_t kCompressedFlags = 0x2000 | 0x8000;  // LZ4, Zstandard

struct Wrapper {
  uint32_t magic, version;
  const void* data;
};
struct Header {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t body_bytes;
};
struct Entry {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t payload_bytes;
  uint32_t compressed_bytes, options_offset;
  uint16_t minor, major;
  uint32_t architecture;
  uint32_t name_offset, name_bytes;
  uint64_t flags;
  uint64_t zero, uncompressed_bytes;
};
static_assert(sizeof(Entry) == 64);

template <class T>
T read_at(const void* data, uint64_t offset) {
  T value;
  std::memcpy(&value, static_cast<const uint8_t*>(data) + offset, sizeof value);
  return value;
}

}  // namespace

std::string Driver::ptx_of_image(const void* image, const Device& device, std::string& why) {
  const uint32_t magic = read_at<uint32_t>(image, 0);
  if (magic == kWrapperMagic) return ptx_of_image(read_at<Wrapper>(image, 0).data, device, why);
  if (magic == 0x464c457f) {  // "\x7fELF"
    why = "a cubin holds machine code, the emulator runs PTX";
    return {};
  }
  if (magic != kFatbinMagic) return static_cast<const char*>(image);
  const auto header = read_at<Header>(image, 0);
  const auto limit =
      static_cast<uint32_t>(10 * device.profile->compute_major + device.profile->compute_minor);
  std::string best;
  uint32_t best_architecture = 0;
  why = "no PTX for this device in the fat binary";
  for (uint64_t at = header.header_bytes; at < header.header_bytes + header.body_bytes;) {
    const auto entry = read_at<Entry>(image, at);
    if (!entry.header_bytes) break;
    const uint64_t payload = at + entry.header_bytes;
    at = payload + entry.payload_bytes;
    if (entry.kind != kPtxEntry || entry.architecture > limit) continue;
    if (entry.flags & kCompressedFlags) {
      why = "the PTX in the fat binary is compressed: build with --no-compress";
      continue;
    }
    if (entry.architecture < best_architecture) continue;
    best_architecture = entry.architecture;
    const char* text = static_cast<const char*>(image) + payload;
    best.assign(text, strnlen(text, entry.payload_bytes));
  }
  return best;
}

}  // namespace gptoss::emulator::driver
