// Comparisons and selections.
#include <bit>
#include <cmath>

#include "emulator/ptx/builder.h"
#include "emulator/ptx/lanes.h"
#include "emulator/ptx/number.h"

namespace gptoss::emulator {
namespace {

enum Relation : uint8_t { kEq, kNe, kLt, kLe, kGt, kGe, kNum, kNan };
enum Flag : uint32_t { kOr = 1, kXor = 2, kAnd = 4, kUnordered = 8 };

template <class T>
bool relate(T a, T b, uint8_t relation) {
  switch (relation) {
    case kEq:
      return a == b;
    case kNe:
      return a != b;
    case kLt:
      return a < b;
    case kLe:
      return a <= b;
    case kGt:
      return a > b;
    default:
      return a >= b;
  }
}

template <class T>
bool relate_float(T a, T b, const Instruction& in) {
  const bool unordered = a != a || b != b;
  if (in.sub == kNum) return !unordered;
  if (in.sub == kNan) return unordered;
  if (unordered) return in.flags & kUnordered;
  return relate(a, b, in.sub);
}

// The low half of `x`; .ftz is a modifier of f16 only.
template <bool kBf16>
float load_half(uint32_t x, const Instruction& in) {
  if constexpr (kBf16) return bf16_to_float(static_cast<uint16_t>(x));
  const float value = f16_to_float(static_cast<uint16_t>(x));
  return in.flush ? flush_f16(value) : value;
}

// One bit per lane, in a loop per relation so that it vectorises.
template <class T, uint8_t kRelation>
uint32_t compare_lanes(const T* a, const T* b) {
  uint32_t out = 0;
  for (int l = 0; l < kLanes; ++l) out |= static_cast<uint32_t>(relate(a[l], b[l], kRelation)) << l;
  return out;
}
template <class T>
uint32_t compare_integers(const T* a, const T* b, uint8_t relation) {
  switch (relation) {
    case kEq:
      return compare_lanes<T, kEq>(a, b);
    case kNe:
      return compare_lanes<T, kNe>(a, b);
    case kLt:
      return compare_lanes<T, kLt>(a, b);
    case kLe:
      return compare_lanes<T, kLe>(a, b);
    case kGt:
      return compare_lanes<T, kGt>(a, b);
    default:
      return compare_lanes<T, kGe>(a, b);
  }
}

uint32_t compare(Warp& warp, const Instruction& in, Type type) {
  const uint32_t x = in.src[0], y = in.src[1];
  switch (type) {
    case Type::kU16:
    case Type::kB16:
      return compare_integers(warp.reg<uint16_t>(x), warp.reg<uint16_t>(y), in.sub);
    case Type::kS16:
      return compare_integers(warp.reg<int16_t>(x), warp.reg<int16_t>(y), in.sub);
    case Type::kU32:
    case Type::kB32:
      return compare_integers(warp.reg<uint32_t>(x), warp.reg<uint32_t>(y), in.sub);
    case Type::kS32:
      return compare_integers(warp.reg<int32_t>(x), warp.reg<int32_t>(y), in.sub);
    case Type::kU64:
    case Type::kB64:
      return compare_integers(warp.reg<uint64_t>(x), warp.reg<uint64_t>(y), in.sub);
    case Type::kS64:
      return compare_integers(warp.reg<int64_t>(x), warp.reg<int64_t>(y), in.sub);
    default:
      break;
  }
  uint32_t out = 0;
  for (int l = 0; l < kLanes; ++l) {
    bool holds = false;
    switch (type) {
      case Type::kF32: {
        float a = warp.reg<float>(x)[l], b = warp.reg<float>(y)[l];
        if (in.flush) a = flush(a), b = flush(b);
        holds = relate_float(a, b, in);
        break;
      }
      case Type::kF64:
        holds = relate_float(warp.reg<double>(x)[l], warp.reg<double>(y)[l], in);
        break;
      case Type::kF16:
        holds = relate_float(load_half<false>(warp.reg<uint16_t>(x)[l], in),
                             load_half<false>(warp.reg<uint16_t>(y)[l], in), in);
        break;
      default:
        holds = relate_float(load_half<true>(warp.reg<uint16_t>(x)[l], in),
                             load_half<true>(warp.reg<uint16_t>(y)[l], in), in);
        break;
    }
    out |= static_cast<uint32_t>(holds) << l;
  }
  return out;
}

uint32_t combine(Warp& warp, const Instruction& in, uint32_t value) {
  if (in.sources < 3) return value;
  const uint32_t p = warp.source_predicate(in, 2);
  if (in.flags & kOr) return value | p;
  if (in.flags & kXor) return value ^ p;
  return value & p;
}

void setp(Warp& warp, const Instruction& in, uint32_t mask) {
  const uint32_t value = compare(warp, in, in.type);
  const uint32_t first = combine(warp, in, value);
  if (in.destinations > 1) warp.set_predicate(in.dst[1], combine(warp, in, ~value), mask);
  warp.set_predicate(in.dst[0], first, mask);
}

// Pairs: the halves' results are p and q.
template <bool kBf16>
void setp_pair(Warp& warp, const Instruction& in, uint32_t mask) {
  const uint32_t* a = warp.reg<uint32_t>(in.src[0]);
  const uint32_t* b = warp.reg<uint32_t>(in.src[1]);
  const auto load = [&in](uint32_t x) { return load_half<kBf16>(x, in); };
  uint32_t low = 0, high = 0;
  for (int l = 0; l < kLanes; ++l) {
    low |= static_cast<uint32_t>(relate_float(load(a[l]), load(b[l]), in)) << l;
    high |= static_cast<uint32_t>(relate_float(load(a[l] >> 16), load(b[l] >> 16), in)) << l;
  }
  const uint32_t p = combine(warp, in, low), q = combine(warp, in, high);
  warp.set_predicate(in.dst[0], p, mask);
  if (in.destinations > 1) warp.set_predicate(in.dst[1], q, mask);
}

// set: all ones (integers) or 1.0 where it holds.
void set(Warp& warp, const Instruction& in, uint32_t mask) {
  const uint32_t value = combine(warp, in, compare(warp, in, in.type));
  const uint32_t yes = in.type2 == Type::kF32 ? 0x3f800000u : ~0u;
  each_lane<uint32_t>(warp, in.dst[0], mask, [=](int l) { return value >> l & 1 ? yes : 0; });
}

template <bool kBf16, bool kPair>
void set_half(Warp& warp, const Instruction& in, uint32_t mask) {
  const auto load = [&in](uint32_t x) { return load_half<kBf16>(x, in); };
  const bool to_float = is_float(in.type2) || is_packed(in.type2);
  const uint32_t yes = !to_float ? 0xffffu : kBf16 ? 0x3f80u : 0x3c00u;
  for (int l = 0; l < kLanes; ++l) {
    if (!(mask >> l & 1)) continue;
    if constexpr (kPair) {
      const uint32_t a = warp.reg<uint32_t>(in.src[0])[l], b = warp.reg<uint32_t>(in.src[1])[l];
      const uint32_t low = relate_float(load(a), load(b), in) ? yes : 0;
      const uint32_t high = relate_float(load(a >> 16), load(b >> 16), in) ? yes : 0;
      warp.reg<uint32_t>(in.dst[0])[l] = low | high << 16;
    } else {
      const uint16_t a = warp.reg<uint16_t>(in.src[0])[l], b = warp.reg<uint16_t>(in.src[1])[l];
      warp.reg<uint16_t>(in.dst[0])[l] =
          static_cast<uint16_t>(relate_float(load(a), load(b), in) ? yes : 0);
    }
  }
}

// A value that is not chosen may be undefined.
void track_choice(Warp& warp, const Instruction& in, uint32_t mask, uint32_t first,
                  uint32_t chooser_defined) {
  const uint32_t ok =
      chooser_defined & ((warp.defined[in.src[0]] & first) | (warp.defined[in.src[1]] & ~first));
  const uint32_t d = in.dst[0];
  if (mask & ~ok) {
    uint32_t from = 0;
    for (int i = 0; i < 3 && !from; ++i)
      if (mask & ~warp.defined[in.src[i]]) from = warp.origin[in.src[i]];
    warp.origin[d] = from;
  }
  warp.defined[d] = (warp.defined[d] & ~mask) | (mask & ok);
}

template <class T>
void selp(Warp& warp, const Instruction& in, uint32_t mask) {
  const T* a = warp.reg<T>(in.src[0]);
  const T* b = warp.reg<T>(in.src[1]);
  const uint32_t p = warp.source_predicate(in, 2);
  track_choice(warp, in, mask, p, warp.defined[in.src[2]]);
  each_lane<T>(warp, in.dst[0], mask, [=](int l) { return p >> l & 1 ? a[l] : b[l]; });
}

template <class T>
void slct(Warp& warp, const Instruction& in, uint32_t mask) {
  const T* a = warp.reg<T>(in.src[0]);
  const T* b = warp.reg<T>(in.src[1]);
  uint32_t p = 0;
  for (int l = 0; l < kLanes; ++l) {
    bool first;
    if (in.type == Type::kS32) {
      first = warp.reg<int32_t>(in.src[2])[l] >= 0;
    } else {
      const float c = warp.reg<float>(in.src[2])[l];
      first = (in.flush ? flush(c) : c) >= 0;
    }
    p |= static_cast<uint32_t>(first) << l;
  }
  track_choice(warp, in, mask, p, warp.defined[in.src[2]]);
  each_lane<T>(warp, in.dst[0], mask, [=](int l) { return p >> l & 1 ? a[l] : b[l]; });
}

}  // namespace

namespace build {

void compare(Builder& b) {
  b.operands();
  Instruction& in = b.in;
  in.flush = b.has("ftz");
  struct Name {
    const char* name;
    uint8_t relation;
    bool unordered;
  };
  static constexpr Name kNames[] = {
      {"eq", kEq, false},   {"ne", kNe, false},   {"lt", kLt, false}, {"le", kLe, false},
      {"gt", kGt, false},   {"ge", kGe, false},   {"lo", kLt, false}, {"ls", kLe, false},
      {"hi", kGt, false},   {"hs", kGe, false},   {"equ", kEq, true}, {"neu", kNe, true},
      {"ltu", kLt, true},   {"leu", kLe, true},   {"gtu", kGt, true}, {"geu", kGe, true},
      {"num", kNum, false}, {"nan", kNan, false},
  };
  for (const Name& name : kNames) {
    if (!b.has(name.name)) continue;
    in.sub = name.relation;
    in.flags = name.unordered ? uint32_t{kUnordered} : 0u;
  }
  const bool combines = b.has("and") || b.has("or") || b.has("xor");
  if (combines != (in.sources == 3))
    b.fail("the third operand and the boolean operator belong together");
  in.flags |= b.has("or") ? uint32_t{kOr} : b.has("xor") ? uint32_t{kXor} : uint32_t{kAnd};
  const bool is_set = b.opcode() == "set";
  const bool is_bf16 = in.type == Type::kBf16 || in.type == Type::kBf16x2;
  if (is_packed(in.type)) {
    if (is_set) return b.execute(is_bf16 ? set_half<true, true> : set_half<false, true>);
    return b.execute(is_bf16 ? setp_pair<true> : setp_pair<false>);
  }
  if (is_set && size_of(in.type2) == 2)
    return b.execute(is_bf16 ? set_half<true, false> : set_half<false, false>);
  b.execute(is_set ? set : setp);
}

void select(Builder& b) {
  b.operands();
  Instruction& in = b.in;
  in.tracks_definedness = true;
  in.flush = b.has("ftz");
  const bool is_selp = b.opcode() == "selp";
  switch (size_of(is_selp ? in.type : in.type2)) {
    case 2:
      return b.execute(is_selp ? selp<uint16_t> : slct<uint16_t>);
    case 4:
      return b.execute(is_selp ? selp<uint32_t> : slct<uint32_t>);
    case 8:
      return b.execute(is_selp ? selp<uint64_t> : slct<uint64_t>);
    default:
      return;
  }
}

}  // namespace build
}  // namespace gptoss::emulator
