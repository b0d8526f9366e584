#include "core/mapped_file.h"

#include <system_error>
#include <utility>

#include "core/check.h"

namespace gptoss {

MappedFile::MappedFile(const std::string& path) : path_(path) {
  try {
    mapping_ = platform::map_file(path);
  } catch (const std::system_error& error) {
    throw BackendError(concat("cannot map ", path, ": ", error.code().message()));
  }
  if (mapping_->size_bytes() == 0) {
    throw BackendError(concat("cannot map ", path, " (0 bytes): the file is empty"));
  }
}

void MappedFile::check() const {
  using State = platform::FileMapping::State;
  int64_t size_now = 0;
  const State state = mapping_->state(size_now);
  if (state == State::whole) return;
  throw BackendError(
      concat(path_,
             state == State::shorter
                 ? concat(" has become shorter, ", size_now, " of ", size_bytes(), " bytes,")
                 : " could not be read",
             " while the model is in use, and its weights are lost: load the model again. Replace "
             "the files of a loaded checkpoint by renaming new ones over them, never in place"));
}

void MappedFiles::check() const {
  for (const auto& file : lock()) file->check();
}

std::vector<std::shared_ptr<const MappedFile>> MappedFiles::lock() const {
  std::vector<std::shared_ptr<const MappedFile>> mapped;
  for (const auto& file : files_) {
    if (auto held = file.lock()) mapped.push_back(std::move(held));
  }
  return mapped;
}

LazyMemory::LazyMemory(int64_t size_bytes) {
  if (size_bytes == 0) return;
  try {
    data_ = platform::reserve(size_bytes);
  } catch (const std::system_error& error) {
    throw OutOfMemory(concat("cannot reserve ", size_bytes, " bytes: ", error.code().message()));
  }
  size_bytes_ = size_bytes;
}

LazyMemory::~LazyMemory() {
  if (data_ != nullptr) platform::release(data_, size_bytes_);
}

LazyMemory::LazyMemory(LazyMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

LazyMemory& LazyMemory::operator=(LazyMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

void LazyMemory::commit(int64_t begin, int64_t size_bytes) const {
  try {
    platform::commit(data_ + begin, size_bytes);
  } catch (const std::system_error& error) {
    throw OutOfMemory(concat("cannot take ", size_bytes, " bytes: ", error.code().message()));
  }
}

}  // namespace gptoss
