#include <mach/mach.h>
#include <sys/sysctl.h>
#include <sys/types.h>

#include <algorithm>
#include <thread>

#include "platform/platform.h"

// The calls under Apple's own std::atomic::wait; a public name for them exists from macOS 14.4 on.
extern "C" int __ulock_wait(uint32_t operation, void* address, uint64_t value, uint32_t timeout);
extern "C" int __ulock_wake(uint32_t operation, void* address, uint64_t value);

namespace gptoss::platform {
namespace {

constexpr uint32_t kCompareAndWait = 1;    // UL_COMPARE_AND_WAIT: 32 bits
constexpr uint32_t kWakeAll = 0x00000100;  // ULF_WAKE_ALL
constexpr uint32_t kNoErrno = 0x01000000;  // ULF_NO_ERRNO

void* address_of(const std::atomic<uint32_t>& word) {
  return const_cast<std::atomic<uint32_t>*>(&word);
}

// A number of the system by name; 0 where there is none of the name.
int64_t system_number(const char* name) {
  int64_t value = 0;  // of 4 or 8 bytes; all Macs are little-endian
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 ? value : 0;
}

}  // namespace

void wait(const std::atomic<uint32_t>& word, uint32_t old) {
  __ulock_wait(kCompareAndWait | kNoErrno, address_of(word), old, 0);
}

void wake_all(const std::atomic<uint32_t>& word) {
  __ulock_wake(kCompareAndWait | kWakeAll | kNoErrno, address_of(word), 0);
}

int usable_cpus() {
  // The performance cores, where there are two kinds.
  int64_t count = system_number("hw.perflevel0.physicalcpu");
  if (count <= 0) count = system_number("hw.physicalcpu");
  if (count <= 0) count = std::thread::hardware_concurrency();
  return static_cast<int>(std::max<int64_t>(1, count));
}

bool has_arm_dot_products() { return system_number("hw.optional.arm.FEAT_DotProd") != 0; }

bool has_arm_matrix_products() { return system_number("hw.optional.arm.FEAT_I8MM") != 0; }

bool request_amx_tiles() { return false; }

int64_t available_memory() {
  const mach_port_t host = mach_host_self();
  vm_statistics64_data_t pages{};
  mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
  const kern_return_t result =
      host_statistics64(host, HOST_VM_INFO64, reinterpret_cast<host_info64_t>(&pages), &count);
  mach_port_deallocate(mach_task_self(), host);
  if (result != KERN_SUCCESS) return system_number("hw.memsize") / 2;
  // Free, or the file cache's, which gives way.
  return (int64_t{pages.free_count} + pages.external_page_count + pages.purgeable_count) *
         page_bytes();
}

}  // namespace gptoss::platform
