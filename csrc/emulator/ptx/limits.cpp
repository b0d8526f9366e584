#include "emulator/ptx/limits.h"

#include <algorithm>

namespace gptoss::emulator {
namespace {

constexpr uint32_t kDefaultMultiprocessors = 4;

}  // namespace

const DeviceProfile& profile_of(const LaunchOptions& options) {
  static const DeviceProfile& kDefault = *find_profile("A100");
  return options.profile ? *options.profile : kDefault;
}

uint32_t simulated_multiprocessors(const LaunchOptions& options) {
  return options.multiprocessors ? options.multiprocessors : kDefaultMultiprocessors;
}

LaunchLimits check_limits(const Kernel& kernel, const LaunchOptions& options) {
  const DeviceProfile& profile = profile_of(options);
  LaunchLimits out;
  const auto refuse = [&](Fault fault, const std::string& message) {
    out.fault = fault;
    out.message = message + " (" + std::string(profile.name) + ")";
    return out;
  };
  const Dim3& grid = options.grid;
  const Dim3& block = options.block;
  if (!grid.count() || !block.count())
    return refuse(Fault::kInvalidLaunch, "a grid or block dimension is 0");
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return refuse(Fault::kInvalidLaunch, "the grid is too large");
  const uint64_t threads = block.count();
  if (block.x > 1024 || block.y > 1024 || block.z > 64 ||
      threads > DeviceProfile::threads_per_block)
    return refuse(Fault::kInvalidLaunch,
                  "a block of " + std::to_string(threads) + " threads, the card takes 1024");
  const Dim3& required = kernel.required_threads;
  if (required.x && (block.x != required.x || block.y != required.y || block.z != required.z))
    return refuse(Fault::kInvalidLaunch, "the kernel demands another block size (.reqntid)");
  if (kernel.max_threads && threads > kernel.max_threads)
    return refuse(Fault::kInvalidLaunch, "the kernel is made for at most " +
                                             std::to_string(kernel.max_threads) +
                                             " threads per block (.maxntid)");
  const uint64_t shared = uint64_t{kernel.static_shared_bytes} + options.dynamic_shared_bytes;
  if (shared > profile.shared_per_block_optin_bytes)
    return refuse(Fault::kInvalidLaunch, std::to_string(shared) +
                                             " bytes of shared memory per block, the card has " +
                                             std::to_string(profile.shared_per_block_optin_bytes));
  if (kernel.static_shared_bytes > profile.shared_per_block_bytes)
    return refuse(Fault::kInvalidLaunch, "more than 48 KB of static shared memory");
  if (shared > profile.shared_per_block_bytes && !options.opted_in_shared)
    return refuse(Fault::kInvalidLaunch,
                  std::to_string(shared) +
                      " bytes of shared memory need MAX_DYNAMIC_SHARED_SIZE_BYTES to be raised");
  const auto warps = static_cast<uint32_t>((threads + kLanes - 1) / kLanes);
  const uint64_t registers = uint64_t{kernel.max_registers} * warps * kLanes;
  if (registers > DeviceProfile::registers_per_block)
    return refuse(Fault::kOutOfResources, "more registers than a block can have (.maxnreg)");

  uint64_t per_sm = std::min<uint64_t>(profile.blocks_per_multiprocessor,
                                       profile.threads_per_multiprocessor / (warps * kLanes));
  per_sm = std::min(per_sm, uint64_t{profile.shared_per_multiprocessor_bytes} /
                                std::max<uint64_t>(1, shared + profile.shared_reserved_bytes));
  if (registers) per_sm = std::min(per_sm, profile.registers_per_multiprocessor / registers);
  if (!per_sm) return refuse(Fault::kOutOfResources, "no block fits a multiprocessor");
  out.warps_per_block = warps;
  out.blocks_per_multiprocessor = per_sm;
  out.blocks_at_once = per_sm * simulated_multiprocessors(options);
  if (options.cooperative && grid.count() > out.blocks_at_once)
    return refuse(Fault::kCooperativeTooLarge,
                  "a cooperative launch of " + std::to_string(grid.count()) + " blocks, " +
                      std::to_string(out.blocks_at_once) + " fit at once");
  return out;
}

}  // namespace gptoss::emulator
