#include "platform/linux_limits.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>

#include "platform/cores.h"

namespace gptoss::platform {
namespace {

constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

// The number in a one-line file; kNone for "max", for what is as good as none, and without a file.
int64_t read_limit(const std::string& path) {
  constexpr int64_t kUnlimited = int64_t{1} << 60;  // version 1 has no word for it
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value && value >= 0 && value < kUnlimited ? value : kNone;
}

// The sum of some entries of a memory.stat.
int64_t read_stat(const std::string& path, const std::set<std::string>& names) {
  std::ifstream file(path);
  std::string name;
  int64_t value = 0, sum = 0;
  while (file >> name >> value) {
    if (names.contains(name)) sum += value;
  }
  return sum;
}

// Folders of the process's group with a controller and of all groups above it, the innermost first;
// an empty controller is version 2. In a container without a namespace of its own the path is that
// outside, and only the root is there.
std::vector<std::string> group_folders(const std::string& root, const std::string& controller) {
  std::ifstream file(root + "/proc/self/cgroup");
  std::string line, path = "/";
  while (std::getline(file, line)) {
    // "4:cpu,cpuacct:/path", or "0::/path" for version 2
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::istringstream names(line.substr(first + 1, second - first - 1));
    std::string name;
    bool is_it = controller.empty() && second == first + 1;
    while (std::getline(names, name, ',')) is_it |= !controller.empty() && name == controller;
    if (is_it) path = line.substr(second + 1);
  }
  std::string mount = root + "/sys/fs/cgroup";
  if (!controller.empty()) mount += "/" + controller;
  std::vector<std::string> folders;
  while (path.size() > 1) {
    folders.push_back(mount + path);
    path.resize(std::max<size_t>(1, path.rfind('/')));
  }
  folders.push_back(mount);
  return folders;
}

}  // namespace

int cgroup_cpus(const std::string& root, int fallback) {
  double least = std::numeric_limits<double>::infinity();
  for (const std::string& folder : group_folders(root, "")) {
    std::ifstream file(folder + "/cpu.max");
    std::string quota;
    double period = 0;
    if (!(file >> quota >> period) || period <= 0) continue;
    const double granted = std::strtod(quota.c_str(), nullptr);  // 0 for "max"
    if (granted > 0) least = std::min(least, granted / period);
  }
  for (const std::string& folder : group_folders(root, "cpu")) {
    const int64_t quota = read_limit(folder + "/cpu.cfs_quota_us");
    const int64_t period = read_limit(folder + "/cpu.cfs_period_us");
    if (quota == kNone || period == kNone || period == 0) continue;
    least = std::min(least, static_cast<double>(quota) / static_cast<double>(period));
  }
  if (!std::isfinite(least)) return fallback;
  return std::max(1, static_cast<int>(std::ceil(std::min(least, 1e6))));
}

int64_t cgroup_memory(const std::string& root) {
  int64_t left = kNone;
  for (const std::string& folder : group_folders(root, "")) {
    // Above memory.high a group is slowed down until it gives back.
    const int64_t limit =
        std::min(read_limit(folder + "/memory.max"), read_limit(folder + "/memory.high"));
    const int64_t used = read_limit(folder + "/memory.current");
    if (limit == kNone || used == kNone) continue;
    const int64_t cached = read_stat(folder + "/memory.stat", {"active_file", "inactive_file"});
    left = std::min(left, std::clamp<int64_t>(limit - used + cached, 0, limit));
  }
  for (const std::string& folder : group_folders(root, "memory")) {
    const int64_t limit = read_limit(folder + "/memory.limit_in_bytes");
    const int64_t used = read_limit(folder + "/memory.usage_in_bytes");
    if (limit == kNone || used == kNone) continue;
    const int64_t cached =
        read_stat(folder + "/memory.stat", {"total_active_file", "total_inactive_file"});
    left = std::min(left, std::clamp<int64_t>(limit - used + cached, 0, limit));
  }
  return left;
}

int threads_for_cpus(const std::string& root, const std::vector<int>& cpus) {
  std::set<std::string> cores;
  for (const int cpu : cpus) {
    const std::string folder =
        root + "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    // The CPUs of the core; by its old name where there is no new one.
    std::string siblings;
    if (!(std::ifstream(folder + "core_cpus_list") >> siblings) &&
        !(std::ifstream(folder + "thread_siblings_list") >> siblings)) {
      return static_cast<int>(cpus.size());
    }
    cores.insert(siblings);
  }
  return threads_for_cores(static_cast<int>(cores.size()), static_cast<int>(cpus.size()));
}

}  // namespace gptoss::platform
