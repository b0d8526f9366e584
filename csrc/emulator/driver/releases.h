// The drivers that the stand-in can be, and what each loads.
#pragma once

#include <string_view>

namespace gptoss::emulator::driver {

// A branch of drivers by the number in its name; the CUDA that it is made for, as
// cuDriverGetVersion has it; the newest PTX that it compiles, 10 * major + minor ("PTX Release
// History" in NVIDIA's description of PTX).
struct Release {
  std::string_view name;
  int cuda;
  int ptx;
};

inline constexpr Release kReleases[] = {
    {"525", 12000, 80}, {"530", 12010, 81}, {"535", 12020, 82}, {"545", 12030, 83},
    {"550", 12040, 84}, {"555", 12050, 85}, {"560", 12060, 85}, {"565", 12070, 86},
    {"570", 12080, 87}, {"575", 12090, 88}, {"580", 13000, 90},
};
inline constexpr Release kNewestRelease = kReleases[sizeof kReleases / sizeof *kReleases - 1];

// The CUDA whose drivers are the first for a compute capability, 10 * major + minor, and the first
// whose toolkit can make machine code for it that its whole family runs.
constexpr int oldest_cuda_of(int capability) {
  if (capability == 110) return 13000;
  if (capability == 103 || capability == 121) return 12090;
  return capability >= 100 ? 12080 : 12000;
}
inline constexpr int kFirstWithFamilies = 12090;

// The ABI of machine code as its ELF header names it (EI_OSABI, EI_ABIVERSION): 0x33 and 7 is what
// ptxas of CUDA 12 writes for cards before 10.0; 0x41 and 8 is what it writes for those since then,
// and ptxas of CUDA 13 for all.
struct CubinAbi {
  int os_abi, version;
  bool operator==(const CubinAbi&) const = default;
};
inline constexpr CubinAbi kAbi7{0x33, 7}, kAbi8{0x41, 8};

// The CUDA whose drivers are the first to load it; 0 where no driver does.
constexpr int oldest_cuda_of_abi(CubinAbi abi, int capability) {
  if (abi == kAbi7) return 12000;
  if (abi == kAbi8) return capability >= 100 ? 12080 : 13000;
  return 0;
}

}  // namespace gptoss::emulator::driver
