// Loads, stores, atomics and fences.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "emulator/ptx/access.h"
#include "emulator/ptx/builder.h"
#include "emulator/ptx/lanes.h"
#include "emulator/ptx/linker.h"
#include "emulator/ptx/number.h"

namespace gptoss::emulator {
namespace {

enum Flag : uint32_t { kNonCoherent = 1 };

AccessPlan plan_of(const Instruction& in, AccessKind kind) {
  AccessPlan plan;
  plan.kind = kind;
  plan.bytes = static_cast<uint32_t>(size_of(in.type)) * in.vector;
  plan.scope = in.scope;
  plan.non_coherent = in.flags & kNonCoherent;
  return plan;
}

// Calls f(space, addresses, lanes) for the lanes of each space that they turn out to be in.
template <class F>
void by_space(Warp& warp, const Instruction& in, LaneAddresses& a, uint32_t mask, F f) {
  const auto in_cluster = [&](uint32_t lanes) {
    by_owner(warp, a, lanes, [&](uint32_t of_one) { f(Space::kShared, of_one); });
  };
  if (in.space == Space::kSharedCluster) return in_cluster(mask);
  if (in.space != Space::kGeneric) return f(in.space, mask);
  uint32_t lanes[6] = {};
  for (int l = 0; l < kLanes; ++l)
    if (mask >> l & 1) lanes[static_cast<int>(resolve(a.at[l]))] |= 1u << l;
  for (int s = 0; s < 6; ++s) {
    if (!lanes[s]) continue;
    a.is_range = a.is_range && lanes[s] == mask;
    if (static_cast<Space>(s) == Space::kShared && warp.kernel->maps_shared)
      in_cluster(lanes[s]);
    else
      f(static_cast<Space>(s), lanes[s]);
  }
}

template <class T, class R>
void gather(Warp& warp, const Instruction& in, uint32_t mask, uint8_t* const (&place)[kLanes]) {
  for (int v = 0; v < in.vector; ++v) {
    R* out = warp.reg<R>(in.dst[v]);
    for (int l = 0; l < kLanes; ++l) {
      if (!(mask >> l & 1)) continue;
      T value;
      std::memcpy(&value, place[l] + v * sizeof(T), sizeof(T));
      out[l] = static_cast<R>(value);
    }
  }
}
template <class T>
void gather_to(Warp& warp, const Instruction& in, uint32_t mask, uint8_t* const (&place)[kLanes]) {
  switch (in.register_bytes) {
    case 1:
      return gather<T, uint8_t>(warp, in, mask, place);
    case 2:
      return gather<T, uint16_t>(warp, in, mask, place);
    case 4:
      return gather<T, uint32_t>(warp, in, mask, place);
    default:
      return gather<T, uint64_t>(warp, in, mask, place);
  }
}
void gather_elements(Warp& warp, const Instruction& in, uint32_t mask,
                     uint8_t* const (&place)[kLanes]) {
  switch (in.type) {
    case Type::kS8:
      return gather_to<int8_t>(warp, in, mask, place);
    case Type::kS16:
      return gather_to<int16_t>(warp, in, mask, place);
    case Type::kS32:
      return gather_to<int32_t>(warp, in, mask, place);
    default:
      break;
  }
  switch (size_of(in.type)) {
    case 1:
      return gather_to<uint8_t>(warp, in, mask, place);
    case 2:
      return gather_to<uint16_t>(warp, in, mask, place);
    case 4:
      return gather_to<uint32_t>(warp, in, mask, place);
    default:
      return gather_to<uint64_t>(warp, in, mask, place);
  }
}

void load(Warp& warp, const Instruction& in, uint32_t mask) {
  LaneAddresses a = addresses(warp, in.address, in.address_bytes, in.offset, mask);
  const AccessPlan plan = plan_of(in, AccessKind::kLoad);
  a.look_for_range(mask, plan.bytes);
  const bool acquires = in.semantics >= Semantics::kVolatile;
  by_space(warp, in, a, mask, [&](Space space, uint32_t lanes) {
    uint8_t* place[kLanes];
    locate(warp, space, a, lanes, plan, place);
    if (acquires)
      for (uint32_t rest = lanes; rest; rest &= rest - 1) {
        const int l = std::countr_zero(rest);
        observe(warp, space, a.at[l], l, in.semantics, in.scope);
      }
    const uint32_t written = check_load(warp, space, a, lanes, plan);
    gather_elements(warp, in, lanes, place);
    for (int v = 0; v < in.vector; ++v) {
      uint32_t& defined = warp.defined[in.dst[v]];
      defined = (defined & ~lanes) | written;
      if (written != lanes) warp.origin[in.dst[v]] = static_cast<uint32_t>(warp.pc) + 1;
    }
  });
}

// Parameters of the kernel at a fixed place: one value for all lanes.
template <class T, class R>
void load_parameter(Warp& warp, const Instruction& in, uint32_t mask) {
  for (int v = 0; v < in.vector; ++v) {
    T value;
    std::memcpy(&value, &warp.launch->parameters[static_cast<size_t>(in.offset) + v * sizeof(T)],
                sizeof(T));
    each_lane<R>(warp, in.dst[v], mask, [=](int) { return static_cast<R>(value); });
    warp.defined[in.dst[v]] |= mask;
  }
}

// Stores lane by lane. Bit l of the result: lane l stored what was there already, be it from before
// or from a lane before it.
template <class T, class R>
uint32_t scatter(Warp& warp, const Instruction& in, uint32_t mask,
                 uint8_t* const (&place)[kLanes]) {
  uint32_t different = 0;
  const R* source[kMaxSources];
  for (int v = 0; v < in.vector; ++v) source[v] = warp.reg<R>(in.src[v]);
  for (int l = 0; l < kLanes; ++l) {
    if (!(mask >> l & 1)) continue;
    for (int v = 0; v < in.vector; ++v) {
      const T value = static_cast<T>(source[v][l]);
      uint8_t* const p = place[l] + v * sizeof(T);
      different |= static_cast<uint32_t>(std::memcmp(p, &value, sizeof(T)) != 0) << l;
      std::memcpy(p, &value, sizeof(T));
    }
  }
  return mask & ~different;
}
template <class T>
uint32_t scatter_from(Warp& warp, const Instruction& in, uint32_t mask,
                      uint8_t* const (&place)[kLanes]) {
  switch (in.register_bytes) {
    case 1:
      return scatter<T, uint8_t>(warp, in, mask, place);
    case 2:
      return scatter<T, uint16_t>(warp, in, mask, place);
    case 4:
      return scatter<T, uint32_t>(warp, in, mask, place);
    default:
      return scatter<T, uint64_t>(warp, in, mask, place);
  }
}
uint32_t scatter_elements(Warp& warp, const Instruction& in, uint32_t mask,
                          uint8_t* const (&place)[kLanes]) {
  switch (size_of(in.type)) {
    case 1:
      return scatter_from<uint8_t>(warp, in, mask, place);
    case 2:
      return scatter_from<uint16_t>(warp, in, mask, place);
    case 4:
      return scatter_from<uint32_t>(warp, in, mask, place);
    default:
      return scatter_from<uint64_t>(warp, in, mask, place);
  }
}

void report_undefined_store(Warp& warp, const Instruction& in, uint32_t bad) {
  const int lane = std::countr_zero(bad);
  for (int i = 0; i < in.sources; ++i) {
    if (warp.defined[in.src[i]] >> lane & 1) continue;
    const uint32_t origin = warp.origin[in.src[i]];
    warp.launch->report(ReportClass::kUninitialisedStore,
                        warp.launch->site(warp, warp.pc, lane, "write"),
                        origin ? warp.launch->site(warp, static_cast<int>(origin) - 1, lane,
                                                   "read of what was never written")
                               : AccessSite{},
                        "a value that was never set is stored to global memory (" +
                            warp.kernel->register_names[in.src[i]] + ")");
    return;
  }
}

void store(Warp& warp, const Instruction& in, uint32_t mask) {
  LaneAddresses a = addresses(warp, in.address, in.address_bytes, in.offset, mask);
  const AccessPlan plan = plan_of(in, AccessKind::kStore);
  a.look_for_range(mask, plan.bytes);
  uint32_t defined = mask;
  for (int v = 0; v < in.vector; ++v) defined &= warp.defined[in.src[v]];
  by_space(warp, in, a, mask, [&](Space space, uint32_t lanes) {
    uint8_t* place[kLanes];
    locate(warp, space, a, lanes, plan, place);
    if (space == Space::kGlobal && (lanes & ~defined))
      report_undefined_store(warp, in, lanes & ~defined);
    const uint32_t same = scatter_elements(warp, in, lanes, place);
    check_store(warp, space, a, lanes, plan, same, defined & lanes);
    if (space != Space::kLocal) {
      warp.launch->progress += same != lanes;
      for (uint32_t rest = lanes; rest; rest &= rest - 1) {
        const int l = std::countr_zero(rest);
        if (in.semantics == Semantics::kWeak)
          forget_released(warp, space, a.at[l]);
        else
          publish(warp, space, a.at[l], l, in.semantics, in.scope, false);
      }
    }
  });
  if (in.semantics == Semantics::kRelease) warp.advance_clock();
}

// ---- atomics ----

enum AtomicOp : uint8_t { kAdd, kMin, kMax, kExch, kCas, kAnd, kOr, kXor, kInc, kDec };

uint16_t half_op(AtomicOp op, uint16_t a, uint16_t b, bool is_bf16) {
  const float x = is_bf16 ? bf16_to_float(a) : f16_to_float(a);
  const float y = is_bf16 ? bf16_to_float(b) : f16_to_float(b);
  const float r = op == kAdd ? x + y : op == kMin ? std::fmin(x, y) : std::fmax(x, y);
  return is_bf16 ? float_to_bf16(r) : float_to_f16(r);
}

uint64_t atomic_result(const Instruction& in, uint64_t old, uint64_t b, uint64_t c) {
  const auto op = static_cast<AtomicOp>(in.sub);
  const auto shift = 64 - 8 * size_of(in.type);
  const auto as_signed = [shift](uint64_t v) { return static_cast<int64_t>(v << shift) >> shift; };
  switch (op) {
    case kExch:
      return b;
    case kCas:
      return old == b ? c : old;
    case kAnd:
      return old & b;
    case kOr:
      return old | b;
    case kXor:
      return old ^ b;
    case kInc:
      return old >= b ? 0 : old + 1;
    case kDec:
      return old == 0 || old > b ? b : old - 1;
    default:
      break;
  }
  switch (in.type) {
    case Type::kF32: {
      const float x = std::bit_cast<float>(static_cast<uint32_t>(old));
      const float y = std::bit_cast<float>(static_cast<uint32_t>(b));
      return std::bit_cast<uint32_t>(x + y);
    }
    case Type::kF64:
      return std::bit_cast<uint64_t>(std::bit_cast<double>(old) + std::bit_cast<double>(b));
    case Type::kF16:
    case Type::kBf16:
      return half_op(op, static_cast<uint16_t>(old), static_cast<uint16_t>(b),
                     in.type == Type::kBf16);
    case Type::kF16x2:
    case Type::kBf16x2: {
      const bool bf = in.type == Type::kBf16x2;
      return half_op(op, static_cast<uint16_t>(old), static_cast<uint16_t>(b), bf) |
             uint64_t{
                 half_op(op, static_cast<uint16_t>(old >> 16), static_cast<uint16_t>(b >> 16), bf)}
                 << 16;
    }
    default:
      break;
  }
  if (op == kAdd) return old + b;
  if (is_signed(in.type))
    return static_cast<uint64_t>(op == kMin ? std::min(as_signed(old), as_signed(b))
                                            : std::max(as_signed(old), as_signed(b)));
  return op == kMin ? std::min(old, b) : std::max(old, b);
}

// src: b, and c for compare-and-swap; dst: the old value, for atom.
void atomic(Warp& warp, const Instruction& in, uint32_t mask) {
  LaneAddresses a = addresses(warp, in.address, in.address_bytes, in.offset, mask);
  const AccessPlan plan = plan_of(in, AccessKind::kAtomic);
  const int bytes = size_of(in.type);
  uint32_t defined = mask;
  for (int i = 0; i < in.sources; ++i) defined &= warp.defined[in.src[i]];
  // The lanes' order is not given.
  const bool backwards = warp.launch->random() & 1;
  by_space(warp, in, a, mask, [&](Space space, uint32_t lanes) {
    if (space != Space::kGlobal && space != Space::kShared) {
      warp.launch->report(ReportClass::kWrongSpace, warp, std::countr_zero(lanes),
                          "an atomic on local or parameter memory");
      throw LaunchFault{Fault::kIllegalAddress};
    }
    uint8_t* place[kLanes];
    locate(warp, space, a, lanes, plan, place);
    if (space == Space::kGlobal && (lanes & ~defined))
      report_undefined_store(warp, in, lanes & ~defined);
    for (int i = 0; i < kLanes; ++i) {
      const int l = backwards ? kLanes - 1 - i : i;
      const uint32_t lane = 1u << l;
      if (!(lanes & lane)) continue;
      observe(warp, space, a.at[l], l, in.semantics, in.scope);
      // As a write it meets every conflict; as a read it only asks whether the value was ever set.
      const uint32_t written = written_lanes(warp, space, a, lane, plan);
      uint64_t old = 0;
      std::memcpy(&old, place[l], static_cast<size_t>(bytes));
      const uint64_t b = read_lane(warp, in.src[0], bytes, l);
      const uint64_t c = in.sources > 1 ? read_lane(warp, in.src[1], bytes, l) : 0;
      const uint64_t result = atomic_result(in, old, b, c);
      check_store(warp, space, a, lane, plan, 0,
                  in.sub == kExch ? defined & lane : defined & written & lane);
      publish(warp, space, a.at[l], l, in.semantics, in.scope, true);
      warp.launch->progress += std::memcmp(place[l], &result, static_cast<size_t>(bytes)) != 0;
      std::memcpy(place[l], &result, static_cast<size_t>(bytes));
      if (in.destinations) {
        write_lane(warp, in.dst[0], bytes, l, old);
        uint32_t& known = warp.defined[in.dst[0]];
        known = (known & ~lane) | written;
        if (!written) warp.origin[in.dst[0]] = static_cast<uint32_t>(warp.pc) + 1;
      }
    }
  });
  if (in.semantics == Semantics::kRelease || in.semantics == Semantics::kAcqRel)
    warp.advance_clock();
}

Scope scope_of(Builder& b, Scope otherwise) {
  if (b.has("cta")) return Scope::kCta;
  if (b.has("cluster")) return Scope::kCluster;
  if (b.has("gpu") || b.has("gl")) return Scope::kGpu;
  if (b.has("sys")) return Scope::kSys;
  return otherwise;
}

Space space_of(Builder& b) {
  if (b.has("global")) return Space::kGlobal;
  if (b.has("shared::cluster")) return Space::kSharedCluster;
  if (b.has("shared") || b.has("shared::cta")) return Space::kShared;
  if (b.has("local")) return Space::kLocal;
  if (b.has("const")) return Space::kConst;
  if (b.has("param") || b.has("param::entry") || b.has("param::func")) return Space::kParam;
  return Space::kGeneric;
}

void semantics_of(Builder& b) {
  Instruction& in = b.in;
  if (b.has("volatile")) {
    in.semantics = Semantics::kVolatile;
    in.scope = Scope::kSys;
  }
  if (b.has("relaxed")) in.semantics = Semantics::kRelaxed;
  if (b.has("acquire")) in.semantics = Semantics::kAcquire;
  if (b.has("release")) in.semantics = Semantics::kRelease;
  if (b.has("acq_rel")) in.semantics = Semantics::kAcqRel;
  if (in.semantics >= Semantics::kRelaxed) in.scope = scope_of(b, Scope::kGpu);
}

template <class R>
Execute parameter_loader(const Instruction& in) {
  switch (in.type) {
    case Type::kS8:
      return load_parameter<int8_t, R>;
    case Type::kS16:
      return load_parameter<int16_t, R>;
    case Type::kS32:
      return load_parameter<int32_t, R>;
    default:
      break;
  }
  switch (size_of(in.type)) {
    case 1:
      return load_parameter<uint8_t, R>;
    case 2:
      return load_parameter<uint16_t, R>;
    case 4:
      return load_parameter<uint32_t, R>;
    default:
      return load_parameter<uint64_t, R>;
  }
}

void check_vector(Builder& b, size_t operand) {
  const int n = b.has("v8") ? 8 : b.has("v4") ? 4 : b.has("v2") ? 2 : 1;
  if (b.vector_size(operand) != static_cast<size_t>(n)) b.fail("vector of the wrong length");
  if (size_of(b.in.type) * n > 32) b.fail("an access of more than 32 bytes");
  b.in.vector = static_cast<uint8_t>(n);
}

}  // namespace

namespace build {

void load(Builder& b) {
  Instruction& in = b.in;
  in.space = space_of(b);
  b.operands();
  check_vector(b, 0);
  semantics_of(b);
  if (b.has("nc")) in.flags |= kNonCoherent;
  in.sources = 0;  // a cache policy means nothing here
  in.tracks_definedness = true;
  if (in.space == Space::kParam && in.address < 0) {
    const uint64_t end =
        static_cast<uint64_t>(in.offset) + static_cast<uint64_t>(size_of(in.type)) * in.vector;
    if (in.offset < 0 || end > b.linker().kernel().parameter_bytes)
      b.fail("outside of the parameters");
    switch (in.register_bytes) {
      case 1:
        return b.execute(parameter_loader<uint8_t>(in));
      case 2:
        return b.execute(parameter_loader<uint16_t>(in));
      case 4:
        return b.execute(parameter_loader<uint32_t>(in));
      default:
        return b.execute(parameter_loader<uint64_t>(in));
    }
  }
  b.execute(emulator::load);
}

void store(Builder& b) {
  Instruction& in = b.in;
  in.space = space_of(b);
  b.operands();
  check_vector(b, 1);
  semantics_of(b);
  in.sources = in.vector;
  // Constants take the width of the element; registers may be wider.
  if (in.register_bytes < size_of(in.type))
    in.register_bytes = static_cast<uint8_t>(size_of(in.type));
  in.tracks_definedness = true;
  if (in.space == Space::kParam) b.fail("the kernel's parameters cannot be written");
  b.execute(emulator::store);
}

void atomic(Builder& b) {
  Instruction& in = b.in;
  in.space = space_of(b);
  b.operands();
  semantics_of(b);
  if (in.semantics == Semantics::kWeak) in.semantics = Semantics::kRelaxed;
  in.scope = scope_of(b, Scope::kGpu);
  in.sub = static_cast<uint8_t>(
      b.which({"add", "min", "max", "exch", "cas", "and", "or", "xor", "inc", "dec"}));
  in.sources = in.sub == kCas ? 2 : 1;
  in.tracks_definedness = true;
  b.execute(emulator::atomic);
}

void fence(Builder& b) {
  b.operands();
  b.in.scope = scope_of(b, Scope::kGpu);
  b.in.tracks_definedness = true;
  b.execute([](Warp& warp, const Instruction& in, uint32_t mask) {
    emulator::fence(warp, mask, in.scope);
  });
}

void no_effect(Builder& b) {
  b.operands();
  b.in.sources = 0;
  b.in.tracks_definedness = true;
  b.execute([](Warp&, const Instruction&, uint32_t) {});
}

// A cache policy is an opaque word that only loads and stores take, and here they ignore it.
void policy(Builder& b) {
  b.operands();
  b.in.sources = 0;
  b.execute([](Warp& warp, const Instruction& in, uint32_t mask) {
    each_lane<uint64_t>(warp, in.dst[0], mask, [](int) { return uint64_t{0}; });
  });
}

}  // namespace build
}  // namespace gptoss::emulator
