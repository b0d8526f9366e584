// Arithmetic of f16 and bf16, single and in pairs.
#include <bit>
#include <cmath>

#include "emulator/ptx/builder.h"
#include "emulator/ptx/lanes.h"
#include "emulator/ptx/number.h"

namespace gptoss::emulator {
namespace {

enum Op : uint8_t { kAdd, kSub, kMul, kFma, kMin, kMax, kNeg, kAbs, kEx2, kTanh };
enum Flag : uint32_t { kNanFlag = 1, kRelu = 2 };

struct F16 {
  static float load(uint16_t x) { return f16_to_float(x); }
  static uint16_t store(float x) { return float_to_f16(x); }
  static constexpr Format kFormat = kFormatF16;
  static constexpr float kLeastNormal = 0x1p-14f;
};
struct Bf16 {
  static float load(uint16_t x) { return bf16_to_float(x); }
  static uint16_t store(float x) { return float_to_bf16(x); }
  static constexpr Format kFormat = kFormatBf16;
  static constexpr float kLeastNormal = 0x1p-126f;
};

template <class T>
uint16_t flush_half(uint16_t x) {
  return std::fabs(T::load(x)) < T::kLeastNormal ? x & 0x8000 : x;
}

// One element. Sums and products of two such numbers are exact enough in f32 for a second
// rounding to be harmless (24 >= 2 * 11 + 2 bits); fma goes through round_to().
template <class T>
uint16_t compute(const Instruction& in, uint16_t a, uint16_t b, uint16_t c) {
  if (in.flush) {
    a = flush_half<T>(a);
    b = flush_half<T>(b);
    c = flush_half<T>(c);
  }
  const float x = T::load(a), y = T::load(b);
  uint16_t r = 0;
  switch (in.sub) {
    case kAdd:
      r = T::store(x + y);
      break;
    case kSub:
      r = T::store(x - y);
      break;
    case kMul:
      r = T::store(x * y);
      break;
    case kFma:
      r = static_cast<uint16_t>(fma_to(x, y, T::load(c), T::kFormat, Rounding::kNearest));
      break;
    case kNeg:
      return a ^ 0x8000;
    case kAbs:
      return a & 0x7fff;
    case kEx2:
      r = T::store(std::exp2(x));
      break;
    case kTanh:
      r = T::store(std::tanh(x));
      break;
    default: {
      const bool x_nan = x != x, y_nan = y != y;
      if ((in.flags & kNanFlag && (x_nan || y_nan)) || (x_nan && y_nan)) return 0x7fff;
      const bool is_min = in.sub == kMin;
      if (x_nan)
        r = b;
      else if (y_nan)
        r = a;
      else if (x == y)
        r = is_min == std::signbit(x) ? a : b;
      else
        r = is_min == (x < y) ? a : b;
    }
  }
  if (in.saturate) {
    const float v = T::load(r);
    r = T::store(v > 0 ? (v < 1 ? v : 1.0f) : 0.0f);
  }
  if (in.flags & kRelu) {
    const float v = T::load(r);
    r = v != v ? 0x7fff : v > 0 ? r : 0;
  }
  return in.flush ? flush_half<T>(r) : r;
}

template <class T>
void single(Warp& warp, const Instruction& in, uint32_t mask) {
  const uint16_t* a = warp.reg<uint16_t>(in.src[0]);
  const uint16_t* b = in.sources > 1 ? warp.reg<uint16_t>(in.src[1]) : a;
  const uint16_t* c = in.sources > 2 ? warp.reg<uint16_t>(in.src[2]) : a;
  each_active_lane<uint16_t>(warp, in.dst[0], mask,
                             [&](int l) { return compute<T>(in, a[l], b[l], c[l]); });
}

template <class T>
void pair(Warp& warp, const Instruction& in, uint32_t mask) {
  const uint32_t* a = warp.reg<uint32_t>(in.src[0]);
  const uint32_t* b = in.sources > 1 ? warp.reg<uint32_t>(in.src[1]) : a;
  const uint32_t* c = in.sources > 2 ? warp.reg<uint32_t>(in.src[2]) : a;
  each_active_lane<uint32_t>(warp, in.dst[0], mask, [&](int l) {
    const auto half = [&](int shift) {
      return uint32_t{compute<T>(in, static_cast<uint16_t>(a[l] >> shift),
                                 static_cast<uint16_t>(b[l] >> shift),
                                 static_cast<uint16_t>(c[l] >> shift))};
    };
    return half(0) | half(16) << 16;
  });
}

}  // namespace

namespace build {

void half(Builder& b) {
  b.operands();
  Instruction& in = b.in;
  const std::string_view op = b.opcode();
  in.sub = op == "add"   ? kAdd
           : op == "sub" ? kSub
           : op == "mul" ? kMul
           : op == "fma" ? kFma
           : op == "min" ? kMin
           : op == "max" ? kMax
           : op == "neg" ? kNeg
           : op == "abs" ? kAbs
           : op == "ex2" ? kEx2
                         : kTanh;
  in.flush = b.has("ftz");
  in.saturate = b.has("sat");
  in.flags = (b.has("NaN") ? kNanFlag : 0u) | (b.has("relu") ? kRelu : 0u);
  switch (in.type) {
    case Type::kF16:
      return b.execute(single<F16>);
    case Type::kBf16:
      return b.execute(single<Bf16>);
    case Type::kF16x2:
      return b.execute(pair<F16>);
    case Type::kBf16x2:
      return b.execute(pair<Bf16>);
    default:
      return;
  }
}

}  // namespace build
}  // namespace gptoss::emulator
