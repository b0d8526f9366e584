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

// ---- barrier.cluster ----

[[noreturn]] void refuse_in_cluster(Warp& warp, uint32_t lanes, const char* why) {
  warp.launch->report(ReportClass::kBarrierCount, warp, std::countr_zero(lanes), why);
  throw LaunchFault{Fault::kIllegalInstruction};
}

// sub: relaxed, which hands on what fences have made ready.
void arrive_in_cluster(Warp& warp, const Instruction& in, uint32_t mask) {
  if (const uint32_t twice = mask & (warp.cluster_arrived | warp.cluster_passed))
    refuse_in_cluster(warp, twice, "a second barrier.cluster.arrive without a wait between");
  Cluster& cluster = *warp.cta->cluster;
  const bool uniform = mask == warp.live && warp.seen.is_uniform() && warp.proxied.is_uniform();
  for (uint32_t rest = mask; rest; rest &= rest - 1) {
    const int lane = std::countr_zero(rest);
    if (in.sub) {
      const Fenced& fenced = warp.fenced[lane];
      if (fenced.scope < Scope::kCluster) continue;
      cluster.arriving.join(fenced.seen);
      cluster.arriving.know_lane(warp.slot, lane, fenced.clock);
      continue;
    }
    cluster.arriving.join(warp.seen[lane]);
    cluster.arriving_proxied.join(warp.proxied[lane]);
    if (uniform) {
      cluster.arriving.know_warp(warp.slot, warp.clock);
      break;
    }
    cluster.arriving.know_lane(warp.slot, lane, warp.clock);
  }
  cluster.arriving_inits.join(warp.fenced_inits);
  cluster.arriving_inits.join(warp.known_inits);
  warp.cluster_arrived |= mask;
  ++warp.launch->counters.barriers;
  warp.advance_clock();
  cluster.complete_barrier();
}

uint32_t wait_in_cluster(Warp& warp, const Instruction&, uint32_t mask) {
  if (const uint32_t none = mask & ~(warp.cluster_arrived | warp.cluster_passed))
    refuse_in_cluster(warp, none, "barrier.cluster.wait without an arrive before it");
  const uint32_t passing = mask & warp.cluster_passed;
  if (!passing) return 0;
  warp.cluster_passed &= ~passing;
  const Cluster& cluster = *warp.cta->cluster;
  if (passing == warp.live && warp.seen.is_uniform() && warp.proxied.is_uniform()) {
    warp.seen.shared().join(cluster.done);
    warp.proxied.shared().join(cluster.done_proxied);
  } else {
    for (uint32_t rest = passing; rest; rest &= rest - 1) {
      warp.seen.own(std::countr_zero(rest)).join(cluster.done);
      warp.proxied.own(std::countr_zero(rest)).join(cluster.done_proxied);
    }
  }
  warp.known_inits.join(cluster.done_inits);
  ++warp.launch->progress;
  return passing;
}

// ---- setmaxnreg ----

// That this warp is in step with its warpgroup: whoever changed registers before has been waited
// for, and changes them now like this one.
void check_register_change(Warp& warp, uint32_t mask) {
  const auto report = [&](const Warp* other, size_t change, const char* why) {
    warp.launch->report(
        ReportClass::kSetmaxnreg,
        warp.launch->site(warp, warp.pc, std::countr_zero(mask), "executed"),
        other ? warp.launch->site(*other, other->register_changes[change].pc, 0, "executed")
              : AccessSite{},
        why);
  };
  std::vector<Warp>& warps = warp.cta->warps;
  if (warps.size() % kWarpgroup || mask != kAllLanes)
    return report(nullptr, 0, "setmaxnreg is for whole warpgroups of 128 threads");
  const size_t count = warp.register_changes.size();
  const size_t first = static_cast<size_t>(warp.index) / kWarpgroup * kWarpgroup;
  for (size_t i = first; i < first + kWarpgroup; ++i) {
    const Warp& other = warps[i];
    if (&other == &warp) continue;
    const std::vector<Warp::RegisterChange>& theirs = other.register_changes;
    if (theirs.size() > count && theirs[count].pc != warp.pc)
      report(&other, count, "warps of one warpgroup execute different setmaxnreg");
    const bool is_known = count == 0 || (theirs.size() >= count &&
                                         warp.seen[std::countr_zero(mask)].covers_all(
                                             other.slot, kAllLanes, theirs[count - 1].clock));
    if (!is_known)
      report(theirs.empty() ? nullptr : &other, std::min(theirs.size(), count) - 1,
             "setmaxnreg again before all warps of the warpgroup have met behind the one before");
  }
}

// immediate: registers per thread; sub: 1 inc, which waits until so many are free.
uint32_t change_registers(Warp& warp, const Instruction& in, uint32_t mask) {
  if (!warp.registers_per_thread) return mask;
  const uint32_t have = warp.registers_per_thread, want = static_cast<uint32_t>(in.immediate);
  Cta& cta = *warp.cta;
  const uint32_t need = want > have ? (want - have) * kLanes : 0;
  if (in.sub && need > cta.free_registers) return 0;
  check_register_change(warp, mask);
  if (in.sub ? want < have : want > have)
    warp.launch->report(ReportClass::kSetmaxnreg, warp, std::countr_zero(mask),
                        std::string(in.sub ? "setmaxnreg.inc" : "setmaxnreg.dec") + " to " +
                            std::to_string(want) + " registers by a warp that has " +
                            std::to_string(have));
  warp.register_changes.push_back({warp.clock, warp.pc});
  warp.advance_clock();
  ++warp.launch->progress;
  if (in.sub) {
    cta.free_registers -= need;
    warp.registers_per_thread = std::max(have, want);
    return mask;
  }
  warp.registers_per_thread = std::min(have, want);
  cta.free_registers += (have - warp.registers_per_thread) * kLanes;
  for (Warp& other : cta.warps)
    if (&other != &warp) other.wake();
  return mask;
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
    b.in.flow = Flow::kAwait;
    b.in.may_go_on = [](Warp& warp, const Instruction&, uint32_t mask) {
      return warp.launch->await_prerequisites(warp, mask) ? mask : 0;
    };
    return;
  }
  b.in.tracks_definedness = true;
  b.execute(
      [](Warp& warp, const Instruction&, uint32_t) { warp.launch->launch_dependents(*warp.cta); });
}

void cluster_barrier(Builder& b) {
  b.operands();
  b.in.converges = b.has("aligned");
  b.in.tracks_definedness = true;
  if (b.has("arrive")) {
    b.in.sub = b.has("relaxed");
    return b.execute(arrive_in_cluster);
  }
  b.in.flow = Flow::kAwait;
  b.in.may_go_on = wait_in_cluster;
}

void set_registers(Builder& b) {
  b.operands();
  const int64_t count = b.in.immediate;
  if (count < 24 || count > 256 || count % 8)
    b.fail("setmaxnreg takes a multiple of 8 from 24 to 256");
  b.in.sub = b.has("inc");
  b.in.converges = true;
  b.in.tracks_definedness = true;
  b.in.flow = Flow::kAwait;
  b.in.may_go_on = change_registers;
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
