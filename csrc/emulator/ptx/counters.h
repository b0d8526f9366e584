// Exact counts of one launch.
#pragma once

#include <array>
#include <cstdint>

#include "emulator/ptx/program.h"

namespace gptoss::emulator {

struct Counters {
  uint64_t warp_instructions = 0;
  uint64_t thread_instructions = 0;
  std::array<uint64_t, static_cast<size_t>(Pipe::kCount)> thread_instructions_by_pipe{};
  std::array<uint64_t, static_cast<size_t>(Pipe::kCount)> warp_instructions_by_pipe{};
  uint64_t global_load_bytes = 0, global_store_bytes = 0;
  // 32-byte pieces that the warps' global accesses touch.
  uint64_t global_load_sectors = 0, global_store_sectors = 0;
  uint64_t shared_load_bytes = 0, shared_store_bytes = 0;
  // Passes through the 32 banks; those beyond the least possible are conflicts.
  uint64_t shared_wavefronts = 0, shared_bank_conflicts = 0;
  uint64_t barriers = 0;  // warps that arrived at one
  uint64_t tensor_multiply_adds = 0;
  uint64_t async_copy_bytes = 0;
  uint64_t ctas = 0;
};

}  // namespace gptoss::emulator
