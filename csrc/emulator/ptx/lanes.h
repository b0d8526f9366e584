// Element-wise instructions: one operation over the 32 lanes of registers, in loops that compilers
// turn into vector code.
#pragma once

#include <type_traits>

#include "emulator/ptx/machine.h"

namespace gptoss::emulator {

// d[l] = f(l) on the lanes of `mask`. `f` must be harmless on the other lanes, too.
template <class D, class F>
inline void each_lane(Warp& warp, uint32_t d, uint32_t mask, F f) {
  D* const out = warp.reg<D>(d);
  if (mask == kAllLanes) {
#pragma GCC ivdep
    for (int l = 0; l < kLanes; ++l) out[l] = f(l);
  } else {
    D values[kLanes];
    for (int l = 0; l < kLanes; ++l) values[l] = f(l);
#pragma GCC ivdep
    for (int l = 0; l < kLanes; ++l) out[l] = mask >> l & 1 ? values[l] : out[l];
  }
}

// d[l] = f(l) on the lanes of `mask` only: for what is slow.
template <class D, class F>
inline void each_active_lane(Warp& warp, uint32_t d, uint32_t mask, F f) {
  D* const out = warp.reg<D>(d);
  for (int l = 0; l < kLanes; ++l)
    if (mask >> l & 1) out[l] = f(l);
}

template <class D, class A, class Op>
void map1(Warp& warp, const Instruction& in, uint32_t mask) {
  const A* a = warp.reg<A>(in.src[0]);
  each_lane<D>(warp, in.dst[0], mask, [=](int l) { return static_cast<D>(Op{}(a[l])); });
}

template <class D, class A, class B, class Op>
void map2(Warp& warp, const Instruction& in, uint32_t mask) {
  const A* a = warp.reg<A>(in.src[0]);
  const B* b = warp.reg<B>(in.src[1]);
  each_lane<D>(warp, in.dst[0], mask, [=](int l) { return static_cast<D>(Op{}(a[l], b[l])); });
}

template <class D, class A, class B, class C, class Op>
void map3(Warp& warp, const Instruction& in, uint32_t mask) {
  const A* a = warp.reg<A>(in.src[0]);
  const B* b = warp.reg<B>(in.src[1]);
  const C* c = warp.reg<C>(in.src[2]);
  each_lane<D>(warp, in.dst[0], mask,
               [=](int l) { return static_cast<D>(Op{}(a[l], b[l], c[l])); });
}

// The handler `make<T>()` for the C++ type that holds a PTX type; null for other types.
template <class Make>
Execute for_integer(Type type, Make make) {
  switch (type) {
    case Type::kU16:
    case Type::kB16:
      return make.template operator()<uint16_t>();
    case Type::kU32:
    case Type::kB32:
      return make.template operator()<uint32_t>();
    case Type::kU64:
    case Type::kB64:
      return make.template operator()<uint64_t>();
    case Type::kS16:
      return make.template operator()<int16_t>();
    case Type::kS32:
      return make.template operator()<int32_t>();
    case Type::kS64:
      return make.template operator()<int64_t>();
    default:
      return nullptr;
  }
}

template <class Op>
Execute integer1(Type type) {
  return for_integer(type, []<class T>() -> Execute { return map1<T, T, Op>; });
}
template <class Op>
Execute integer2(Type type) {
  return for_integer(type, []<class T>() -> Execute { return map2<T, T, T, Op>; });
}
template <class Op>
Execute integer3(Type type) {
  return for_integer(type, []<class T>() -> Execute { return map3<T, T, T, T, Op>; });
}

// The low `bytes` of a register in lane l.
inline uint64_t read_lane(Warp& warp, uint32_t reg, int bytes, int l) {
  switch (bytes) {
    case 1:
      return warp.reg<uint8_t>(reg)[l];
    case 2:
      return warp.reg<uint16_t>(reg)[l];
    case 4:
      return warp.reg<uint32_t>(reg)[l];
    default:
      return warp.reg<uint64_t>(reg)[l];
  }
}
inline void write_lane(Warp& warp, uint32_t reg, int bytes, int l, uint64_t value) {
  switch (bytes) {
    case 1:
      warp.reg<uint8_t>(reg)[l] = static_cast<uint8_t>(value);
      break;
    case 2:
      warp.reg<uint16_t>(reg)[l] = static_cast<uint16_t>(value);
      break;
    case 4:
      warp.reg<uint32_t>(reg)[l] = static_cast<uint32_t>(value);
      break;
    default:
      warp.reg<uint64_t>(reg)[l] = value;
      break;
  }
}

}  // namespace gptoss::emulator
