#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <utility>

#include "core/check.h"

namespace gptoss {
namespace {

constexpr int64_t kHugePageBytes = int64_t{2} << 20;

// The number in a one-line file, or `fallback` ("max", or no such file).
int64_t read_number(const char* path, int64_t fallback) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : fallback;
}

// Maps a file where huge pages can begin: Linux then maps what its cache holds in large pieces with
// huge pages, which are read faster. MAP_FAILED and errno on failure.
void* map_file(int fd, size_t size) {
  const size_t room = size + static_cast<size_t>(kHugePageBytes);
  void* const reserved = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (reserved == MAP_FAILED) return MAP_FAILED;
  auto* const begin = static_cast<uint8_t*>(reserved);
  const size_t misfit = reinterpret_cast<uintptr_t>(begin) % kHugePageBytes;
  uint8_t* const aligned = misfit == 0 ? begin : begin + kHugePageBytes - misfit;
  void* const mapped = mmap(aligned, size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
  const int error = errno;
  if (mapped == MAP_FAILED) {
    munmap(reserved, room);
    errno = error;
    return MAP_FAILED;
  }
  const auto page = static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
  uint8_t* const end = aligned + (size + page - 1) / page * page;
#if defined(MADV_HUGEPAGE)
  // Where the file system allows it, what is not yet in the cache is then read in huge pages.
  madvise(aligned, size, MADV_HUGEPAGE);
#endif
  if (aligned > begin) munmap(begin, static_cast<size_t>(aligned - begin));
  if (begin + room > end) munmap(end, static_cast<size_t>(begin + room - end));
  return mapped;
}

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw BackendError(concat("cannot open ", path, ": ", std::strerror(errno)));
  struct stat status{};
  void* address = MAP_FAILED;
  if (fstat(fd, &status) == 0 && status.st_size > 0) {
    size_bytes_ = status.st_size;
    address = map_file(fd, static_cast<size_t>(size_bytes_));
  }
  const int error = errno;
  close(fd);
  if (address == MAP_FAILED) {
    throw BackendError(concat("cannot map ", path, " (", size_bytes_, " bytes): ",
                              size_bytes_ == 0 ? "the file is empty" : std::strerror(error)));
  }
  data_ = static_cast<const uint8_t*>(address);
}

MappedFile::~MappedFile() { munmap(const_cast<uint8_t*>(data_), static_cast<size_t>(size_bytes_)); }

void release_file_pages(const uint8_t* data, int64_t size_bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGE_SIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t end =
      (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(size_bytes)) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

LazyMemory::LazyMemory(int64_t size_bytes) : size_bytes_(size_bytes) {
  if (size_bytes == 0) return;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#if defined(MAP_NORESERVE)
  flags |= MAP_NORESERVE;
#endif
  void* address =
      mmap(nullptr, static_cast<size_t>(size_bytes), PROT_READ | PROT_WRITE, flags, -1, 0);
  if (address == MAP_FAILED) {
    throw OutOfMemory(concat("cannot reserve ", size_bytes, " bytes: ", std::strerror(errno)));
  }
#if defined(MADV_HUGEPAGE)
  // Not asked for below the size of a huge page: the system would round up what is touched.
  if (size_bytes >= 4 * kHugePageBytes) {
    madvise(address, static_cast<size_t>(size_bytes), MADV_HUGEPAGE);
  }
#endif
  data_ = static_cast<uint8_t*>(address);
}

LazyMemory::~LazyMemory() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(size_bytes_));
}

LazyMemory::LazyMemory(LazyMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

LazyMemory& LazyMemory::operator=(LazyMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

int64_t available_memory_bytes() {
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
    available = sysconf(_SC_PHYS_PAGES) / 2 * sysconf(_SC_PAGE_SIZE);
  }
  const int64_t limit = read_number("/sys/fs/cgroup/memory.max", -1);
  if (limit > 0) {
    const int64_t used = read_number("/sys/fs/cgroup/memory.current", 0);
    available = std::min(available, std::max<int64_t>(0, limit - used));
  }
  return available;
}

}  // namespace gptoss
