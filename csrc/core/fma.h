// a * b + c rounded once, without the instruction for it.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace gptoss {

// In f64 the product is exact. The sum's two roundings, to 53 bits and to 24, give what one gives
// unless the first ends halfway between two floats, or the result is subnormal: there the library's
// function is called, which is exact and slow where the processor lacks the instruction.
[[gnu::always_inline]] inline float exact_fma(float a, float b, float c) {
  const double sum = static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c);
  constexpr uint64_t kLowBits = (uint64_t{1} << 29) - 1;
  const bool halfway = (std::bit_cast<uint64_t>(sum) & kLowBits) == uint64_t{1} << 28;
  if (halfway || !(std::fabs(sum) >= 0x1p-126)) return std::fma(a, b, c);
  return static_cast<float>(sum);
}

}  // namespace gptoss
