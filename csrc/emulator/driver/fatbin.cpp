// PTX out of what cuModuleLoadData is given: text, a fat binary, or the wrapper that nvcc puts
// around one.
#include <cstdio>
#include <cstring>

#include "emulator/driver/state.h"

namespace gptoss::emulator::driver {
namespace {

constexpr uint32_t kWrapperMagic = 0x466243b1;
constexpr uint32_t kFatbinMagic = 0xba55ed50;
constexpr uint16_t kPtxEntry = 1, kCubinEntry = 2;
constexpr uint64_t kCompressedFlags = 0x2000 | 0x8000;  // LZ4, Zstandard
constexpr uint64_t kOneArchitectureFlag = 0x100000;     // sm_90a, and with the next sm_100f
constexpr uint64_t kFamilyFlag = 0x1000000;
constexpr uint32_t kElfMagic = 0x464c457f;  // "\x7fELF"

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
  uint16_t minor, major;  // PTX: its version; machine code: 1 and the version of its ABI
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

// Whether an entry is for the device: PTX for any card since its own, machine code for the cards of
// its generation since then, both for one card or one family alone where they say so.
bool is_for(const Entry& entry, uint32_t device) {
  const uint32_t architecture = entry.architecture;
  if (entry.flags & kFamilyFlag) {
    return architecture / 10 == device / 10 && architecture <= device;
  }
  if (entry.flags & kOneArchitectureFlag) return architecture == device;
  if (entry.kind == kPtxEntry) return architecture <= device;
  return architecture / 10 == device / 10 && architecture <= device;
}

CubinAbi abi_of_elf(const void* elf) {
  return {read_at<uint8_t>(elf, 7), read_at<uint8_t>(elf, 8)};
}

// Of machine code in a fat binary. Compressed, it shows no ELF header: then the entry says it.
CubinAbi abi_of(const Entry& entry, const void* payload) {
  if (!(entry.flags & kCompressedFlags)) return abi_of_elf(payload);
  return {entry.minor == kAbi7.version ? kAbi7.os_abi : kAbi8.os_abi, entry.minor};
}

}  // namespace

bool Driver::loads_cubin(CubinAbi abi, int capability, std::string& why) const {
  const int oldest = oldest_cuda_of_abi(abi, capability);
  if (oldest != 0 && oldest <= release.cuda) return true;
  char text[160];
  std::snprintf(text, sizeof text, "machine code of ABI 0x%x, %d, which driver %s does not load",
                static_cast<unsigned>(abi.os_abi), abi.version, std::string(release.name).c_str());
  why = text;
  return false;
}

CUresult Driver::ptx_of_image(const void* image, const Device& device, std::string& out,
                              std::string& why) const {
  const uint32_t magic = read_at<uint32_t>(image, 0);
  if (magic == kWrapperMagic) {
    return ptx_of_image(read_at<Wrapper>(image, 0).data, device, out, why);
  }
  const int capability = 10 * device.profile->compute_major + device.profile->compute_minor;
  if (magic == kElfMagic) {
    if (!loads_cubin(abi_of_elf(image), capability, why)) return CUDA_ERROR_INVALID_IMAGE;
    why = "a cubin holds machine code, the emulator runs PTX";
    return CUDA_ERROR_NO_BINARY_FOR_GPU;
  }
  if (magic != kFatbinMagic) {
    out = static_cast<const char*>(image);
    return CUDA_SUCCESS;
  }
  const auto header = read_at<Header>(image, 0);
  uint32_t best_architecture = 0, best_cubin = 0;
  CubinAbi best_abi{};
  why = "no PTX for this device in the fat binary";
  for (uint64_t at = header.header_bytes; at < header.header_bytes + header.body_bytes;) {
    const auto entry = read_at<Entry>(image, at);
    if (!entry.header_bytes) break;
    const uint64_t payload = at + entry.header_bytes;
    at = payload + entry.payload_bytes;
    if (!is_for(entry, static_cast<uint32_t>(capability))) continue;
    // What a driver that is older than families makes of them is not known; here they are nothing
    // to it.
    if ((entry.flags & kFamilyFlag) && release.cuda < kFirstWithFamilies) continue;
    const char* bytes = static_cast<const char*>(image) + payload;
    if (entry.kind == kCubinEntry) {
      if (entry.architecture > best_cubin) {
        best_cubin = entry.architecture;
        best_abi = abi_of(entry, bytes);
      }
      continue;
    }
    if (entry.kind != kPtxEntry) continue;
    if (entry.flags & kCompressedFlags) {
      why = "the PTX in the fat binary is compressed: build with --no-compress";
      continue;
    }
    if (entry.architecture < best_architecture) continue;
    best_architecture = entry.architecture;
    out.assign(bytes, strnlen(bytes, entry.payload_bytes));
  }
  // A driver takes machine code before PTX, and of that what is nearest to the card: neither PTX
  // nor older machine code helps where it cannot load that.
  if (best_cubin && !loads_cubin(best_abi, capability, why)) {
    out.clear();
    return CUDA_ERROR_INVALID_IMAGE;
  }
  return out.empty() ? CUDA_ERROR_NO_BINARY_FOR_GPU : CUDA_SUCCESS;
}

}  // namespace gptoss::emulator::driver
