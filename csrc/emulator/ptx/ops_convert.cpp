// Moves and conversions.
#include <algorithm>
#include <bit>
#include <cmath>

#include "emulator/ptx/builder.h"
#include "emulator/ptx/lanes.h"
#include "emulator/ptx/linker.h"
#include "emulator/ptx/number.h"

namespace gptoss::emulator {
namespace {

struct Same {
  template <class T>
  T operator()(T a) const {
    return a;
  }
};

// {a, b, ...} -> d: the first element is the low one. vector: elements.
void pack(Warp& warp, const Instruction& in, uint32_t mask) {
  const int n = in.sources, bytes = size_of(in.type) / n;
  for (int l = 0; l < kLanes; ++l) {
    if (!(mask >> l & 1)) continue;
    uint64_t value = 0;
    for (int i = 0; i < n; ++i) value |= read_lane(warp, in.src[i], bytes, l) << (8 * bytes * i);
    write_lane(warp, in.dst[0], size_of(in.type), l, value);
  }
}
void unpack(Warp& warp, const Instruction& in, uint32_t mask) {
  const int n = in.destinations, bytes = size_of(in.type) / n;
  uint64_t value[kLanes];
  for (int l = 0; l < kLanes; ++l) value[l] = read_lane(warp, in.src[0], size_of(in.type), l);
  for (int i = 0; i < n; ++i)
    for (int l = 0; l < kLanes; ++l)
      if (mask >> l & 1) write_lane(warp, in.dst[i], bytes, l, value[l] >> (8 * bytes * i));
}

// A clock that counts the instructions of the launch: it moves on, and repeats with the seed.
void read_clock(Warp& warp, const Instruction& in, uint32_t mask) {
  const uint64_t now = warp.launch->counters.warp_instructions + warp.executed;
  const int bytes = size_of(in.type);
  for (int l = 0; l < kLanes; ++l)
    if (mask >> l & 1) write_lane(warp, in.dst[0], bytes, l, now);
}

// ---- cvt ----

enum Flag : uint32_t { kToIntegral = 1, kRelu = 2 };

int64_t sign_extend(uint64_t value, int bytes) {
  const int shift = 64 - 8 * bytes;
  return static_cast<int64_t>(value << shift) >> shift;
}
uint64_t zero_extend(uint64_t value, int bytes) {
  return bytes == 8 ? value : value & ((1ull << (8 * bytes)) - 1);
}

double load_float(uint64_t bits, Type type) {
  switch (type) {
    case Type::kF16:
      return f16_to_float(static_cast<uint16_t>(bits));
    case Type::kBf16:
      return bf16_to_float(static_cast<uint16_t>(bits));
    case Type::kF64:
      return std::bit_cast<double>(bits);
    default:
      return std::bit_cast<float>(static_cast<uint32_t>(bits));
  }
}

double to_integral(double x, Rounding rounding) {
  switch (rounding) {
    case Rounding::kZero:
      return std::trunc(x);
    case Rounding::kDown:
      return std::floor(x);
    case Rounding::kUp:
      return std::ceil(x);
    default:
      return std::nearbyint(x);
  }
}

uint64_t float_to_float(uint64_t bits, const Instruction& in) {
  double x = load_float(bits, in.type);
  if (in.flush && in.type == Type::kF32) x = flush(static_cast<float>(x));
  if (in.flags & kToIntegral) x = to_integral(x, in.rounding);
  if (in.saturate) x = x > 0 ? std::min(x, 1.0) : 0.0;  // NaN, too, becomes 0
  const Format format = format_of(in.type2);
  uint64_t out =
      round_to(exact_of(x), format, in.flags & kToIntegral ? Rounding::kNearest : in.rounding);
  if (in.type2 == Type::kTf32) out <<= 13;
  if (in.flush && in.type2 == Type::kF32)
    out = std::bit_cast<uint32_t>(flush(std::bit_cast<float>(static_cast<uint32_t>(out))));
  if (in.flags & kRelu && !std::isnan(x) && std::signbit(x)) out = 0;
  return out;
}

// Out of range clamps; NaN becomes 0, and of 64 bits the lowest or, unsigned, highest bit.
uint64_t float_to_integer(uint64_t bits, const Instruction& in) {
  double x = load_float(bits, in.type);
  if (in.flush && in.type == Type::kF32) x = flush(static_cast<float>(x));
  const int width = 8 * size_of(in.type2);
  const bool to_signed = is_signed(in.type2);
  if (std::isnan(x)) return width == 64 || in.type == Type::kF64 ? 1ull << (width - 1) : 0;
  const double y = to_integral(x, in.rounding);
  if (to_signed) {
    const double limit = std::ldexp(1.0, width - 1);
    if (y >= limit) return (1ull << (width - 1)) - 1;
    if (y < -limit) return static_cast<uint64_t>(-1) << (width - 1);
    return static_cast<uint64_t>(static_cast<int64_t>(y));
  }
  if (y <= 0) return 0;
  if (y >= std::ldexp(1.0, width)) return width == 64 ? ~0ull : (1ull << width) - 1;
  return static_cast<uint64_t>(y);
}

uint64_t integer_to_float(uint64_t bits, const Instruction& in) {
  const int bytes = size_of(in.type);
  const int64_t value = sign_extend(bits, bytes);
  const bool negative = is_signed(in.type) && value < 0;
  const uint64_t magnitude = negative ? 0 - static_cast<uint64_t>(value) : zero_extend(bits, bytes);
  uint64_t out = round_to(exact_of_integer(magnitude, negative), format_of(in.type2), in.rounding);
  if (in.saturate) {
    const double x = load_float(out, in.type2);
    out =
        round_to(exact_of(x > 0 ? std::min(x, 1.0) : 0.0), format_of(in.type2), Rounding::kNearest);
  }
  return out;
}

uint64_t integer_to_integer(uint64_t bits, const Instruction& in) {
  const int from = size_of(in.type), to = size_of(in.type2), width = 8 * to;
  const bool from_signed = is_signed(in.type), to_signed = is_signed(in.type2);
  const uint64_t value =
      from_signed ? static_cast<uint64_t>(sign_extend(bits, from)) : zero_extend(bits, from);
  if (!in.saturate) return value;
  const __int128 exact = from_signed ? static_cast<__int128>(static_cast<int64_t>(value))
                                     : static_cast<__int128>(value);
  const __int128 low = to_signed ? -(static_cast<__int128>(1) << (width - 1)) : 0;
  const __int128 high = to_signed ? (static_cast<__int128>(1) << (width - 1)) - 1
                                  : (static_cast<__int128>(1) << width) - 1;
  return static_cast<uint64_t>(std::clamp(exact, low, high));
}

// A result narrower than its register is extended by its own sign.
template <uint64_t (*kConvert)(uint64_t, const Instruction&)>
void convert_lanes(Warp& warp, const Instruction& in, uint32_t mask) {
  const int from = static_cast<int>(in.immediate), to = in.register_bytes;
  const int result = size_of(in.type2);
  for (int l = 0; l < kLanes; ++l) {
    if (!(mask >> l & 1)) continue;
    uint64_t value = kConvert(read_lane(warp, in.src[0], from, l), in);
    value = is_signed(in.type2) ? static_cast<uint64_t>(sign_extend(value, result))
                                : zero_extend(value, result);
    write_lane(warp, in.dst[0], to, l, value);
  }
}

// The frequent ones, in loops that vectorise. D and S are the registers' types.
template <class D, class S>
struct Cast {
  D operator()(S x) const { return static_cast<D>(x); }
};
struct Bf16ToF32 {
  float operator()(uint16_t x) const { return bf16_to_float(x); }
};
struct F16ToF32 {
  float operator()(uint16_t x) const { return f16_to_float(x); }
};
struct F32ToBf16 {
  uint16_t operator()(float x) const { return float_to_bf16(x); }
};

Execute fast_conversion(const Instruction& in, Type to, Type from, int to_bytes, int from_bytes) {
  if (in.saturate || in.flush || in.flags) return nullptr;
  const bool exact_width = to_bytes == size_of(to) && from_bytes == size_of(from);
  if (!exact_width) return nullptr;
  const auto is = [&](Type t, Type f) { return to == t && from == f; };
  const bool nearest = in.rounding == Rounding::kNearest;
  if (is(Type::kU64, Type::kU32) || is(Type::kS64, Type::kU32))
    return map1<uint64_t, uint32_t, Cast<uint64_t, uint32_t>>;
  if (is(Type::kS64, Type::kS32) || is(Type::kU64, Type::kS32))
    return map1<int64_t, int32_t, Cast<int64_t, int32_t>>;
  if (size_of(to) == 4 && size_of(from) == 8 && !is_float(to) && !is_float(from))
    return map1<uint32_t, uint64_t, Cast<uint32_t, uint64_t>>;
  if (size_of(to) == 4 && from == Type::kU16 && !is_float(to))
    return map1<uint32_t, uint16_t, Cast<uint32_t, uint16_t>>;
  if (size_of(to) == 2 && size_of(from) == 4 && !is_float(to) && !is_float(from))
    return map1<uint16_t, uint32_t, Cast<uint16_t, uint32_t>>;
  if (is(Type::kF32, Type::kS32) && nearest) return map1<float, int32_t, Cast<float, int32_t>>;
  if (is(Type::kF32, Type::kU32) && nearest) return map1<float, uint32_t, Cast<float, uint32_t>>;
  if (is(Type::kF32, Type::kBf16)) return map1<float, uint16_t, Bf16ToF32>;
  if (is(Type::kF32, Type::kF16)) return map1<float, uint16_t, F16ToF32>;
  if (is(Type::kBf16, Type::kF32) && nearest) return map1<uint16_t, float, F32ToBf16>;
  return nullptr;
}

// d = {convert(a), convert(b)}: a is the high half.
void convert_two(Warp& warp, const Instruction& in, uint32_t mask) {
  const float* a = warp.reg<float>(in.src[0]);
  const float* b = warp.reg<float>(in.src[1]);
  const bool to_bf16 = in.type2 == Type::kBf16x2, relu = in.flags & kRelu;
  const bool fast = to_bf16 && in.rounding == Rounding::kNearest && !relu;
  if (fast) {
    each_lane<uint32_t>(warp, in.dst[0], mask, [=](int l) {
      return uint32_t{float_to_bf16(a[l])} << 16 | float_to_bf16(b[l]);
    });
    return;
  }
  const Format format = to_bf16 ? kFormatBf16 : kFormatF16;
  each_active_lane<uint32_t>(warp, in.dst[0], mask, [&](int l) {
    const auto one = [&](float x) {
      if (relu && std::signbit(x) && x == x) return uint32_t{0};
      return static_cast<uint32_t>(round_to(exact_of(x), format, in.rounding));
    };
    return one(a[l]) << 16 | one(b[l]);
  });
}

// Pairs of 8-bit floats: of f32 (a is the high one) or of a pair of f16. flags: kRelu.
void convert_to_fp8(Warp& warp, const Instruction& in, uint32_t mask) {
  const bool e4m3 = in.type2 == Type::kE4m3x2, relu = in.flags & kRelu;
  const auto one = [=](float x) -> uint32_t {
    if (relu && std::signbit(x) && x == x) return 0;
    return e4m3 ? float_to_e4m3(x) : float_to_e5m2(x);
  };
  const bool from_halves = in.type == Type::kF16x2;
  const uint32_t* a = warp.reg<uint32_t>(in.src[0]);
  const uint32_t* b = warp.reg<uint32_t>(in.src[from_halves ? 0 : 1]);
  each_active_lane<uint16_t>(warp, in.dst[0], mask, [&](int l) {
    const float high =
        from_halves ? f16_to_float(static_cast<uint16_t>(a[l] >> 16)) : std::bit_cast<float>(a[l]);
    const float low =
        from_halves ? f16_to_float(static_cast<uint16_t>(b[l])) : std::bit_cast<float>(b[l]);
    return static_cast<uint16_t>(one(high) << 8 | one(low));
  });
}

// All 8-bit floats are f16, too.
void convert_from_fp8(Warp& warp, const Instruction& in, uint32_t mask) {
  const bool e4m3 = in.type == Type::kE4m3x2, relu = in.flags & kRelu;
  const auto one = [=](uint8_t bits) -> uint32_t {
    const float x = e4m3 ? e4m3_to_float(bits) : e5m2_to_float(bits);
    if (relu && std::signbit(x) && x == x) return 0;
    return float_to_f16(x);
  };
  const uint16_t* a = warp.reg<uint16_t>(in.src[0]);
  each_active_lane<uint32_t>(warp, in.dst[0], mask, [&](int l) {
    return one(static_cast<uint8_t>(a[l] >> 8)) << 16 | one(static_cast<uint8_t>(a[l]));
  });
}

// cvt.pack: {sat(a), sat(b)}, for 8 bits over the upper bytes' old content of c.
void convert_pack(Warp& warp, const Instruction& in, uint32_t mask) {
  const int32_t* a = warp.reg<int32_t>(in.src[0]);
  const int32_t* b = warp.reg<int32_t>(in.src[1]);
  const uint32_t* c = in.sources > 2 ? warp.reg<uint32_t>(in.src[2]) : nullptr;
  const int width = 8 * size_of(in.type2);
  const bool to_signed = is_signed(in.type2);
  const int64_t low = to_signed ? -(1ll << (width - 1)) : 0;
  const int64_t high = (1ll << (to_signed ? width - 1 : width)) - 1;
  each_lane<uint32_t>(warp, in.dst[0], mask, [=](int l) {
    const auto clamp = [=](int32_t x) {
      return static_cast<uint32_t>(std::clamp<int64_t>(x, low, high)) & ((1u << width) - 1);
    };
    const uint32_t pair = clamp(a[l]) << width | clamp(b[l]);
    return width == 8 ? pair | (c ? c[l] << 16 : 0) : pair;
  });
}

// ---- addresses ----

void add_window(Warp& warp, const Instruction& in, uint32_t mask) {
  const uint64_t window = static_cast<uint64_t>(in.immediate);
  const uint64_t* a = warp.reg<uint64_t>(in.src[0]);
  each_lane<uint64_t>(warp, in.dst[0], mask, [=](int l) { return a[l] | window; });
}
void drop_window(Warp& warp, const Instruction& in, uint32_t mask) {
  const uint64_t window = static_cast<uint64_t>(in.immediate);
  const uint64_t* a = warp.reg<uint64_t>(in.src[0]);
  for (uint32_t rest = mask; rest; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    const bool inside =
        window ? (a[l] & kWindowMask) == window : (a[l] & kWindowMask) < kSharedWindow;
    if (!inside && (warp.defined[in.src[0]] >> l & 1))
      warp.launch->report(ReportClass::kWrongSpace, warp, l,
                          "a generic address is converted to a space that it is not in");
  }
  each_lane<uint64_t>(warp, in.dst[0], mask,
                      [=](int l) { return window ? a[l] & ~kWindowMask : a[l]; });
}

uint64_t window_of(Builder& b) {
  if (b.has("shared") || b.has("shared::cta") || b.has("shared::cluster")) return kSharedWindow;
  if (b.has("local")) return kLocalWindow;
  if (b.has("param")) return kParamWindow;
  return 0;
}

// mapa: the address of the same variable in the block of a rank. What has no such block is found
// when the address is used, as compilers may compute it ahead of a branch.
template <class T>
void map_address(Warp& warp, const Instruction& in, uint32_t mask) {
  constexpr uint32_t kMostRanks = 255;
  const T* a = warp.reg<T>(in.src[0]);
  const uint32_t* rank = warp.reg<uint32_t>(in.src[1]);
  each_lane<T>(warp, in.dst[0], mask, [=](int l) {
    const T tag = static_cast<T>(1 + std::min(rank[l], kMostRanks - 1)) << kRankShift;
    const T all_ranks = static_cast<T>(kMostRanks) << kRankShift;
    return static_cast<T>((a[l] & ~all_ranks) | tag);
  });
}

template <class T>
void rank_of_address(Warp& warp, const Instruction& in, uint32_t mask) {
  const T* a = warp.reg<T>(in.src[0]);
  const uint32_t own = warp.cta->rank;
  each_lane<uint32_t>(warp, in.dst[0], mask, [=](int l) {
    const auto tag = static_cast<uint32_t>(a[l] >> kRankShift & 0xff);
    return tag ? tag - 1 : own;
  });
}

void in_window(Warp& warp, const Instruction& in, uint32_t mask) {
  const uint64_t window = static_cast<uint64_t>(in.immediate);
  const uint64_t* a = warp.reg<uint64_t>(in.src[0]);
  uint32_t out = 0;
  for (int l = 0; l < kLanes; ++l) {
    bool inside = window ? (a[l] & kWindowMask) == window : (a[l] & kWindowMask) < kSharedWindow;
    if (!window && inside) {
      const Allocation* place = warp.launch->memory.nearest(a[l]);
      inside = !place || place->is_constant == (in.sub == 1);
    }
    // Another block's shared memory is in the cluster's window only.
    if (inside && window == kSharedWindow && in.sub != 2) {
      const uint64_t tag = (a[l] & ~kWindowMask) >> kRankShift;
      inside = !tag || tag == 1 + uint64_t{warp.cta->rank};
    }
    out |= static_cast<uint32_t>(inside) << l;
  }
  warp.set_predicate(in.dst[0], out, mask);
}

}  // namespace

namespace build {

void move(Builder& b) {
  Instruction& in = b.in;
  const auto& operands = b.statement().operands;
  if (operands.size() != 2) b.fail("mov has two operands");
  const int bytes = size_of(in.type);
  const bool to_vector = operands[0].kind == Operand::Kind::kVector;
  const bool from_vector = operands[1].kind == Operand::Kind::kVector;
  if (to_vector || from_vector) {
    const size_t n = operands[to_vector ? 0 : 1].parts.size();
    if (to_vector == from_vector || !bytes || (n != 2 && n != 4) || bytes % static_cast<int>(n))
      b.fail("mov packs or unpacks two or four elements");
    const int part = bytes / static_cast<int>(n);
    if (to_vector) {
      for (const Operand& o : operands[0].parts) b.destination(o, part, false);
      b.source(operands[1], in.type, bytes, false);
      return b.execute(unpack);
    }
    b.destination(operands[0], bytes, false);
    for (const Operand& o : operands[1].parts) b.source(o, in.type, part, false);
    return b.execute(pack);
  }
  b.destination(operands[0], bytes, false);
  SpecialRegister special;
  if (Linker::find_special(operands[1].name, special) && special >= SpecialRegister::kClock) {
    const int width = special == SpecialRegister::kClock ? 4 : 8;
    if (width != bytes) b.fail("the clock has another width");
    return b.execute(read_clock);
  }
  if (in.type == Type::kPred) {
    b.source(operands[1], in.type, 0, false);
    return b.execute([](Warp& warp, const Instruction& i, uint32_t mask) {
      warp.set_predicate(i.dst[0], warp.source_predicate(i, 0), mask);
    });
  }
  b.source(operands[1], in.type, bytes, false);
  switch (bytes) {
    case 1:
      return b.execute(map1<uint8_t, uint8_t, Same>);
    case 2:
      return b.execute(map1<uint16_t, uint16_t, Same>);
    case 4:
      return b.execute(map1<uint32_t, uint32_t, Same>);
    case 8:
      return b.execute(map1<uint64_t, uint64_t, Same>);
    default:
      return;
  }
}

// In in.type2 is what comes out, in in.type what goes in.
void convert(Builder& b) {
  Instruction& in = b.in;
  const auto& operands = b.statement().operands;
  if (operands.size() != 2) b.fail("cvt has two operands");
  if (b.types().size() == 1) b.fail("cvt needs two types");
  b.source(operands[1], in.type, size_of(in.type), true);
  const int from_bytes = in.register_bytes ? in.register_bytes : size_of(in.type);
  in.register_bytes = 0;
  b.destination(operands[0], size_of(in.type2), true);
  const int to_bytes = in.register_bytes;
  in.immediate = from_bytes;
  in.saturate = b.has("sat");
  in.flush = b.has("ftz");
  in.flags = b.has("relu") ? uint32_t{kRelu} : 0u;
  static constexpr Rounding kModes[] = {Rounding::kNearest, Rounding::kZero, Rounding::kDown,
                                        Rounding::kUp, Rounding::kAway};
  const int integral = b.which({"rni", "rzi", "rmi", "rpi"});
  const int plain = b.which({"rn", "rz", "rm", "rp", "rna"});
  if (plain >= 0) in.rounding = kModes[plain];
  if (integral >= 0) in.rounding = kModes[integral];
  const bool from_float = is_float(in.type), to_float = is_float(in.type2);
  if (integral >= 0 && to_float) in.flags |= kToIntegral;
  if (from_float && !to_float && integral < 0)
    b.fail("a conversion to an integer needs .rni and the like");
  if (to_float && integral < 0 && plain < 0 &&
      (!from_float || size_of(in.type2) < size_of(in.type)))
    b.fail("a conversion that rounds needs a rounding mode");
  if (const Execute fast = fast_conversion(in, in.type2, in.type, to_bytes, from_bytes))
    return b.execute(fast);
  if (from_float && to_float) return b.execute(convert_lanes<float_to_float>);
  if (from_float) return b.execute(convert_lanes<float_to_integer>);
  if (to_float) return b.execute(convert_lanes<integer_to_float>);
  b.execute(convert_lanes<integer_to_integer>);
}

void convert_pair(Builder& b) {
  b.operands();
  Instruction& in = b.in;
  if (b.has("pack")) return b.execute(convert_pack);
  in.flags = b.has("relu") ? uint32_t{kRelu} : 0u;
  in.rounding = b.has("rz") ? Rounding::kZero : Rounding::kNearest;
  b.execute(convert_two);
}

void convert_fp8(Builder& b) {
  b.operands();
  b.in.flags = b.has("relu") ? uint32_t{kRelu} : 0u;
  b.execute(b.has("satfinite") ? convert_to_fp8 : convert_from_fp8);
}

void convert_address(Builder& b) {
  b.operands();
  b.in.immediate = static_cast<int64_t>(window_of(b));
  if (b.has("to")) return b.execute(drop_window);
  b.execute(b.in.immediate ? add_window : map1<uint64_t, uint64_t, Same>);
}

// The rank comes behind the address, which may be a variable's.
void map_shared(Builder& b) {
  b.operands();
  b.linker().kernel().maps_shared = true;
  const bool is_long = size_of(b.in.type) == 8;
  if (b.opcode() == "getctarank")
    return b.execute(is_long ? rank_of_address<uint64_t> : rank_of_address<uint32_t>);
  b.execute(is_long ? map_address<uint64_t> : map_address<uint32_t>);
}

void is_space(Builder& b) {
  b.operands();
  b.in.immediate = static_cast<int64_t>(window_of(b));
  b.in.sub = b.has("shared::cluster") ? 2 : b.has("const");
  b.execute(in_window);
}

}  // namespace build
}  // namespace gptoss::emulator
