#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace gptoss {

// A whole file, mapped read-only. The pages belong to the system's cache: they are read when first
// touched, shared between processes, and given back under memory pressure.
class MappedFile {
 public:
  // Throws BackendError with the system's message.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return data_; }
  int64_t size_bytes() const { return size_bytes_; }

 private:
  const uint8_t* data_ = nullptr;
  int64_t size_bytes_ = 0;
};

// Drops a mapped file's pages that are whole within these bytes; they are read again, most
// often from the system's cache, when they are next touched.
void release_file_pages(const uint8_t* data, int64_t size_bytes);

// Anonymous memory that the system commits page by page as it is touched; zero at first.
class LazyMemory {
 public:
  LazyMemory() = default;
  // Throws OutOfMemory where the address space cannot be had.
  explicit LazyMemory(int64_t size_bytes);
  ~LazyMemory();
  LazyMemory(LazyMemory&& other) noexcept;
  LazyMemory& operator=(LazyMemory&& other) noexcept;

  uint8_t* data() const { return data_; }
  int64_t size_bytes() const { return size_bytes_; }

 private:
  uint8_t* data_ = nullptr;
  int64_t size_bytes_ = 0;
};

// Bytes that this process can still take without swapping: the system's available memory, or what
// is left of the cgroup's limit where that is less.
int64_t available_memory_bytes();

}  // namespace gptoss
