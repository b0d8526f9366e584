// What is asked of the operating system; one file per system answers.
//
// Nothing outside this folder includes a header of a system or asks which one it is. Errors are
// std::system_error with the system's own message.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

namespace gptoss::platform {

// -- Waiting --------------------------------------------------------------------------------------

// Sleeps while the word holds `old`; may return earlier.
void wait(const std::atomic<uint32_t>& word, uint32_t old);
void wake_all(const std::atomic<uint32_t>& word);

// -- Processes and processors ---------------------------------------------------------------------

int64_t process_id();
// Called around every fork of the process; never where a system has no fork.
void at_fork(void (*before)(), void (*in_parent)(), void (*in_child)());

// Threads for the CPUs that this process may use: its affinity and quota; one for each core where
// there are several cores of two CPUs, and on a Mac only the fast ones. At least 1.
int usable_cpus();

// Whether the processor is an ARM with what 64-bit ARM need not have: dot products of int8
// (ASIMDDP), products of int8 matrices (I8MM).
bool has_arm_dot_products();
bool has_arm_matrix_products();
// Asks for the registers of AMX; false if the system does not give them.
bool request_amx_tiles();

// -- Libraries that are found while the program runs
// -----------------------------------------------

// A library by its name or path, which stays open for good; null where there is none.
void* open_library(const char* name);
// A function of it; null where it has none of that name.
void* find_symbol(void* library, const char* name);

// -- Memory ---------------------------------------------------------------------------------------

int64_t page_bytes();

// Bytes that this process can still take without swapping: what the system has available, or what
// is left of a limit on the process where that is less. What is cached of files is available.
int64_t available_memory();

// Address space, as zeros once it is used. Bytes are usable from commit() on, and take memory no
// earlier than that, most often when they are first touched.
uint8_t* reserve(int64_t size_bytes);
// Throws where the system has not so much memory. Costs little for what is usable already.
void commit(uint8_t* data, int64_t size_bytes);
void release(uint8_t* data, int64_t size_bytes);

// A whole file, mapped read-only. The pages are the system's cache.
class FileMapping {
 public:
  enum class State : uint8_t {
    whole,
    shorter,     // the file has lost bytes since
    unreadable,  // bytes could not be read, and are zeros now
  };

  virtual ~FileMapping() = default;
  FileMapping(const FileMapping&) = delete;
  FileMapping& operator=(const FileMapping&) = delete;

  const uint8_t* data() const { return data_; }
  int64_t size_bytes() const { return size_bytes_; }
  // Of now; `size_now` is the file's.
  virtual State state(int64_t& size_now) const = 0;

 protected:
  FileMapping() = default;
  const uint8_t* data_ = nullptr;
  int64_t size_bytes_ = 0;
};

// `path` is UTF-8. An empty file gives a mapping of no bytes.
std::unique_ptr<FileMapping> map_file(const std::string& path);

// Drops the pages of a mapped file that are whole within these bytes; they are read again, most
// often from the system's cache, when they are next touched.
void drop_file_pages(const uint8_t* data, int64_t size_bytes);

}  // namespace gptoss::platform
