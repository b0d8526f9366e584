// What bounds this process on Linux beside its affinity: control groups of either version, and
// cores that are several CPUs. Read from /proc and /sys below `root`, which is empty but in tests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gptoss::platform {

// CPUs that quotas grant, of the process's control group and those above it, rounded up;
// `fallback` where there is none.
int cgroup_cpus(const std::string& root, int fallback);

// Bytes that limits leave, of the same groups. What is cached of files counts as left, as the
// system takes it back first. The largest number where there is no limit.
int64_t cgroup_memory(const std::string& root);

// Threads for these CPUs: one for each core. All of them where there are few cores, or where the
// system does not tell.
int threads_for_cpus(const std::string& root, const std::vector<int>& cpus);

}  // namespace gptoss::platform
