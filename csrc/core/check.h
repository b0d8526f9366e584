// Argument checks and the exceptions of the core.
//
// Arguments are checked once, at the boundary; messages name the op, what was expected and what
// came: check(k % 32 == 0, "[mxfp4_matmul] K must be a multiple of 32, got ", k).
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace gptoss {

// A device or its driver failed, or a backend is not available. Python: gptoss.BackendError.
class BackendError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// An allocation that cannot fit, refused before it is tried. Python: MemoryError.
class OutOfMemory : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A checkpoint's weights cannot be used. Python: gptoss.CheckpointError.
class CheckpointError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

template <class... Args>
std::string concat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

// Throws std::invalid_argument (Python: ValueError) unless `ok`.
template <class... Args>
void check(bool ok, const Args&... message) {
  if (!ok) throw std::invalid_argument(concat(message...));
}

}  // namespace gptoss
