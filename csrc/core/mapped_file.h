#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "platform/platform.h"

namespace gptoss {

// A whole file, mapped read-only. The pages belong to the system's cache: they are read when first
// touched, shared between processes, and given back under memory pressure.
//
// Bytes that the file loses while it is mapped, because somebody writes it anew in place or a disk
// fails, read as zeros on POSIX systems: a handler of SIGBUS, which would else end the process,
// puts zeros in their place, and check() then throws. So what was computed from a file that has
// passed check() afterwards came from bytes that were there. A file that is replaced by renaming
// another one over it stays as it was. Windows refuses to cut or replace a mapped file.
class MappedFile {
 public:
  // Throws BackendError with the system's message.
  explicit MappedFile(const std::string& path);

  const uint8_t* data() const { return mapping_->data(); }
  int64_t size_bytes() const { return mapping_->size_bytes(); }

  // Throws BackendError if the file has become shorter or bytes of it could not be read.
  void check() const;

 private:
  const std::string path_;
  std::unique_ptr<const platform::FileMapping> mapping_;
};

// The files that a model's weights are mapped from. Looks after those that are still mapped, and
// keeps none of them beyond a call.
class MappedFiles {
 public:
  void add(std::weak_ptr<const MappedFile> file) { files_.push_back(std::move(file)); }
  // Throws as MappedFile::check() does. A system call for each file.
  void check() const;
  // Returns f(), which reads the weights; throws as check() does if bytes are missing before it, or
  // are after it, whatever f() made of the zeros in their place. Files stay mapped until then, also
  // where f() lets go of them.
  template <class F>
  auto guard(F&& f) const {
    const std::vector<std::shared_ptr<const MappedFile>> held = lock();
    check();
    try {
      auto result = f();
      check();
      return result;
    } catch (...) {
      check();
      throw;
    }
  }

 private:
  std::vector<std::shared_ptr<const MappedFile>> lock() const;

  std::vector<std::weak_ptr<const MappedFile>> files_;
};

// Anonymous memory that takes room as it is used; zero at first.
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
  // Before bytes are first touched; again costs little. Throws OutOfMemory.
  void commit(int64_t begin, int64_t size_bytes) const;

 private:
  uint8_t* data_ = nullptr;
  int64_t size_bytes_ = 0;
};

}  // namespace gptoss
