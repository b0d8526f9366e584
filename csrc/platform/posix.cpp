// What POSIX systems have in common: processes, memory, and mapped files that lose their bytes.
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <mutex>
#include <system_error>

#include "platform/platform.h"

namespace gptoss::platform {
namespace {

[[noreturn]] void fail(int error) { throw std::system_error(error, std::generic_category()); }

// A mapped file as the signal handler sees it. Never freed, as the handler may look at it whenever;
// used again for another file.
struct FaultRegion {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};  // 0: not in use
  std::atomic<int> fd{-1};
  std::atomic<bool> lost{false};  // bytes could not be read, and are zeros now
  FaultRegion* next = nullptr;
};

static_assert(std::atomic<uintptr_t>::is_always_lock_free, "for a signal handler");

std::mutex regions_mutex;  // of who adds and removes; the handler only reads
std::atomic<FaultRegion*> regions{nullptr};
struct sigaction handler_before;
std::atomic<bool> passed_on{false};

uintptr_t page_end(uintptr_t address) {
  const auto page = static_cast<uintptr_t>(page_bytes());
  return (address + page - 1) / page * page;
}

int lazily() {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#if defined(MAP_NORESERVE)
  flags |= MAP_NORESERVE;
#endif
  return flags;
}

// Puts zeros where a mapped file has lost its bytes. Of system calls only, as in a signal handler.
bool replace_lost_pages(uintptr_t address) {
  const auto page = static_cast<uintptr_t>(page_bytes());
  for (FaultRegion* region = regions.load(); region != nullptr; region = region->next) {
    const uintptr_t end = region->end.load();
    const uintptr_t begin = region->begin.load();
    if (end != region->end.load() || address < begin || address >= end) continue;
    uintptr_t from = address / page * page;
    uintptr_t to = from + page;
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
    return mmap(reinterpret_cast<void*>(from), to - from, PROT_READ, lazily() | MAP_FIXED, -1, 0) !=
           MAP_FAILED;
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

// Maps a file where huge pages can begin: Linux then maps what its cache holds in large pieces with
// huge pages, which are read faster. MAP_FAILED and errno on failure.
void* map_aligned(int fd, size_t size) {
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
  const auto page = static_cast<size_t>(page_bytes());
  uint8_t* const end = aligned + (size + page - 1) / page * page;
#if defined(MADV_HUGEPAGE)
  // Where the file system allows it, what is not yet in the cache is then read in huge pages.
  madvise(aligned, size, MADV_HUGEPAGE);
#endif
  if (aligned > begin) munmap(begin, static_cast<size_t>(aligned - begin));
  if (begin + room > end) munmap(end, static_cast<size_t>(begin + room - end));
  return mapped;
}

class PosixFileMapping final : public FileMapping {
 public:
  explicit PosixFileMapping(const std::string& path)
      : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) fail(errno);
    struct stat status{};
    if (fstat(fd_, &status) != 0) close_and_fail(errno);
    device_ = static_cast<uint64_t>(status.st_dev);
    inode_ = static_cast<uint64_t>(status.st_ino);
    size_bytes_ = status.st_size;
    if (size_bytes_ == 0) return;
    void* const address = map_aligned(fd_, static_cast<size_t>(size_bytes_));
    if (address == MAP_FAILED) close_and_fail(errno);
    data_ = static_cast<const uint8_t*>(address);
    region_ = add_region(data_, size_bytes_, fd_);
  }

  ~PosixFileMapping() override {
    if (region_ != nullptr) {
      remove_region(region_);
      munmap(const_cast<uint8_t*>(data_), static_cast<size_t>(size_bytes_));
    }
    close(fd_);
  }

  State state(int64_t& size_now) const override {
    struct stat status{};
    size_now = size_bytes_;
    // Our descriptor may have been closed by somebody who closes all of them.
    const bool is_known = fstat(fd_, &status) == 0 &&
                          static_cast<uint64_t>(status.st_dev) == device_ &&
                          static_cast<uint64_t>(status.st_ino) == inode_;
    if (is_known) size_now = status.st_size;
    if (size_now < size_bytes_) return State::shorter;
    return region_ != nullptr && region_->lost.load() ? State::unreadable : State::whole;
  }

 private:
  [[noreturn]] void close_and_fail(int error) {
    close(fd_);
    fail(error);
  }

  const int fd_;
  uint64_t device_ = 0, inode_ = 0;
  FaultRegion* region_ = nullptr;
};

}  // namespace

int64_t process_id() { return getpid(); }

void at_fork(void (*before)(), void (*in_parent)(), void (*in_child)()) {
  pthread_atfork(before, in_parent, in_child);
}

int64_t page_bytes() {
  static const int64_t size = sysconf(_SC_PAGE_SIZE);
  return size;
}

uint8_t* reserve(int64_t size_bytes) {
  void* const address =
      mmap(nullptr, static_cast<size_t>(size_bytes), PROT_READ | PROT_WRITE, lazily(), -1, 0);
  if (address == MAP_FAILED) fail(errno);
#if defined(MADV_HUGEPAGE)
  // Not asked for below the size of a huge page: the system would round up what is touched.
  if (size_bytes >= 4 * kHugePageBytes) {
    madvise(address, static_cast<size_t>(size_bytes), MADV_HUGEPAGE);
  }
#endif
  return static_cast<uint8_t*>(address);
}

// These systems give what is mapped a place in memory when it is touched.
void commit(uint8_t*, int64_t) {}

void release(uint8_t* data, int64_t size_bytes) { munmap(data, static_cast<size_t>(size_bytes)); }

std::unique_ptr<FileMapping> map_file(const std::string& path) {
  return std::make_unique<PosixFileMapping>(path);
}

void drop_file_pages(const uint8_t* data, int64_t size_bytes) {
  const auto page = static_cast<uintptr_t>(page_bytes());
  const uintptr_t begin = page_end(reinterpret_cast<uintptr_t>(data));
  const uintptr_t end =
      (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(size_bytes)) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace gptoss::platform
