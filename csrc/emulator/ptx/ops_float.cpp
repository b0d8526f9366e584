// Arithmetic of f32 and f64, and the functions that cards compute approximately.
#include <bit>
#include <cfenv>
#include <cmath>

#include "emulator/ptx/builder.h"
#include "emulator/ptx/lanes.h"
#include "emulator/ptx/number.h"

namespace gptoss::emulator {
namespace {

template <class T>
T canonical_nan() {
  if constexpr (sizeof(T) == 4)
    return std::bit_cast<float>(0x7fffffffu);
  else
    return std::bit_cast<double>(0x7fffffffffffffffull);
}
template <class T>
T quiet(T x) {
  return x != x ? canonical_nan<T>() : x;
}

struct FAdd {
  template <class T>
  T operator()(T a, T b) const {
    return quiet(a + b);
  }
};
struct FSub {
  template <class T>
  T operator()(T a, T b) const {
    return quiet(a - b);
  }
};
struct FMul {
  template <class T>
  T operator()(T a, T b) const {
    return quiet(a * b);
  }
};
struct FDiv {
  template <class T>
  T operator()(T a, T b) const {
    return quiet(a / b);
  }
};
struct FFma {
  template <class T>
  T operator()(T a, T b, T c) const {
    return quiet(std::fma(a, b, c));
  }
};
struct FSqrt {
  template <class T>
  T operator()(T a) const {
    return quiet(std::sqrt(a));
  }
};
struct FRcp {
  template <class T>
  T operator()(T a) const {
    return quiet(T{1} / a);
  }
};
// -0 is less than +0; a NaN loses against a number. Three values: two of them, then the third.
template <bool kMin, bool kNan>
struct FMinMax {
  template <class T>
  T operator()(T a, T b) const {
    if (kNan && (a != a || b != b)) return canonical_nan<T>();
    if (a != a) return quiet(b);
    if (b != b) return a;
    if (a == b) return kMin == std::signbit(a) ? a : b;
    return kMin == (a < b) ? a : b;
  }
  template <class T>
  T operator()(T a, T b, T c) const {
    return (*this)((*this)(a, b), c);
  }
};
struct FAbs {
  template <class T>
  T operator()(T a) const {
    return std::fabs(a);
  }
};
struct FNeg {
  template <class T>
  T operator()(T a) const {
    return -a;
  }
};
struct FCopySign {
  template <class T>
  T operator()(T a, T b) const {
    return std::copysign(b, a);
  }
};

// With .ftz subnormal inputs and results are zeros of their sign; .sat clamps to [0, 1], NaN to 0.
template <class Op, bool kFlush, bool kSaturate>
struct Modified {
  template <class T, class... More>
  T operator()(T x, More... more) const {
    T r = Op{}((kFlush ? flush(x) : x), (kFlush ? flush(more) : more)...);
    if (kFlush) r = flush(r);
    if (kSaturate) r = r > 0 ? (r < 1 ? r : T{1}) : T{0};
    return r;
  }
};
template <class Op, int kArity>
Execute f32(bool flushes, bool saturates) {
  const auto pick = []<bool kFlush, bool kSaturate>() -> Execute {
    using M = Modified<Op, kFlush, kSaturate>;
    if constexpr (kArity == 1)
      return map1<float, float, M>;
    else if constexpr (kArity == 2)
      return map2<float, float, float, M>;
    else
      return map3<float, float, float, float, M>;
  };
  if (flushes)
    return saturates ? pick.template operator()<true, true>()
                     : pick.template operator()<true, false>();
  return saturates ? pick.template operator()<false, true>()
                   : pick.template operator()<false, false>();
}

// Two floats in one register of 64 bits, the first in the low half.
struct FloatPair {
  float low, high;
};
template <class Op>
struct Both {
  template <class... Pairs>
  FloatPair operator()(Pairs... pairs) const {
    return {Op{}(pairs.low...), Op{}(pairs.high...)};
  }
};
template <class Op, int kArity>
Execute f32x2(bool flushes) {
  const auto pick = []<bool kFlush>() -> Execute {
    using M = Both<Modified<Op, kFlush, false>>;
    if constexpr (kArity == 2)
      return map2<FloatPair, FloatPair, FloatPair, M>;
    else
      return map3<FloatPair, FloatPair, FloatPair, FloatPair, M>;
  };
  return flushes ? pick.template operator()<true>() : pick.template operator()<false>();
}

template <class Op, int kArity>
Execute f64() {
  if constexpr (kArity == 1)
    return map1<double, double, Op>;
  else if constexpr (kArity == 2)
    return map2<double, double, double, Op>;
  else
    return map3<double, double, double, double, Op>;
}

// Directed roundings: the processor's own, one lane at a time. The volatiles keep the arithmetic
// between the changes of mode.
class RoundingMode {
 public:
  explicit RoundingMode(Rounding rounding) : saved_(std::fegetround()) {
    std::fesetround(rounding == Rounding::kZero   ? FE_TOWARDZERO
                    : rounding == Rounding::kDown ? FE_DOWNWARD
                    : rounding == Rounding::kUp   ? FE_UPWARD
                                                  : FE_TONEAREST);
  }
  ~RoundingMode() { std::fesetround(saved_); }

 private:
  int saved_;
};

enum Op : uint8_t { kAdd, kSub, kMul, kDiv, kFma, kSqrt, kRcp };

template <class T>
T directed(uint8_t op, T a0, T b0, T c0) {
  volatile T a = a0, b = b0, c = c0, r = 0;
  switch (op) {
    case kAdd:
      r = a + b;
      break;
    case kSub:
      r = a - b;
      break;
    case kMul:
      r = a * b;
      break;
    case kDiv:
      r = a / b;
      break;
    case kFma:
      r = std::fma(static_cast<T>(a), static_cast<T>(b), static_cast<T>(c));
      break;
    case kSqrt:
      r = std::sqrt(static_cast<T>(a));
      break;
    default:
      r = T{1} / a;
      break;
  }
  return quiet(static_cast<T>(r));
}

template <class T>
T directed_lane(const Instruction& in, T a, T b, T c) {
  const auto in_flush = [&](T x) {
    if constexpr (sizeof(T) == 4)
      return in.flush ? flush(x) : x;
    else
      return x;
  };
  const T r = in_flush(directed(in.sub, in_flush(a), in_flush(b), in_flush(c)));
  if (in.saturate) return r > 0 ? (r < 1 ? r : T{1}) : T{0};
  return r;
}
FloatPair directed_lane(const Instruction& in, FloatPair a, FloatPair b, FloatPair c) {
  return {directed_lane(in, a.low, b.low, c.low), directed_lane(in, a.high, b.high, c.high)};
}

template <class T>
void arithmetic_directed(Warp& warp, const Instruction& in, uint32_t mask) {
  const T* a = warp.reg<T>(in.src[0]);
  const T* b = in.sources > 1 ? warp.reg<T>(in.src[1]) : a;
  const T* c = in.sources > 2 ? warp.reg<T>(in.src[2]) : a;
  const RoundingMode mode(in.rounding);
  each_active_lane<T>(warp, in.dst[0], mask,
                      [&](int l) { return directed_lane(in, a[l], b[l], c[l]); });
}

// Approximate functions: their exact value, rounded; within every card's bound of error.
struct Ex2 {
  template <class T>
  T operator()(T x) const {
    return quiet(std::exp2(x));
  }
};
struct Lg2 {
  float operator()(float x) const { return quiet(std::log2(x)); }
};
struct Sin {
  float operator()(float x) const { return quiet(std::sin(x)); }
};
struct Cos {
  float operator()(float x) const { return quiet(std::cos(x)); }
};
struct Tanh {
  float operator()(float x) const { return quiet(std::tanh(x)); }
};
struct Rsqrt {
  template <class T>
  T operator()(T x) const {
    return quiet(static_cast<T>(1.0 / std::sqrt(static_cast<double>(x))));
  }
};

template <class Test>
void test_property(Warp& warp, const Instruction& in, uint32_t mask, Test test) {
  uint32_t out = 0;
  for (int l = 0; l < kLanes; ++l) {
    const double x = in.type == Type::kF64 ? warp.reg<double>(in.src[0])[l]
                                           : static_cast<double>(warp.reg<float>(in.src[0])[l]);
    out |= static_cast<uint32_t>(test(x, in.type == Type::kF64)) << l;
  }
  warp.set_predicate(in.dst[0], out, mask);
}

void testp(Warp& warp, const Instruction& in, uint32_t mask) {
  test_property(warp, in, mask, [&](double x, bool is_double) {
    const double least = is_double ? 0x1p-1022 : 0x1p-126;
    switch (in.sub) {
      case 0:
        return std::isfinite(x);
      case 1:
        return std::isinf(x);
      case 2:
        return !std::isnan(x);
      case 3:
        return std::isnan(x);
      case 4:
        return std::isfinite(x) && std::fabs(x) >= least;
      default:
        return std::fabs(x) < least && x != 0;
    }
  });
}

}  // namespace

namespace build {

void floating(Builder& b) {
  b.operands();
  Instruction& in = b.in;
  const std::string_view op = b.opcode();
  in.flush = b.has("ftz");
  in.saturate = b.has("sat");
  const int mode = b.which({"rz", "rm", "rp"});
  in.rounding = mode == 0   ? Rounding::kZero
                : mode == 1 ? Rounding::kDown
                : mode == 2 ? Rounding::kUp
                            : Rounding::kNearest;
  const bool wide = in.type == Type::kF64, two = in.type == Type::kF32x2;
  if (in.rounding != Rounding::kNearest) {
    in.sub = op == "add"    ? kAdd
             : op == "sub"  ? kSub
             : op == "mul"  ? kMul
             : op == "div"  ? kDiv
             : op == "sqrt" ? kSqrt
             : op == "rcp"  ? kRcp
                            : kFma;
    return b.execute(two    ? arithmetic_directed<FloatPair>
                     : wide ? arithmetic_directed<double>
                            : arithmetic_directed<float>);
  }
  const bool f = in.flush, s = in.saturate;
  if (two) {
    if (op == "add") return b.execute(f32x2<FAdd, 2>(f));
    if (op == "sub") return b.execute(f32x2<FSub, 2>(f));
    if (op == "mul") return b.execute(f32x2<FMul, 2>(f));
    if (op == "fma") return b.execute(f32x2<FFma, 3>(f));
    return;
  }
  if (op == "add") return b.execute(wide ? f64<FAdd, 2>() : f32<FAdd, 2>(f, s));
  if (op == "sub") return b.execute(wide ? f64<FSub, 2>() : f32<FSub, 2>(f, s));
  if (op == "mul") return b.execute(wide ? f64<FMul, 2>() : f32<FMul, 2>(f, s));
  if (op == "div") return b.execute(wide ? f64<FDiv, 2>() : f32<FDiv, 2>(f, s));
  if (op == "fma" || op == "mad") return b.execute(wide ? f64<FFma, 3>() : f32<FFma, 3>(f, s));
  if (op == "sqrt") return b.execute(wide ? f64<FSqrt, 1>() : f32<FSqrt, 1>(f, s));
  if (op == "rcp") return b.execute(wide ? f64<FRcp, 1>() : f32<FRcp, 1>(f, s));
  if (op == "abs") return b.execute(wide ? f64<FAbs, 1>() : f32<FAbs, 1>(f, s));
  if (op == "neg") return b.execute(wide ? f64<FNeg, 1>() : f32<FNeg, 1>(f, s));
  if (op == "copysign") return b.execute(wide ? f64<FCopySign, 2>() : f32<FCopySign, 2>(f, s));
  const bool nan = b.has("NaN");
  if (in.sources == 3) {
    if (op == "min")
      return b.execute(nan ? f32<FMinMax<true, true>, 3>(f, s)
                           : f32<FMinMax<true, false>, 3>(f, s));
    return b.execute(nan ? f32<FMinMax<false, true>, 3>(f, s)
                         : f32<FMinMax<false, false>, 3>(f, s));
  }
  if (op == "min") {
    if (nan) return b.execute(f32<FMinMax<true, true>, 2>(f, s));
    return b.execute(wide ? f64<FMinMax<true, false>, 2>() : f32<FMinMax<true, false>, 2>(f, s));
  }
  if (op == "max") {
    if (nan) return b.execute(f32<FMinMax<false, true>, 2>(f, s));
    return b.execute(wide ? f64<FMinMax<false, false>, 2>() : f32<FMinMax<false, false>, 2>(f, s));
  }
}

void special(Builder& b) {
  b.operands();
  Instruction& in = b.in;
  const std::string_view op = b.opcode();
  const bool f = b.has("ftz");
  if (op == "testp") {
    in.sub = static_cast<uint8_t>(
        b.which({"finite", "infinite", "number", "notanumber", "normal", "subnormal"}));
    return b.execute(testp);
  }
  if (in.type == Type::kF64) {
    if (op == "rsqrt")
      return b.execute(f ? f64<Modified<Rsqrt, true, false>, 1>() : f64<Rsqrt, 1>());
    if (op == "rcp") return b.execute(f64<Modified<FRcp, true, false>, 1>());
    return;
  }
  if (op == "ex2") return b.execute(f32<Ex2, 1>(f, false));
  if (op == "lg2") return b.execute(f32<Lg2, 1>(f, false));
  if (op == "sin") return b.execute(f32<Sin, 1>(f, false));
  if (op == "cos") return b.execute(f32<Cos, 1>(f, false));
  if (op == "tanh") return b.execute(f32<Tanh, 1>(f, false));
  if (op == "rsqrt") return b.execute(f32<Rsqrt, 1>(f, false));
}

}  // namespace build
}  // namespace gptoss::emulator
