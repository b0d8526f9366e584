#include "emulator/ptx/limits.h"

#include <algorithm>

namespace gptoss::emulator {
namespace {

constexpr uint32_t kDefaultMultiprocessors = 4;
constexpr uint32_t kPortableCluster = 8;

}  // namespace

const DeviceProfile& profile_of(const LaunchOptions& options) {
  static const DeviceProfile& kDefault = *find_profile("A100");
  return options.profile ? *options.profile : kDefault;
}

uint32_t simulated_multiprocessors(const LaunchOptions& options) {
  return options.multiprocessors ? options.multiprocessors : kDefaultMultiprocessors;
}

uint32_t largest_cluster(const DeviceProfile& profile, bool opted_in) {
  if (profile.compute_major < 9) return 0;
  // Cards of compute capability 12 have no larger ones.
  return opted_in && profile.compute_major < 12 ? 2 * kPortableCluster : kPortableCluster;
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
  const auto is_set = [](const Dim3& d) { return d.x != 0; };
  const Dim3& wanted = options.cluster;
  const Dim3& demanded = kernel.required_cluster;
  const auto name = [](const Dim3& d) {
    return std::to_string(d.x) + "x" + std::to_string(d.y) + "x" + std::to_string(d.z);
  };
  if (is_set(wanted) && !wanted.count())
    return refuse(Fault::kInvalidCluster, "a cluster dimension is 0");
  if (is_set(wanted) && is_set(demanded) &&
      (wanted.x != demanded.x || wanted.y != demanded.y || wanted.z != demanded.z))
    return refuse(Fault::kInvalidCluster, "clusters of " + name(wanted) + ", the kernel demands " +
                                              name(demanded) + " (.reqnctapercluster)");
  if (is_set(wanted) || is_set(demanded)) out.cluster = is_set(wanted) ? wanted : demanded;
  const uint64_t size = out.cluster.count();
  if (size > 1) {
    const uint32_t most = largest_cluster(profile, options.large_clusters);
    if (size > most)
      return refuse(Fault::kInvalidCluster, most ? "a cluster of " + std::to_string(size) +
                                                       " blocks, " + std::to_string(most) +
                                                       " are possible here"
                                                 : "clusters need compute capability 9.0");
    if (kernel.max_cluster && size > kernel.max_cluster)
      return refuse(Fault::kInvalidCluster, "the kernel is made for clusters of at most " +
                                                std::to_string(kernel.max_cluster) +
                                                " blocks (.maxclusterrank)");
    if (grid.x % out.cluster.x || grid.y % out.cluster.y || grid.z % out.cluster.z)
      return refuse(
          Fault::kInvalidCluster,
          "a grid of " + name(grid) + " is no multiple of a cluster of " + name(out.cluster));
  }
  out.clusters_at_once = out.blocks_at_once / size;
  if (!out.clusters_at_once)
    return refuse(Fault::kInvalidCluster, "a cluster of " + std::to_string(size) + " blocks, " +
                                              std::to_string(out.blocks_at_once) +
                                              " blocks fit at once");
  if (options.cooperative && grid.count() > out.clusters_at_once * size)
    return refuse(Fault::kCooperativeTooLarge,
                  "a cooperative launch of " + std::to_string(grid.count()) + " blocks, " +
                      std::to_string(out.clusters_at_once * size) + " fit at once");
  return out;
}

}  // namespace gptoss::emulator
