#include "core/mapped_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <mutex>
#include <utility>

#include "core/check.h"

namespace gptoss {

// A mapped file as the signal handler sees it. Never freed, as the handler may look at it whenever;
// used again for another file.
struct FaultRegion {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};  // 0: not in use
  std::atomic<int> fd{-1};
  std::atomic<bool> lost{false};  // bytes could not be read, and are zeros now
  FaultRegion* next = nullptr;
};

namespace {

static_assert(std::atomic<uintptr_t>::is_always_lock_free, "for a signal handler");

std::mutex regions_mutex;  // of who adds and removes; the handler only reads
std::atomic<FaultRegion*> regions{nullptr};
struct sigaction handler_before;
std::atomic<bool> passed_on{false};

uintptr_t page_bytes() {
  static const auto size = static_cast<uintptr_t>(sysconf(_SC_PAGE_SIZE));
  return size;
}

uintptr_t page_end(uintptr_t address) {
  return (address + page_bytes() - 1) / page_bytes() * page_bytes();
}

// Puts zeros where a mapped file has lost its bytes. Of system calls only, as in a signal handler.
bool replace_lost_pages(uintptr_t address) {
  for (FaultRegion* region = regions.load(); region != nullptr; region = region->next) {
    const uintptr_t end = region->end.load();
    const uintptr_t begin = region->begin.load();
    if (end != region->end.load() || address < begin || address >= end) continue;
    uintptr_t from = address / page_bytes() * page_bytes();
    uintptr_t to = from + page_bytes();
    struct stat status{};
    if (fstat(region->fd.load(), &status) == 0) {
      const uintptr_t kept = page_end(begin + static_cast<uintptr_t>(status.st_size));
      // All that lies behind the file's new end, at once.
      if (kept <= from) {
        from = kept;
        to = end;
      }
    }
    region->lost.store(true);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
#if defined(MAP_NORESERVE)
    flags |= MAP_NORESERVE;
#endif
    return mmap(reinterpret_cast<void*>(from), to - from, PROT_READ, flags, -1, 0) != MAP_FAILED;
  }
  return false;
}

void on_bus_error(int number, siginfo_t* info, void* context) {
  const int error = errno;
  const bool replaced = replace_lost_pages(reinterpret_cast<uintptr_t>(info->si_addr));
  errno = error;
  if (replaced) return;
  // Not ours. Passed on once: whoever had the signal before may hand it back to us.
  if (!passed_on.exchange(true)) {
    if ((handler_before.sa_flags & SA_SIGINFO) != 0) {
      handler_before.sa_sigaction(number, info, context);
      return;
    }
    if (handler_before.sa_handler != SIG_DFL && handler_before.sa_handler != SIG_IGN) {
      handler_before.sa_handler(number);
      return;
    }
  }
  struct sigaction fatal{};
  fatal.sa_handler = SIG_DFL;
  sigaction(number, &fatal, nullptr);
  raise(number);  // when the handler is left
}

// With regions_mutex held. Again for every file: faulthandler, say, takes the handler away when it
// is switched off.
void install_handler() {
  struct sigaction now{};
  if (sigaction(SIGBUS, nullptr, &now) != 0) return;
  if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == on_bus_error) return;
  page_bytes();  // initialised before a handler needs it
  handler_before = now;
  struct sigaction ours{};
  ours.sa_sigaction = on_bus_error;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&ours.sa_mask);
  sigaction(SIGBUS, &ours, nullptr);
}

FaultRegion* add_region(const void* data, int64_t size_bytes, int fd) {
  const std::lock_guard<std::mutex> lock(regions_mutex);
  install_handler();
  FaultRegion* region = regions.load();
  while (region != nullptr && region->end.load() != 0) region = region->next;
  if (region == nullptr) {
    region = new FaultRegion;
    region->next = regions.load();
    regions.store(region);
  }
  const auto begin = reinterpret_cast<uintptr_t>(data);
  region->lost.store(false);
  region->fd.store(fd);
  region->begin.store(begin);
  region->end.store(page_end(begin + static_cast<uintptr_t>(size_bytes)));
  return region;
}

void remove_region(FaultRegion* region) {
  const std::lock_guard<std::mutex> lock(regions_mutex);
  region->end.store(0);
}

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

MappedFile::MappedFile(const std::string& path)
    : path_(path), fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (fd_ < 0) throw BackendError(concat("cannot open ", path, ": ", std::strerror(errno)));
  struct stat status{};
  void* address = MAP_FAILED;
  if (fstat(fd_, &status) == 0 && status.st_size > 0) {
    size_bytes_ = status.st_size;
    device_ = static_cast<uint64_t>(status.st_dev);
    inode_ = static_cast<uint64_t>(status.st_ino);
    address = map_file(fd_, static_cast<size_t>(size_bytes_));
  }
  if (address == MAP_FAILED) {
    const int error = errno;
    close(fd_);
    throw BackendError(concat("cannot map ", path, " (", size_bytes_, " bytes): ",
                              size_bytes_ == 0 ? "the file is empty" : std::strerror(error)));
  }
  data_ = static_cast<const uint8_t*>(address);
  region_ = add_region(data_, size_bytes_, fd_);
}

MappedFile::~MappedFile() {
  remove_region(region_);
  munmap(const_cast<uint8_t*>(data_), static_cast<size_t>(size_bytes_));
  close(fd_);
}

void MappedFile::check() const {
  struct stat status{};
  // Our descriptor may have been closed by somebody who closes all of them.
  const bool is_known = fstat(fd_, &status) == 0 &&
                        static_cast<uint64_t>(status.st_dev) == device_ &&
                        static_cast<uint64_t>(status.st_ino) == inode_;
  const bool is_shorter = is_known && status.st_size < size_bytes_;
  if (!is_shorter && !region_->lost.load()) return;
  throw BackendError(concat(
      path_,
      is_shorter ? concat(" has become shorter, ", status.st_size, " of ", size_bytes_, " bytes,")
                 : " could not be read",
      " while the model is in use, and its weights are lost: load the model again. Replace "
      "the files of a loaded checkpoint by renaming new ones over them, never in place"));
}

void MappedFiles::check() const {
  for (const auto& file : files_) {
    if (const auto mapped = file.lock()) mapped->check();
  }
}

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
