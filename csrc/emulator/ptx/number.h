// Floating-point formats of PTX and the roundings between them, bit by bit.
//
// Everything goes through one function, round_to(), that rounds an exact value
// (-1)^sign * mantissa * 2^exponent, plus something smaller where `sticky`, to a format.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "emulator/ptx/types.h"

namespace gptoss::emulator {

struct Format {
  int mantissa_bits;  // stored ones
  int exponent_bits;
  bool has_infinity = true;  // else numbers go up to just below NaN, all ones
  constexpr int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  constexpr int bits() const { return 1 + exponent_bits + mantissa_bits; }
};

inline constexpr Format kFormatF16{10, 5};
inline constexpr Format kFormatBf16{7, 8};
inline constexpr Format kFormatE4m3{3, 4, false};
inline constexpr Format kFormatE5m2{2, 5};
inline constexpr Format kFormatTf32{10, 8};
inline constexpr Format kFormatF32{23, 8};
inline constexpr Format kFormatF64{52, 11};

constexpr Format format_of(Type type) {
  switch (type) {
    case Type::kF16:
    case Type::kF16x2:
      return kFormatF16;
    case Type::kBf16:
    case Type::kBf16x2:
      return kFormatBf16;
    case Type::kTf32:
      return kFormatTf32;
    case Type::kF64:
      return kFormatF64;
    default:
      return kFormatF32;
  }
}

// An exact value; finite unless `special`.
struct Exact {
  enum class Special : uint8_t { kFinite, kInfinity, kNan };
  bool sign = false;
  Special special = Special::kFinite;
  uint64_t mantissa = 0;
  int exponent = 0;
  bool sticky = false;  // there is more, less than one unit of the mantissa
};

inline Exact exact_of(double value) {
  const uint64_t bits = std::bit_cast<uint64_t>(value);
  Exact x;
  x.sign = bits >> 63;
  const int exponent = static_cast<int>(bits >> 52 & 0x7ff);
  const uint64_t fraction = bits & ((1ull << 52) - 1);
  if (exponent == 0x7ff) {
    x.special = fraction ? Exact::Special::kNan : Exact::Special::kInfinity;
  } else if (exponent == 0) {
    x.mantissa = fraction;
    x.exponent = -1074;
  } else {
    x.mantissa = fraction | 1ull << 52;
    x.exponent = exponent - 1075;
  }
  return x;
}

inline Exact exact_of_integer(uint64_t magnitude, bool negative) {
  Exact x;
  x.sign = negative;
  x.mantissa = magnitude;
  return x;
}

// The bits of `x` in `format`. NaN becomes PTX's canonical one: all ones below the sign.
inline uint64_t round_to(const Exact& x, Format format, Rounding rounding) {
  const uint64_t sign = uint64_t{x.sign} << (format.bits() - 1);
  const uint64_t infinity = format.has_infinity
                                ? ((1ull << format.exponent_bits) - 1) << format.mantissa_bits
                                : (1ull << (format.bits() - 1)) - 1;
  if (x.special == Exact::Special::kNan) return (1ull << (format.bits() - 1)) - 1;
  if (x.special == Exact::Special::kInfinity) return sign | infinity;
  if (x.mantissa == 0 && !x.sticky) return sign;
  // The weight of the last bit kept: of the normal range, or of the subnormals.
  const int width = 64 - std::countl_zero(x.mantissa | 1);
  const int least = 1 - format.bias() - format.mantissa_bits;
  int unit = x.exponent + width - 1 - format.mantissa_bits;
  if (unit < least) unit = least;
  const int drop = unit - x.exponent;
  uint64_t kept;
  bool half = false, rest = x.sticky;
  if (drop <= 0) {
    kept = x.mantissa << -drop;
  } else if (drop > 64) {
    kept = 0;
    rest = true;
  } else {
    kept = drop == 64 ? 0 : x.mantissa >> drop;
    half = x.mantissa >> (drop - 1) & 1;
    rest = rest || (drop > 1 && (x.mantissa << (65 - drop)) != 0);
  }
  bool up = false;
  switch (rounding) {
    case Rounding::kNearest:
      up = half && (rest || (kept & 1));
      break;
    case Rounding::kAway:
      up = half;
      break;
    case Rounding::kZero:
      break;
    case Rounding::kDown:
      up = x.sign && (half || rest);
      break;
    case Rounding::kUp:
      up = !x.sign && (half || rest);
      break;
  }
  kept += up;
  // A carry out of the mantissa raises the exponent by itself: the fields are adjacent.
  const uint64_t exponent_field = static_cast<uint64_t>(unit - least);
  uint64_t bits = kept + (exponent_field << format.mantissa_bits);
  if (bits >= infinity) {
    const bool to_infinity = rounding == Rounding::kNearest || rounding == Rounding::kAway ||
                             (rounding == Rounding::kUp && !x.sign) ||
                             (rounding == Rounding::kDown && x.sign);
    bits = to_infinity ? infinity : infinity - 1;
  }
  return sign | bits;
}

inline float f16_to_float(uint16_t bits) {
  return static_cast<float>(std::bit_cast<_Float16>(bits));
}
inline float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

// Round to nearest even; NaN becomes 0x7fff.
inline uint16_t float_to_f16(float value) {
  if (value != value) return 0x7fff;
  return std::bit_cast<uint16_t>(static_cast<_Float16>(value));
}
inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The 8-bit formats; results beyond the largest number become that.
inline float e4m3_to_float(uint8_t bits) {
  const int field = bits >> 3 & 15, fraction = bits & 7;
  if ((bits & 0x7f) == 0x7f) return std::bit_cast<float>(0x7fffffffu);
  const float magnitude = field ? std::ldexp(static_cast<float>(8 + fraction), field - 10)
                                : std::ldexp(static_cast<float>(fraction), -9);
  return bits & 0x80 ? -magnitude : magnitude;
}
inline float e5m2_to_float(uint8_t bits) { return f16_to_float(static_cast<uint16_t>(bits << 8)); }
inline uint8_t float_to_e4m3(float value) {
  constexpr float kLargest = 448;
  if (std::fabs(value) > kLargest) value = std::copysign(kLargest, value);
  return static_cast<uint8_t>(round_to(exact_of(value), kFormatE4m3, Rounding::kNearest));
}
inline uint8_t float_to_e5m2(float value) {
  constexpr float kLargest = 57344;
  if (std::fabs(value) > kLargest) value = std::copysign(kLargest, value);
  return static_cast<uint8_t>(round_to(exact_of(value), kFormatE5m2, Rounding::kNearest));
}

// Subnormal numbers become zeros of their sign.
inline float flush(float value) {
  return std::fabs(value) < 0x1p-126f ? std::copysign(0.0f, value) : value;
}
inline double flush(double value) {
  return std::fabs(value) < 0x1p-1022 ? std::copysign(0.0, value) : value;
}
inline float flush_f16(float value) {
  return std::fabs(value) < 0x1p-14f ? std::copysign(0.0f, value) : value;
}

// a + b as a double that a second rounding, to fewer than 51 bits, cannot go wrong on: where the
// sum is not exact, its last bit is set ("round to odd").
inline double add_to_odd(double a, double b) {
  const double sum = a + b;
  if (!std::isfinite(sum)) return sum;
  const double part = sum - a;
  const double error = (a - (sum - part)) + (b - part);
  uint64_t bits = std::bit_cast<uint64_t>(sum);
  if (error != 0 && !(bits & 1)) {
    // Towards the error: away from zero where the signs agree.
    bits = (error > 0) == (sum > 0) ? bits + 1 : bits - 1;
  }
  return std::bit_cast<double>(bits);
}

// a * b + c of numbers with at most 24 bits of mantissa, rounded once.
inline uint64_t fma_to(double a, double b, double c, Format format, Rounding rounding) {
  const double product = a * b;  // exact
  double sum = add_to_odd(product, c);
  if (sum == 0 && product == -c && product != 0) sum = rounding == Rounding::kDown ? -0.0 : 0.0;
  if (sum == 0 && product == 0 && c == 0 && std::signbit(product) != std::signbit(c))
    sum = rounding == Rounding::kDown ? -0.0 : 0.0;
  return round_to(exact_of(sum), format, rounding);
}

}  // namespace gptoss::emulator
