// Integer arithmetic, logic, shifts and bit fields.
#include <algorithm>
#include <bit>
#include <cstdlib>
#include <limits>

#include "emulator/ptx/builder.h"
#include "emulator/ptx/lanes.h"

namespace gptoss::emulator {
namespace {

template <class T>
using Unsigned = std::make_unsigned_t<T>;
template <class T>
inline constexpr int kBits = 8 * sizeof(T);

// Twice as wide, of the same sign.
template <class T>
struct Wide;
template <>
struct Wide<uint16_t> {
  using type = uint32_t;
};
template <>
struct Wide<int16_t> {
  using type = int32_t;
};
template <>
struct Wide<uint32_t> {
  using type = uint64_t;
};
template <>
struct Wide<int32_t> {
  using type = int64_t;
};
template <>
struct Wide<uint64_t> {
  using type = unsigned __int128;
};
template <>
struct Wide<int64_t> {
  using type = __int128;
};

// Results wrap: computed in unsigned 64 bits and cut.
struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
  }
};
struct Sub {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(static_cast<uint64_t>(a) - static_cast<uint64_t>(b));
  }
};
struct MulLo {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
  }
};
struct MulHi {
  template <class T>
  T operator()(T a, T b) const {
    using W = typename Wide<T>::type;
    return static_cast<T>(static_cast<W>(a) * static_cast<W>(b) >> kBits<T>);
  }
};
struct MadLo {
  template <class T>
  T operator()(T a, T b, T c) const {
    return Add{}(MulLo{}(a, b), c);
  }
};
struct MadHi {
  template <class T>
  T operator()(T a, T b, T c) const {
    return Add{}(MulHi{}(a, b), c);
  }
};
int32_t clamp32(int64_t x) {
  return static_cast<int32_t>(std::clamp<int64_t>(x, INT32_MIN, INT32_MAX));
}
struct AddSat {
  int32_t operator()(int32_t a, int32_t b) const { return clamp32(int64_t{a} + b); }
};
struct SubSat {
  int32_t operator()(int32_t a, int32_t b) const { return clamp32(int64_t{a} - b); }
};
struct MadHiSat {
  int32_t operator()(int32_t a, int32_t b, int32_t c) const {
    return clamp32((int64_t{a} * b >> 32) + c);
  }
};
// The low 24 bits of each factor; .lo takes the low 32 bits of the 48-bit product, .hi the high.
template <class T>
int64_t product24(T a, T b) {
  if constexpr (std::is_signed_v<T>) {
    return (static_cast<int64_t>(static_cast<int32_t>(static_cast<uint32_t>(a) << 8)) >> 8) *
           (static_cast<int64_t>(static_cast<int32_t>(static_cast<uint32_t>(b) << 8)) >> 8);
  } else {
    return static_cast<int64_t>(uint64_t{a & 0xffffffu} * (b & 0xffffffu));
  }
}
struct Mul24Lo {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(product24(a, b));
  }
};
struct Mul24Hi {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(product24(a, b) >> 16);
  }
};
struct Mad24Lo {
  template <class T>
  T operator()(T a, T b, T c) const {
    return Add{}(Mul24Lo{}(a, b), c);
  }
};
struct Mad24Hi {
  template <class T>
  T operator()(T a, T b, T c) const {
    return Add{}(Mul24Hi{}(a, b), c);
  }
};
// Division by zero gives all ones, as cards do; the remainder is then the dividend.
struct Div {
  template <class T>
  T operator()(T a, T b) const {
    if (b == 0) return static_cast<T>(-1);
    if constexpr (std::is_signed_v<T>)
      if (b == -1) return Sub{}(T{0}, a);
    return static_cast<T>(a / b);
  }
};
struct Rem {
  template <class T>
  T operator()(T a, T b) const {
    if (b == 0) return a;
    if constexpr (std::is_signed_v<T>)
      if (b == -1) return 0;
    return static_cast<T>(a % b);
  }
};
struct Min {
  template <class T>
  T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};
struct Max {
  template <class T>
  T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};
struct Abs {
  template <class T>
  T operator()(T a) const {
    return a < 0 ? Sub{}(T{0}, a) : a;
  }
};
struct Neg {
  template <class T>
  T operator()(T a) const {
    return Sub{}(T{0}, a);
  }
};
struct Sad {
  template <class T>
  T operator()(T a, T b, T c) const {
    return Add{}(c, a < b ? Sub{}(b, a) : Sub{}(a, b));
  }
};
struct And {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(a & b);
  }
};
struct Or {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(a | b);
  }
};
struct Xor {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(a ^ b);
  }
};
struct Not {
  template <class T>
  T operator()(T a) const {
    return static_cast<T>(~a);
  }
};
struct Cnot {
  template <class T>
  T operator()(T a) const {
    return a == 0;
  }
};
// Shifts by more than the width are clamped, not wrapped.
struct Shl {
  template <class T>
  T operator()(T a, uint32_t n) const {
    return n >= kBits<T> ? T{0} : static_cast<T>(static_cast<uint64_t>(a) << n);
  }
};
struct Shr {
  template <class T>
  T operator()(T a, uint32_t n) const {
    if constexpr (std::is_signed_v<T>)
      return static_cast<T>(a >> std::min<uint32_t>(n, kBits<T> - 1));
    else
      return n >= kBits<T> ? T{0} : static_cast<T>(a >> n);
  }
};

struct Popc {
  template <class T>
  uint32_t operator()(T a) const {
    return static_cast<uint32_t>(std::popcount(a));
  }
};
struct Clz {
  template <class T>
  uint32_t operator()(T a) const {
    return static_cast<uint32_t>(std::countl_zero(a));
  }
};
template <bool kShiftAmount>
struct Bfind {
  template <class T>
  uint32_t operator()(T a) const {
    auto u = static_cast<Unsigned<T>>(a);
    if constexpr (std::is_signed_v<T>)
      if (a < 0) u = static_cast<Unsigned<T>>(~u);
    if (!u) return ~0u;
    const uint32_t position = kBits<T> - 1 - static_cast<uint32_t>(std::countl_zero(u));
    return kShiftAmount ? kBits<T> - 1 - position : position;
  }
};
struct Brev {
  template <class T>
  T operator()(T a) const {
    T out = 0;
    for (int i = 0; i < kBits<T>; ++i) out |= (a >> i & 1) << (kBits<T> - 1 - i);
    return out;
  }
};
struct Bfe {
  template <class T>
  T operator()(T a, uint32_t position, uint32_t length) const {
    using U = Unsigned<T>;
    position &= 0xff;
    length &= 0xff;
    if (length == 0) return 0;
    const U u = static_cast<U>(a);
    U field = position >= kBits<T> ? U{0} : static_cast<U>(u >> position);
    U sign = 0;
    if constexpr (std::is_signed_v<T>)
      sign = u >> std::min<uint32_t>(position + length - 1, kBits<T> - 1) & 1;
    const uint32_t taken =
        std::min<uint32_t>(length, position >= kBits<T> ? 0 : kBits<T> - position);
    if (taken < kBits<T>) {
      const U mask = static_cast<U>((U{1} << taken) - 1);
      field = static_cast<U>((field & mask) | (sign ? static_cast<U>(~mask) : U{0}));
    }
    return static_cast<T>(field);
  }
};
template <class T>
void bfi(Warp& warp, const Instruction& in, uint32_t mask) {
  const T* a = warp.reg<T>(in.src[0]);
  const T* b = warp.reg<T>(in.src[1]);
  const uint32_t* p = warp.reg<uint32_t>(in.src[2]);
  const uint32_t* n = warp.reg<uint32_t>(in.src[3]);
  each_lane<T>(warp, in.dst[0], mask, [=](int l) {
    const uint32_t position = p[l] & 0xff, length = n[l] & 0xff;
    T field = length >= kBits<T> ? ~T{0} : static_cast<T>((T{1} << length) - 1);
    field = position >= kBits<T> ? T{0} : static_cast<T>(field << position);
    const T value = position >= kBits<T> ? T{0} : static_cast<T>(a[l] << position);
    return static_cast<T>((b[l] & ~field) | (value & field));
  });
}

void lop3(Warp& warp, const Instruction& in, uint32_t mask) {
  const uint32_t* a = warp.reg<uint32_t>(in.src[0]);
  const uint32_t* b = warp.reg<uint32_t>(in.src[1]);
  const uint32_t* c = warp.reg<uint32_t>(in.src[2]);
  uint32_t term[8];
  for (int k = 0; k < 8; ++k) term[k] = in.immediate >> k & 1 ? ~0u : 0;
  each_lane<uint32_t>(warp, in.dst[0], mask, [=](int l) {
    const uint32_t x = a[l], y = b[l], z = c[l];
    return (~x & ~y & ~z & term[0]) | (~x & ~y & z & term[1]) | (~x & y & ~z & term[2]) |
           (~x & y & z & term[3]) | (x & ~y & ~z & term[4]) | (x & ~y & z & term[5]) |
           (x & y & ~z & term[6]) | (x & y & z & term[7]);
  });
}

template <bool kLeft, bool kWrap>
struct Shf {
  uint32_t operator()(uint32_t low, uint32_t high, uint32_t n) const {
    n = kWrap ? n & 31 : std::min(n, 32u);
    const uint64_t both = uint64_t{high} << 32 | low;
    return static_cast<uint32_t>(kLeft ? both << n >> 32 : both >> n);
  }
};

// Mode: 0 generic, then f4e b4e rc8 ecl ecr rc16.
uint32_t permute(uint32_t a, uint32_t b, uint32_t c, int mode) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  const auto byte = [bytes](uint32_t i) {
    return static_cast<uint32_t>(bytes >> (8 * (i & 7)) & 255);
  };
  uint32_t out = 0;
  const uint32_t n = c & 3;
  for (uint32_t i = 0; i < 4; ++i) {
    uint32_t value = 0;
    switch (mode) {
      case 0: {
        const uint32_t selector = c >> (4 * i) & 15;
        value = byte(selector);
        if (selector & 8) value = value & 0x80 ? 0xff : 0;
        break;
      }
      case 1:
        value = byte(n + i);
        break;
      case 2:
        value = byte(n - i);
        break;
      case 3:
        value = byte(n);
        break;
      case 4:
        value = byte(std::max(n, i));
        break;
      case 5:
        value = byte(std::min(n, i));
        break;
      default:
        value = byte((n & 1) * 2 + (i & 1));
        break;
    }
    out |= value << (8 * i);
  }
  return out;
}
void prmt(Warp& warp, const Instruction& in, uint32_t mask) {
  const uint32_t* a = warp.reg<uint32_t>(in.src[0]);
  const uint32_t* b = warp.reg<uint32_t>(in.src[1]);
  const uint32_t* c = warp.reg<uint32_t>(in.src[2]);
  const int mode = in.sub;
  each_lane<uint32_t>(warp, in.dst[0], mask,
                      [=](int l) { return permute(a[l], b[l], c[l], mode); });
}

// sub: bit 0 a is signed, bit 1 b is signed, bits 2-3: 0 dp4a, 1 dp2a.lo, 2 dp2a.hi
void dot_product(Warp& warp, const Instruction& in, uint32_t mask) {
  const uint32_t* a = warp.reg<uint32_t>(in.src[0]);
  const uint32_t* b = warp.reg<uint32_t>(in.src[1]);
  const uint32_t* c = warp.reg<uint32_t>(in.src[2]);
  const bool a_signed = in.sub & 1, b_signed = in.sub & 2;
  const int form = in.sub >> 2;
  const auto byte = [](uint32_t x, int i, bool is_signed) {
    const uint32_t raw = x >> (8 * i) & 255;
    return is_signed ? static_cast<int32_t>(static_cast<int8_t>(raw)) : static_cast<int32_t>(raw);
  };
  const auto half = [](uint32_t x, int i, bool is_signed) {
    const uint32_t raw = x >> (16 * i) & 0xffff;
    return is_signed ? static_cast<int32_t>(static_cast<int16_t>(raw)) : static_cast<int32_t>(raw);
  };
  each_lane<uint32_t>(warp, in.dst[0], mask, [=](int l) {
    uint32_t sum = c[l];
    if (form == 0) {
      for (int i = 0; i < 4; ++i)
        sum += static_cast<uint32_t>(byte(a[l], i, a_signed) * byte(b[l], i, b_signed));
    } else {
      for (int i = 0; i < 2; ++i)
        sum += static_cast<uint32_t>(half(a[l], i, a_signed) *
                                     byte(b[l], i + (form == 2 ? 2 : 0), b_signed));
    }
    return sum;
  });
}

// add.cc, addc and their kin. sub: 0 add, 1 sub, 2 mad.lo, 3 mad.hi; flags: 1 takes the carry in,
// 2 writes it.
template <class T>
void with_carry(Warp& warp, const Instruction& in, uint32_t mask) {
  using W = typename Wide<T>::type;
  const T* a = warp.reg<T>(in.src[0]);
  const T* b = warp.reg<T>(in.src[1]);
  const T* c = warp.reg<T>(in.src[in.sub >= 2 ? 2 : 1]);
  T* d = warp.reg<T>(in.dst[0]);
  for (int l = 0; l < kLanes; ++l) {
    if (!(mask >> l & 1)) continue;
    const W carry = in.flags & 1 ? warp.carry >> l & 1 : 0;
    W sum;
    if (in.sub == 1) {
      sum = static_cast<W>(a[l]) - b[l] - carry;
    } else {
      const W product = static_cast<W>(a[l]) * b[l];
      const T first = in.sub == 0   ? a[l]
                      : in.sub == 2 ? static_cast<T>(product)
                                    : static_cast<T>(product >> kBits<T>);
      sum = static_cast<W>(first) + c[l] + carry;
    }
    d[l] = static_cast<T>(sum);
    if (in.flags & 2)
      warp.carry = (warp.carry & ~(1u << l)) | (static_cast<uint32_t>(sum >> kBits<T> & 1) << l);
  }
}
void with_carry_hi_signed(Warp& warp, const Instruction& in, uint32_t mask) {
  const int32_t* a = warp.reg<int32_t>(in.src[0]);
  const int32_t* b = warp.reg<int32_t>(in.src[1]);
  const uint32_t* c = warp.reg<uint32_t>(in.src[2]);
  uint32_t* d = warp.reg<uint32_t>(in.dst[0]);
  for (int l = 0; l < kLanes; ++l) {
    if (!(mask >> l & 1)) continue;
    const auto high = static_cast<uint32_t>(int64_t{a[l]} * b[l] >> 32);
    const uint64_t sum = uint64_t{high} + c[l] + (in.flags & 1 ? warp.carry >> l & 1 : 0);
    d[l] = static_cast<uint32_t>(sum);
    if (in.flags & 2)
      warp.carry = (warp.carry & ~(1u << l)) | (static_cast<uint32_t>(sum >> 32 & 1) << l);
  }
}

// A false operand decides an and, a true one an or, whatever the other is, set or not: compilers
// evaluate both sides of && and ||.
enum class Gate { kAnd, kOr, kXor };
template <Gate kGate>
void predicate2(Warp& warp, const Instruction& in, uint32_t mask) {
  const uint32_t a = warp.source_predicate(in, 0), b = warp.source_predicate(in, 1);
  const uint32_t a_set = warp.defined[in.src[0]], b_set = warp.defined[in.src[1]];
  uint32_t ok = a_set & b_set;
  if (kGate == Gate::kAnd) ok |= (a_set & ~a) | (b_set & ~b);
  if (kGate == Gate::kOr) ok |= (a_set & a) | (b_set & b);
  const uint32_t value = kGate == Gate::kAnd ? a & b : kGate == Gate::kOr ? a | b : a ^ b;
  const uint32_t d = in.dst[0];
  if (mask & ~ok) warp.origin[d] = warp.origin[mask & ~a_set ? in.src[0] : in.src[1]];
  warp.set_predicate(d, value, mask);
  warp.defined[d] = (warp.defined[d] & ~mask) | (mask & ok);
}

}  // namespace

namespace build {

void integer(Builder& b) {
  b.operands();
  const std::string_view op = b.opcode();
  const Type t = b.in.type;
  if (op == "add")
    return b.execute(b.has("sat") ? map2<int32_t, int32_t, int32_t, AddSat> : integer2<Add>(t));
  if (op == "sub")
    return b.execute(b.has("sat") ? map2<int32_t, int32_t, int32_t, SubSat> : integer2<Sub>(t));
  if (op == "mul") return b.execute(b.has("hi") ? integer2<MulHi>(t) : integer2<MulLo>(t));
  if (op == "mad") {
    if (b.has("sat")) return b.execute(map3<int32_t, int32_t, int32_t, int32_t, MadHiSat>);
    return b.execute(b.has("hi") ? integer3<MadHi>(t) : integer3<MadLo>(t));
  }
  const bool is_signed = t == Type::kS32;
  if (op == "mul24") {
    if (b.has("hi"))
      return b.execute(is_signed ? map2<int32_t, int32_t, int32_t, Mul24Hi>
                                 : map2<uint32_t, uint32_t, uint32_t, Mul24Hi>);
    return b.execute(is_signed ? map2<int32_t, int32_t, int32_t, Mul24Lo>
                               : map2<uint32_t, uint32_t, uint32_t, Mul24Lo>);
  }
  if (op == "mad24") {
    if (b.has("hi"))
      return b.execute(is_signed ? map3<int32_t, int32_t, int32_t, int32_t, Mad24Hi>
                                 : map3<uint32_t, uint32_t, uint32_t, uint32_t, Mad24Hi>);
    return b.execute(is_signed ? map3<int32_t, int32_t, int32_t, int32_t, Mad24Lo>
                               : map3<uint32_t, uint32_t, uint32_t, uint32_t, Mad24Lo>);
  }
  if (op == "div") return b.execute(integer2<Div>(t));
  if (op == "rem") return b.execute(integer2<Rem>(t));
  if (op == "min") return b.execute(integer2<Min>(t));
  if (op == "max") return b.execute(integer2<Max>(t));
  if (op == "abs") return b.execute(integer1<Abs>(t));
  if (op == "neg") return b.execute(integer1<Neg>(t));
  if (op == "sad") return b.execute(integer3<Sad>(t));
}

void integer_wide(Builder& b) {
  b.operands();
  const bool mad = b.opcode() == "mad";
  b.execute(for_integer(b.in.type, [mad]<class T>() -> Execute {
    if constexpr (sizeof(T) == 8) {
      return nullptr;
    } else {
      using W = typename Wide<T>::type;
      struct Mul {
        W operator()(T x, T y) const {
          return static_cast<W>(static_cast<W>(x) * static_cast<W>(y));
        }
      };
      struct Mad {
        W operator()(T x, T y, W z) const { return Add{}(Mul{}(x, y), z); }
      };
      return mad ? static_cast<Execute>(map3<W, T, T, W, Mad>)
                 : static_cast<Execute>(map2<W, T, T, Mul>);
    }
  }));
}

void carry(Builder& b) {
  b.operands();
  const std::string_view op = b.opcode();
  b.in.sub = op.starts_with("add") ? 0 : op.starts_with("sub") ? 1 : b.has("lo") ? 2 : 3;
  b.in.flags = (op.ends_with("c") ? 1 : 0) | (b.has("cc") ? 2 : 0);
  const bool wide = size_of(b.in.type) == 8;
  if (b.in.sub == 3 && is_signed(b.in.type)) {
    if (wide) b.fail("64-bit signed mad.hi with carry is not supported");
    return b.execute(with_carry_hi_signed);
  }
  b.execute(wide ? with_carry<uint64_t> : with_carry<uint32_t>);
}

void logic(Builder& b) {
  b.operands();
  const std::string_view op = b.opcode();
  const Type t = b.in.type;
  if (t == Type::kPred) {
    b.in.tracks_definedness = op != "not";
    if (op == "and") return b.execute(predicate2<Gate::kAnd>);
    if (op == "or") return b.execute(predicate2<Gate::kOr>);
    if (op == "xor") return b.execute(predicate2<Gate::kXor>);
    return b.execute([](Warp& warp, const Instruction& in, uint32_t mask) {
      warp.set_predicate(in.dst[0], ~warp.source_predicate(in, 0), mask);
    });
  }
  if (op == "and") return b.execute(integer2<And>(t));
  if (op == "or") return b.execute(integer2<Or>(t));
  if (op == "xor") return b.execute(integer2<Xor>(t));
  if (op == "not") return b.execute(integer1<Not>(t));
  if (op == "cnot") return b.execute(integer1<Cnot>(t));
  if (op == "lop3") {
    if (b.in.immediate < 0 || b.in.immediate > 255) b.fail("a table of lop3 has 8 bits");
    return b.execute(lop3);
  }
}

void shift(Builder& b) {
  b.operands();
  const std::string_view op = b.opcode();
  const Type t = b.in.type;
  if (op == "shf") {
    const bool left = b.has("l"), wrap = b.has("wrap");
    using U = uint32_t;
    return b.execute(
        left ? (wrap ? map3<U, U, U, U, Shf<true, true>> : map3<U, U, U, U, Shf<true, false>>)
             : (wrap ? map3<U, U, U, U, Shf<false, true>> : map3<U, U, U, U, Shf<false, false>>));
  }
  if (op == "shl")
    return b.execute(
        for_integer(t, []<class T>() -> Execute { return map2<T, T, uint32_t, Shl>; }));
  b.execute(for_integer(t, []<class T>() -> Execute { return map2<T, T, uint32_t, Shr>; }));
}

void bits(Builder& b) {
  b.operands();
  const std::string_view op = b.opcode();
  const Type t = b.in.type;
  const bool wide = size_of(t) == 8;
  using U = uint32_t;
  using L = uint64_t;
  if (op == "popc") return b.execute(wide ? map1<U, L, Popc> : map1<U, U, Popc>);
  if (op == "clz") return b.execute(wide ? map1<U, L, Clz> : map1<U, U, Clz>);
  if (op == "brev") return b.execute(wide ? map1<L, L, Brev> : map1<U, U, Brev>);
  if (op == "bfind") {
    const bool amount = b.has("shiftamt");
    return b.execute(for_integer(t, [amount]<class T>() -> Execute {
      return amount ? static_cast<Execute>(map1<U, T, Bfind<true>>)
                    : static_cast<Execute>(map1<U, T, Bfind<false>>);
    }));
  }
  if (op == "bfe")
    return b.execute(for_integer(t, []<class T>() -> Execute { return map3<T, T, U, U, Bfe>; }));
  if (op == "bfi") return b.execute(wide ? bfi<L> : bfi<U>);
  if (op == "prmt") {
    b.in.sub = static_cast<uint8_t>(b.which({"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"}) + 1);
    return b.execute(prmt);
  }
}

void dot(Builder& b) {
  b.operands();
  const int form = b.opcode() == "dp4a" ? 0 : b.has("lo") ? 1 : 2;
  b.in.sub = static_cast<uint8_t>((b.in.type2 == Type::kS32 ? 1 : 0) |
                                  (b.in.type == Type::kS32 ? 2 : 0) | form << 2);
  b.execute(dot_product);
}

}  // namespace build
}  // namespace gptoss::emulator
