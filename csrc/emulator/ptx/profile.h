// Limits of real cards, so that a launch fails here where it would fail there.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace gptoss::emulator {

struct DeviceProfile {
  std::string_view name;
  int compute_major, compute_minor;
  uint32_t multiprocessors;
  uint32_t shared_per_block_bytes;  // without opting in
  uint32_t shared_per_block_optin_bytes;
  uint32_t shared_per_multiprocessor_bytes;
  uint32_t shared_reserved_bytes;  // per block, by the driver
  uint32_t threads_per_multiprocessor;
  uint32_t blocks_per_multiprocessor;
  uint32_t registers_per_multiprocessor;
  uint64_t memory_bytes;
  uint32_t l2_bytes;

  static constexpr uint32_t threads_per_block = 1024;
  static constexpr uint32_t registers_per_block = 65536;
  static constexpr uint32_t registers_per_thread = 255;
};

std::span<const DeviceProfile> device_profiles();
// Null for an unknown name; names are matched without regard to case.
const DeviceProfile* find_profile(std::string_view name);

}  // namespace gptoss::emulator
