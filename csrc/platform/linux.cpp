#include <linux/futex.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <fstream>
#include <limits>
#include <string>
#include <thread>

#include "platform/platform.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#endif

namespace gptoss::platform {
namespace {

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t), "a futex is the word itself");

long futex(const std::atomic<uint32_t>& word, int operation, uint32_t value) {
  return syscall(SYS_futex, &word, operation | FUTEX_PRIVATE_FLAG, value, nullptr, nullptr, 0);
}

// The number in a one-line file, or `fallback` ("max", or no such file).
int64_t read_number(const char* path, int64_t fallback) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : fallback;
}

// CPUs granted by a cgroup quota, rounded up, or `fallback` where there is none.
int cgroup_cpus(int fallback) {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (v2 >> quota >> period && quota != "max" && period > 0) {
    return std::max(1, static_cast<int>(std::stod(quota) / period + 0.999));
  }
  std::ifstream v1_quota("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream v1_period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double quota_us = 0;
  if (v1_quota >> quota_us && v1_period >> period && quota_us > 0 && period > 0) {
    return std::max(1, static_cast<int>(quota_us / period + 0.999));
  }
  return fallback;
}

}  // namespace

void wait(const std::atomic<uint32_t>& word, uint32_t old) { futex(word, FUTEX_WAIT, old); }

void wake_all(const std::atomic<uint32_t>& word) { futex(word, FUTEX_WAKE, INT_MAX); }

int usable_cpus() {
  int count = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) count = CPU_COUNT(&mask);
  count = std::max(1, count);
  return std::min(count, cgroup_cpus(count));
}

bool has_arm_dot_products() {
#if defined(__aarch64__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return false;
#endif
}

bool request_amx_tiles() {
#if defined(__x86_64__)
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

int64_t available_memory() {
  int64_t available = std::numeric_limits<int64_t>::max();
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  int64_t kib = 0;
  std::string unit;
  while (meminfo >> key >> kib && std::getline(meminfo, unit)) {
    if (key == "MemAvailable:") available = kib * 1024;
  }
  if (available == std::numeric_limits<int64_t>::max()) {
    // No /proc: half of the physical memory is a guess that leaves room for others.
    available = sysconf(_SC_PHYS_PAGES) / 2 * page_bytes();
  }
  const int64_t limit = read_number("/sys/fs/cgroup/memory.max", -1);
  if (limit > 0) {
    const int64_t used = read_number("/sys/fs/cgroup/memory.current", 0);
    available = std::min(available, std::max<int64_t>(0, limit - used));
  }
  return available;
}

}  // namespace gptoss::platform
