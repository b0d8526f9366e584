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
#include <vector>

#include "platform/linux_limits.h"
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

}  // namespace

void wait(const std::atomic<uint32_t>& word, uint32_t old) { futex(word, FUTEX_WAIT, old); }

void wake_all(const std::atomic<uint32_t>& word) { futex(word, FUTEX_WAKE, INT_MAX); }

int usable_cpus() {
  std::vector<int> cpus;
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &mask)) cpus.push_back(cpu);
    }
  }
  // More CPUs than the mask has room for, or none told.
  const int count = cpus.empty() ? static_cast<int>(std::thread::hardware_concurrency())
                                 : threads_for_cpus("", cpus);
  return std::max(1, std::min(count, cgroup_cpus("", count)));
}

bool has_arm_dot_products() {
#if defined(__aarch64__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return false;
#endif
}

bool has_arm_matrix_products() {
#if defined(__aarch64__)
  constexpr unsigned long kI8mm = 1ul << 13;  // HWCAP2_I8MM; headers before Linux 5.10 lack it
  return (getauxval(AT_HWCAP2) & kI8mm) != 0;
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
  return std::min(available, cgroup_memory(""));
}

}  // namespace gptoss::platform
