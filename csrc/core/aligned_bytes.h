// Bytes aligned to cache lines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gptoss {

// A vector register that is loaded from two lines takes twice as long: on Zen 4, matmuls of many
// tokens were 3 % (AVX-512) to 9 % (AVX2) slower where their activations began in the middle of
// one.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  explicit AlignedBytes(size_t size) { resize(size); }

  // In whole lines: at least what was asked for.
  size_t size() const { return lines_.size() * sizeof(Line); }
  void resize(size_t size) { lines_.resize((size + sizeof(Line) - 1) / sizeof(Line)); }

  uint8_t* data() { return reinterpret_cast<uint8_t*>(lines_.data()); }
  const uint8_t* data() const { return reinterpret_cast<const uint8_t*>(lines_.data()); }

 private:
  struct alignas(64) Line {
    uint8_t bytes[64];
  };
  std::vector<Line> lines_;
};

}  // namespace gptoss
