#include "emulator/ptx/profile.h"

#include <algorithm>
#include <cctype>

namespace gptoss::emulator {
namespace {

constexpr uint64_t kGiB = 1ull << 30;
constexpr uint32_t kKiB = 1024;

// Compute capabilities fix the limits per block and multiprocessor (CUDA programming guide,
// "Technical specifications per compute capability"); counts and sizes are of the boards.
constexpr DeviceProfile kProfiles[] = {
    {"A100", 8, 0, 108, 48 * kKiB, 163 * kKiB, 164 * kKiB, 1024, 2048, 32, 65536, 80 * kGiB,
     40u << 20},
    {"T4", 7, 5, 40, 48 * kKiB, 64 * kKiB, 64 * kKiB, 0, 1024, 16, 65536, 16 * kGiB, 4u << 20},
    {"RTX 3060", 8, 6, 28, 48 * kKiB, 99 * kKiB, 100 * kKiB, 1024, 1536, 16, 65536, 12 * kGiB,
     3u << 20},
    {"RTX 3090", 8, 6, 82, 48 * kKiB, 99 * kKiB, 100 * kKiB, 1024, 1536, 16, 65536, 24 * kGiB,
     6u << 20},
    {"Orin", 8, 7, 16, 48 * kKiB, 163 * kKiB, 164 * kKiB, 1024, 1536, 16, 65536, 32 * kGiB,
     4u << 20},
    {"RTX 4090", 8, 9, 128, 48 * kKiB, 99 * kKiB, 100 * kKiB, 1024, 1536, 24, 65536, 24 * kGiB,
     72u << 20},
    {"H100", 9, 0, 132, 48 * kKiB, 227 * kKiB, 228 * kKiB, 1024, 2048, 32, 65536, 80 * kGiB,
     50u << 20},
    {"H200", 9, 0, 132, 48 * kKiB, 227 * kKiB, 228 * kKiB, 1024, 2048, 32, 65536, 141 * kGiB,
     50u << 20},
    {"B200", 10, 0, 148, 48 * kKiB, 227 * kKiB, 228 * kKiB, 1024, 2048, 32, 65536, 180 * kGiB,
     126u << 20},
    {"RTX 5090", 12, 0, 170, 48 * kKiB, 99 * kKiB, 100 * kKiB, 1024, 1536, 24, 65536, 32 * kGiB,
     96u << 20},
    {"GB10", 12, 1, 48, 48 * kKiB, 99 * kKiB, 100 * kKiB, 1024, 1536, 24, 65536, 128 * kGiB,
     24u << 20},
};

bool same_name(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](unsigned char x, unsigned char y) {
    return std::tolower(x) == std::tolower(y);
  });
}

}  // namespace

std::span<const DeviceProfile> device_profiles() { return kProfiles; }

const DeviceProfile* find_profile(std::string_view name) {
  for (const DeviceProfile& profile : kProfiles)
    if (same_name(profile.name, name)) return &profile;
  return nullptr;
}

}  // namespace gptoss::emulator
