// The least that the native tests need: registered tests, checks that name their line, random
// inputs that are the same everywhere, buffers that notice a stray write.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/isa/isa.h"

namespace gptoss::test {

using TestFunction = void (*)();

struct Registration {
  Registration(const char* name, TestFunction function);
};

#define GPTOSS_TEST(name)                                            \
  static void name();                                                \
  static const gptoss::test::Registration name##_entry(#name, name); \
  static void name()

template <class... Args>
[[noreturn]] void fail(const char* file, int line, const Args&... message) {
  std::ostringstream out;
  out << file << ":" << line << ": ";
  (out << ... << message);
  throw std::runtime_error(out.str());
}

// Further arguments say in which case the check failed.
#define GPTOSS_CHECK(condition, ...)                                                       \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      gptoss::test::fail(__FILE__, __LINE__, #condition __VA_OPT__(, ": ", ) __VA_ARGS__); \
    }                                                                                      \
  } while (false)

#define GPTOSS_CHECK_THROWS(Exception, expression)                                      \
  do {                                                                                  \
    bool thrown = false;                                                                \
    try {                                                                               \
      expression;                                                                       \
    } catch (const Exception&) {                                                        \
      thrown = true;                                                                    \
    }                                                                                   \
    if (!thrown) gptoss::test::fail(__FILE__, __LINE__, #expression, " did not throw"); \
  } while (false)

// An environment variable; "" is as good as none.
void set_variable(const char* name, const char* value);

// Half of the distance from 1 to the next float: the relative error of one rounding.
inline constexpr double kUnit = 0x1p-24;

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {}

  uint64_t bits() {  // xorshift64*
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1dull;
  }
  int below(int n) { return static_cast<int>((bits() >> 32) % static_cast<uint64_t>(n)); }
  // In [-1, 1), a multiple of 2^-23.
  float uniform() { return static_cast<float>(bits() >> 40) * 0x1p-23f - 1.0f; }
  std::vector<float> floats(size_t n, float scale = 1.0f) {
    std::vector<float> values(n);
    for (float& value : values) value = uniform() * scale;
    return values;
  }

 private:
  uint64_t state_;
};

// n elements that start `offset` bytes after an aligned address and end where their allocation
// ends, so that AddressSanitizer sees every read beyond them.
template <class T>
class Input {
 public:
  Input(const std::vector<T>& values, size_t offset)
      : bytes_(offset + values.size() * sizeof(T)), offset_(offset) {
    const auto* const from = reinterpret_cast<const uint8_t*>(values.data());
    std::copy_n(from, values.size() * sizeof(T), bytes_.data() + offset);
  }
  const T* data() const { return reinterpret_cast<const T*>(bytes_.data() + offset_); }

 private:
  std::vector<uint8_t> bytes_;
  size_t offset_;
};

// n elements between guard bytes; full of NaN at first.
template <class T>
class Output {
 public:
  explicit Output(size_t n, size_t offset = sizeof(T))
      : n_(n), begin_(kGuardBytes + offset), bytes_(2 * kGuardBytes + offset + n * sizeof(T)) {
    std::memset(bytes_.data(), kGuard, bytes_.size());
    std::memset(bytes_.data() + begin_, 0xff, n * sizeof(T));
  }
  T* data() { return reinterpret_cast<T*>(bytes_.data() + begin_); }
  std::vector<T> values() const {
    std::vector<T> copy(n_);
    std::memcpy(copy.data(), bytes_.data() + begin_, n_ * sizeof(T));
    return copy;
  }
  bool intact() const {
    for (size_t i = 0; i < bytes_.size(); ++i) {
      const bool inside = i >= begin_ && i < begin_ + n_ * sizeof(T);
      if (!inside && bytes_[i] != kGuard) return false;
    }
    return true;
  }

 private:
  static constexpr uint8_t kGuard = 0xa5;
  static constexpr size_t kGuardBytes = 64;
  size_t n_, begin_;
  std::vector<uint8_t> bytes_;
};

// The kernels that can run here, those of AVX-VNNI with its instruction made of others among them.
std::vector<const cpu::Kernels*> supported_kernels();

// Notes the bits of a result. Results of one name must be the same on every ISA that has fused
// multiply-add (all but scalar); main() compares them, and prints them for comparison with other
// machines. Calls with one name add up.
void note_bits(const cpu::Kernels& kernels, const std::string& name, std::span<const float> values);

inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

inline bool is_near(double found, double expected, double tolerance) {
  return std::fabs(found - expected) <= tolerance;  // false for NaN
}

}  // namespace gptoss::test
