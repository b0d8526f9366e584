// Branches, exits, barriers, and the instructions in which lanes of a warp meet.
#include <algorithm>
#include <bit>

#include "emulator/ptx/builder.h"
#include "emulator/ptx/lanes.h"
#include "emulator/ptx/linker.h"

namespace gptoss::emulator {
namespace {

void set_defined(Warp& warp, uint32_t d, uint32_t mask, uint32_t ok) {
  warp.defined[d] = (warp.defined[d] & ~mask) | (mask & ok);
}

// src: value, b, c, member mask
void shfl(Warp& warp, const Instruction& in, uint32_t mask) {
  const uint32_t* value = warp.reg<uint32_t>(in.src[0]);
  const uint32_t* b_of = warp.reg<uint32_t>(in.src[1]);
  const uint32_t* c_of = warp.reg<uint32_t>(in.src[2]);
  uint32_t out[kLanes];
  uint32_t in_range = 0, defined = 0;
  const uint32_t operands_defined =
      warp.defined[in.src[1]] & warp.defined[in.src[2]] & warp.defined[in.src[3]];
  for (int l = 0; l < kLanes; ++l) {
    if (!(mask >> l & 1)) continue;
    const int b = static_cast<int>(b_of[l] & 31);
    const int clamp = static_cast<int>(c_of[l] & 31), segment = static_cast<int>(c_of[l] >> 8 & 31);
    const int highest = (l & segment) | (clamp & ~segment), lowest = l & segment;
    int from;
    bool ok;
    switch (in.sub) {
      case 0:
        from = lowest | (b & ~segment);
        ok = from <= highest;
        break;
      case 1:
        from = l - b;
        ok = from >= highest;
        break;
      case 2:
        from = l + b;
        ok = from <= highest;
        break;
      default:
        from = l ^ b;
        ok = from <= highest;
        break;
    }
    if (!ok) from = l;
    from &= 31;
    const bool there = mask >> from & 1;
    if (!there)
      warp.launch->report(
          ReportClass::kShuffleInactiveLane, warp, l,
          "a shuffle reads lane " + std::to_string(from) + ", which does not take part");
    out[l] = value[from];
    in_range |= static_cast<uint32_t>(ok) << l;
    if (there && (warp.defined[in.src[0]] >> from & 1)) defined |= 1u << l;
  }
  defined &= operands_defined;
  uint32_t* d = warp.reg<uint32_t>(in.dst[0]);
  for (int l = 0; l < kLanes; ++l)
    if (mask >> l & 1) d[l] = out[l];
  set_defined(warp, in.dst[0], mask, defined);
  if (mask & ~defined) warp.origin[in.dst[0]] = warp.origin[in.src[0]];
  if (in.destinations > 1) {
    warp.set_predicate(in.dst[1], in_range, mask);
    set_defined(warp, in.dst[1], mask, operands_defined);
  }
}

// All lanes get one result, which is defined where all the inputs are.
void set_common_definedness(Warp& warp, const Instruction& in, uint32_t mask) {
  uint32_t ok = kAllLanes;
  for (int i = 0; i < in.sources; ++i) ok &= warp.defined[in.src[i]];
  const bool all = !(mask & ~ok);
  for (int i = 0; i < in.destinations; ++i) {
    set_defined(warp, in.dst[i], mask, all ? kAllLanes : 0);
    if (!all) warp.origin[in.dst[i]] = warp.origin[in.src[0]];
  }
}

// sub: 0 all, 1 any, 2 uni, 3 ballot
void vote(Warp& warp, const Instruction& in, uint32_t mask) {
  const uint32_t holds = warp.source_predicate(in, 0) & mask;
  set_common_definedness(warp, in, mask);
  if (in.sub == 3) {
    each_lane<uint32_t>(warp, in.dst[0], mask, [=](int) { return holds; });
    return;
  }
  const bool result = in.sub == 0   ? holds == mask
                      : in.sub == 1 ? holds != 0
                                    : holds == mask || holds == 0;
  warp.set_predicate(in.dst[0], result ? kAllLanes : 0, mask);
}

template <class T>
void match(Warp& warp, const Instruction& in, uint32_t mask) {
  const T* value = warp.reg<T>(in.src[0]);
  set_common_definedness(warp, in, mask);
  uint32_t out[kLanes];
  bool all_equal = true;
  for (int l = 0; l < kLanes; ++l) {
    if (!(mask >> l & 1)) continue;
    out[l] = 0;
    for (int k = 0; k < kLanes; ++k)
      if ((mask >> k & 1) && value[k] == value[l]) out[l] |= 1u << k;
    all_equal = all_equal && out[l] == mask;
  }
  uint32_t* d = warp.reg<uint32_t>(in.dst[0]);
  for (int l = 0; l < kLanes; ++l)
    if (mask >> l & 1) d[l] = in.sub ? (all_equal ? mask : 0) : out[l];
  if (in.destinations > 1) warp.set_predicate(in.dst[1], all_equal ? kAllLanes : 0, mask);
}

// sub: 0 add, 1 min, 2 max, 3 and, 4 or, 5 xor
void redux(Warp& warp, const Instruction& in, uint32_t mask) {
  const uint32_t* value = warp.reg<uint32_t>(in.src[0]);
  const bool by_sign = in.type == Type::kS32;
  const auto less = [by_sign](uint32_t a, uint32_t b) {
    return by_sign ? static_cast<int32_t>(a) < static_cast<int32_t>(b) : a < b;
  };
  set_common_definedness(warp, in, mask);
  uint32_t result = value[std::countr_zero(mask)];
  for (uint32_t rest = mask & (mask - 1); rest; rest &= rest - 1) {
    const uint32_t v = value[std::countr_zero(rest)];
    switch (in.sub) {
      case 0:
        result += v;
        break;
      case 1:
        result = less(v, result) ? v : result;
        break;
      case 2:
        result = less(result, v) ? v : result;
        break;
      case 3:
        result &= v;
        break;
      case 4:
        result |= v;
        break;
      default:
        result ^= v;
        break;
    }
  }
  each_lane<uint32_t>(warp, in.dst[0], mask, [=](int) { return result; });
}

void converge_on(Instruction& in, int member_mask) {
  in.converges = true;
  in.member_mask = static_cast<int8_t>(member_mask);
  in.tracks_definedness = true;
}

}  // namespace

namespace build {

void branch(Builder& b) {
  const auto& operands = b.statement().operands;
  if (operands.size() != 1 || operands[0].kind != Operand::Kind::kName)
    b.fail("a branch needs a label");
  b.in.flow = Flow::kBranch;
  b.linker().branch_to(operands[0].name, b.statement().position.line);
}

void leave(Builder& b) {
  b.operands();
  if (b.opcode() == "ret" && b.linker().is_inlined()) {
    b.in.flow = Flow::kBranch;
    b.linker().branch_to_end();
    return;
  }
  b.in.flow = Flow::kExit;
}

void trap(Builder& b) {
  b.operands();
  b.in.tracks_definedness = true;
  b.execute([](Warp& warp, const Instruction&, uint32_t mask) {
    warp.launch->report(ReportClass::kTrap, warp, std::countr_zero(mask), "the kernel traps");
    throw LaunchFault{Fault::kTrap};
  });
}

void barrier(Builder& b) {
  Instruction& in = b.in;
  const auto& operands = b.statement().operands;
  const bool reduces = b.has("red");
  size_t at = 0;
  if (reduces) {
    if (operands.size() < 3) b.fail("too few operands");
    b.destination(operands[at++], b.has("popc") ? 4 : 0, false);
    in.sub = static_cast<uint8_t>(b.which({"popc", "and", "or"}));
  }
  const size_t end = operands.size() - (reduces ? 1 : 0);
  if (at >= end) b.fail("a barrier needs its number");
  b.source(operands[at++], Type::kU32, 4, false);
  if (at < end) {
    b.source(operands[at++], Type::kU32, 4, false);
    in.flags |= 1;
  }
  if (at != end) b.fail("too many operands");
  if (reduces) {
    if (operands[end].negated) in.negated |= static_cast<uint16_t>(1u << in.sources);
    b.source(operands[end], Type::kPred, 0, false);
  }
  if (b.has("arrive")) {
    if (!(in.flags & 1)) b.fail("arrive needs the number of threads");
    in.flags |= 2;
  }
  in.flow = Flow::kBarrier;
  // bar.* is for whole warps; barrier.* without .aligned takes lanes as they come.
  in.converges = b.opcode() == "bar" || b.has("aligned");
}

void grid_dependency(Builder& b) {
  b.operands();
  if (b.has("wait")) {
    b.in.flow = Flow::kAwaitGrids;
    return;
  }
  b.in.tracks_definedness = true;
  b.execute(
      [](Warp& warp, const Instruction&, uint32_t) { warp.launch->launch_dependents(*warp.cta); });
}

void warp_barrier(Builder& b) {
  b.operands();
  converge_on(b.in, 0);
  b.execute([](Warp& warp, const Instruction&, uint32_t mask) { warp.know_each_other(mask); });
}

void shuffle(Builder& b) {
  b.operands();
  converge_on(b.in, 3);
  b.in.sub = static_cast<uint8_t>(b.which({"idx", "up", "down", "bfly"}));
  b.execute(shfl);
}

void vote(Builder& b) {
  b.operands();
  converge_on(b.in, 1);
  b.in.sub = static_cast<uint8_t>(b.which({"all", "any", "uni", "ballot"}));
  b.execute(emulator::vote);
}

void match(Builder& b) {
  b.operands();
  converge_on(b.in, 1);
  b.in.sub = b.has("all");
  b.execute(size_of(b.in.type) == 8 ? emulator::match<uint64_t> : emulator::match<uint32_t>);
}

void reduce(Builder& b) {
  b.operands();
  converge_on(b.in, 1);
  b.in.sub = static_cast<uint8_t>(b.which({"add", "min", "max", "and", "or", "xor"}));
  b.execute(redux);
}

void active_mask(Builder& b) {
  b.operands();
  b.execute([](Warp& warp, const Instruction& in, uint32_t mask) {
    each_lane<uint32_t>(warp, in.dst[0], mask, [=](int) { return mask; });
  });
}

}  // namespace build
}  // namespace gptoss::emulator
