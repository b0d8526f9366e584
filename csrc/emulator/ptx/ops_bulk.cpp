// mbarrier, bulk copies in one dimension, the fence between proxies, elect.
#include <bit>
#include <cstring>

#include "emulator/ptx/access.h"
#include "emulator/ptx/builder.h"
#include "emulator/ptx/bulk.h"
#include "emulator/ptx/lanes.h"
#include "emulator/ptx/linker.h"

namespace gptoss::emulator {
namespace {

constexpr uint32_t kMostArrivals = (1u << 20) - 1;
constexpr int64_t kMostBytes = (1 << 20) - 1;
constexpr uint64_t kBulkAlignment = 16;

// Threads use an mbarrier as they use an atomic; its first and last use are plain writes. Arrivals
// count as reads, so that the first of them does not hide the initialisation from the others.
constexpr AccessPlan barrier_plan(AccessKind kind) {
  return {kind, kMbarrierBytes, kind == AccessKind::kStore ? Scope::kNone : Scope::kCta, false};
}

void refuse(Warp& warp, int lane, const std::string& message) {
  warp.launch->report(ReportClass::kMbarrier, warp, lane, message);
  throw LaunchFault{Fault::kIllegalInstruction};
}

// Addresses in shared memory, of an instruction that may have generic ones.
LaneAddresses shared_addresses(Warp& warp, const Instruction& in, uint32_t mask) {
  LaneAddresses a = addresses(warp, in.address, in.address_bytes, in.offset, mask);
  if (in.space != Space::kGeneric) return a;
  for (uint32_t rest = mask; rest; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    if (resolve(a.at[l]) == Space::kShared) continue;
    warp.launch->report(ReportClass::kWrongSpace, warp, l, "an mbarrier outside of shared memory");
    throw LaunchFault{Fault::kIllegalAddress};
  }
  return a;
}

void check_barrier(Warp& warp, const LaneAddresses& a, uint32_t mask, AccessKind kind) {
  uint8_t* place[kLanes];
  locate(warp, Space::kShared, a, mask, barrier_plan(kind), place);
  check_races(warp, Space::kShared, a, mask, barrier_plan(kind), 0);
}

LaneAddresses barrier_addresses(Warp& warp, const Instruction& in, uint32_t mask, AccessKind kind) {
  const LaneAddresses a = shared_addresses(warp, in, mask);
  check_barrier(warp, a, mask, kind);
  return a;
}

void need_defined(Warp& warp, uint32_t reg, uint32_t mask, const char* what) {
  if (const uint32_t bad = mask & ~warp.defined[reg])
    warp.launch->report(ReportClass::kUninitialisedOperand, warp, std::countr_zero(bad),
                        std::string(what) + " was never set");
}

void init(Warp& warp, const Instruction& in, uint32_t mask) {
  const LaneAddresses a = barrier_addresses(warp, in, mask, AccessKind::kStore);
  need_defined(warp, in.src[0], mask, "the number of arrivals");
  for (uint32_t rest = mask; rest; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    const auto address = static_cast<uint32_t>(a.at[l]);
    const uint32_t count = warp.reg<uint32_t>(in.src[0])[l];
    if (count == 0 || count > kMostArrivals)
      refuse(warp, l, "an mbarrier for " + std::to_string(count) + " arrivals");
    uint8_t* const state = &warp.cta->shared_state[address];
    uint8_t any = 0;
    for (uint32_t i = 0; i < kMbarrierBytes; ++i) any |= state[i];
    if (any & Cta::kMbarrier) refuse(warp, l, "an mbarrier is initialised where one is");
    if (any & Cta::kInFlight) report_state(warp, address, l, barrier_plan(AccessKind::kStore), any);
    std::memset(state, Cta::kMbarrier | Cta::kWritten, kMbarrierBytes);
    std::memset(&warp.cta->shared[address], kPoison, kMbarrierBytes);
    MBarrier& barrier = warp.cta->mbarriers[address];
    barrier.expected = barrier.pending = count;
    barrier.agent = warp.launch->make_agent(*warp.cta);
    barrier.pc = warp.pc;
  }
}

void inval(Warp& warp, const Instruction& in, uint32_t mask) {
  const LaneAddresses a = barrier_addresses(warp, in, mask, AccessKind::kStore);
  for (uint32_t rest = mask; rest; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    find_mbarrier(warp, static_cast<uint32_t>(a.at[l]), l);
    invalidate(warp, static_cast<uint32_t>(a.at[l]), l);
  }
}

// What a lane has done and knows, for those who wait: at an mbarrier of another block with the
// cluster's scope only.
void release_to(Warp& warp, MBarrier& barrier, int lane, bool whole_warp, Scope scope) {
  const bool visits = warp.shared_cta != warp.cta;
  if (visits && scope < Scope::kCluster) return;
  VectorClock& arriving = visits ? barrier.visiting : barrier.arriving;
  arriving.join(warp.seen[lane]);
  (visits ? barrier.visiting_proxied : barrier.arriving_proxied).join(warp.proxied[lane]);
  if (whole_warp)
    arriving.know_warp(warp.slot, warp.clock);
  else
    arriving.know_lane(warp.slot, lane, warp.clock);
}

enum ArriveOp : uint8_t { kArrive, kArriveExpect, kExpect };

// The arrivals of lanes at mbarriers of one CTA.
void arrive_at(Warp& warp, const Instruction& in, uint32_t mask, const LaneAddresses& a) {
  check_barrier(warp, a, mask, AccessKind::kLoad);
  for (uint32_t rest = mask; rest; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    MBarrier& barrier = find_mbarrier(warp, static_cast<uint32_t>(a.at[l]), l);
    const uint32_t operand = in.sources ? warp.reg<uint32_t>(in.src[0])[l] : 1;
    if (in.destinations) {
      warp.reg<uint64_t>(in.dst[0])[l] = barrier.phase;
      warp.defined[in.dst[0]] |= 1u << l;
    }
    if (in.sub != kArrive) {
      barrier.bytes += operand;
      if (barrier.bytes > kMostBytes)
        refuse(warp, l, "an mbarrier that expects more than 2^20 - 1 bytes");
    }
    if (in.sub == kExpect) continue;
    // Where all arrive as one, all that they did is known.
    release_to(warp, barrier, l,
               mask == warp.live && warp.seen.is_uniform() && !(rest & (rest - 1)), in.scope);
    arrive(warp, barrier, l, in.sub == kArrive ? operand : 1);
    complete_phase(warp, barrier);
  }
}

// src[0]: arrivals, or bytes; dst[0]: the phase.
void arrive_at(Warp& warp, const Instruction& in, uint32_t mask) {
  LaneAddresses a = shared_addresses(warp, in, mask);
  if (in.sources) need_defined(warp, in.src[0], mask, "the operand of an mbarrier");
  by_owner(warp, a, mask, [&](uint32_t lanes) { arrive_at(warp, in, lanes, a); });
  warp.advance_clock();
}

// src[0]: the parity of a phase, or what an arrival gave; dst[0]: whether the phase is complete.
void test_wait(Warp& warp, const Instruction& in, uint32_t mask) {
  const LaneAddresses a = barrier_addresses(warp, in, mask, AccessKind::kLoad);
  need_defined(warp, in.src[0], mask, "the phase to wait for");
  uint32_t complete = 0;
  const MBarrier* first = nullptr;
  bool one_barrier = true;
  for (uint32_t rest = mask; rest; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    const MBarrier& barrier = find_mbarrier(warp, static_cast<uint32_t>(a.at[l]), l);
    one_barrier = one_barrier && (!first || first == &barrier);
    first = &barrier;
    const bool by_parity = in.sub == 0;
    const bool done = by_parity ? (barrier.phase & 1) != (warp.reg<uint32_t>(in.src[0])[l] & 1)
                                : barrier.phase > warp.reg<uint64_t>(in.src[0])[l];
    complete |= static_cast<uint32_t>(done) << l;
    if (!done) warp.polled_mbarrier = static_cast<int64_t>(a.at[l]);
  }
  if (complete == warp.live && one_barrier && warp.seen.is_uniform() && warp.proxied.is_uniform()) {
    warp.seen.shared().join(first->done);
    warp.proxied.shared().join(first->done_proxied);
    if (in.scope >= Scope::kCluster) {
      warp.seen.shared().join(first->visited);
      warp.proxied.shared().join(first->visited_proxied);
    }
  } else {
    for (uint32_t rest = complete; rest; rest &= rest - 1) {
      const int l = std::countr_zero(rest);
      const MBarrier& barrier = find_mbarrier(warp, static_cast<uint32_t>(a.at[l]), l);
      warp.seen.own(l).join(barrier.done);
      warp.proxied.own(l).join(barrier.done_proxied);
      if (in.scope < Scope::kCluster) continue;
      warp.seen.own(l).join(barrier.visited);
      warp.proxied.own(l).join(barrier.visited_proxied);
    }
  }
  warp.set_predicate(in.dst[0], complete, mask);
  warp.defined[in.dst[0]] |= mask;
}

void arrive_with_copies(Warp& warp, const Instruction& in, uint32_t mask) {
  const LaneAddresses a = barrier_addresses(warp, in, mask, AccessKind::kLoad);
  for (uint32_t rest = mask; rest; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    start_arrival(warp, l, static_cast<uint32_t>(a.at[l]));
  }
  warp.advance_clock();
}

// flags: which of the state spaces are fenced.
enum FencedSpace : uint32_t { kFencesShared = 1, kFencesGlobal = 2 };

void fence_proxy(Warp& warp, const Instruction& in, uint32_t mask) {
  const auto each_space = [&in](ProxyClock& proxied, auto fence) {
    if (in.flags & kFencesShared) fence(proxied.in_shared);
    if (in.flags & kFencesGlobal) fence(proxied.in_global);
  };
  // What is fenced everywhere leaves nothing that single lanes know for themselves.
  const bool for_all = mask == warp.live && warp.seen.is_uniform();
  if (for_all && in.flags == (kFencesShared | kFencesGlobal)) warp.proxied.make_uniform();
  if (for_all && warp.proxied.is_uniform()) {
    each_space(warp.proxied.shared(), [&warp](VectorClock& fenced) {
      fenced = warp.seen.shared();
      fenced.know_warp(warp.slot, warp.clock);
    });
  } else {
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
      const int l = std::countr_zero(rest);
      each_space(warp.proxied.own(l), [&warp, l](VectorClock& fenced) {
        fenced.join(warp.seen[l]);
        fenced.know_lane(warp.slot, l, warp.clock);
      });
    }
  }
  warp.advance_clock();
}

void fence_inits(Warp& warp, const Instruction&, uint32_t mask) {
  for (uint32_t rest = mask; rest; rest &= rest - 1)
    warp.fenced_inits.know_lane(warp.slot, std::countr_zero(rest), warp.clock);
  warp.advance_clock();
}

// One lane of the member mask; always the same, but not always the first.
void elect(Warp& warp, const Instruction& in, uint32_t mask) {
  const uint64_t seed = warp.launch->options.seed;
  int skip = static_cast<int>((seed * 0x9e3779b97f4a7c15ull + mask) >> 40) % std::popcount(mask);
  if (!seed) skip = 0;
  uint32_t rest = mask;
  while (skip--) rest &= rest - 1;
  const auto leader = static_cast<uint32_t>(std::countr_zero(rest));
  each_lane<uint32_t>(warp, in.dst[0], mask, [=](int) { return leader; });
  warp.set_predicate(in.dst[1], 1u << leader, mask);
  for (int i = 0; i < 2; ++i) warp.defined[in.dst[i]] |= mask;
}

// ---- copies ----

uint64_t mbarrier_of(Warp& warp, const Instruction& in, int source, int lane) {
  return warp.reg<uint32_t>(in.src[source])[lane] + static_cast<uint32_t>(in.immediate);
}

// One side of a bulk copy: alignment, size and bounds.
void check_bulk(Warp& warp, int lane, Space space, uint64_t address, uint32_t bytes,
                AccessKind kind) {
  check_alignment(warp, space, address, kBulkAlignment, lane);
  if (bytes % kBulkAlignment) {
    warp.launch->report(ReportClass::kMisaligned, warp, lane,
                        "a bulk copy of " + std::to_string(bytes) + " bytes: a multiple of 16");
    throw LaunchFault{Fault::kMisalignedAddress};
  }
  if (bytes) check_range(warp, space, address, bytes, lane, kind, warp.pc);
}

// Of a copy between shared memory and the other side, which is read or written as `on_other` says:
// global memory, or the shared memory from which a copy goes to that of another CTA.
std::vector<BulkCopy::Piece> linear_pieces(Warp& warp, int lane, uint64_t shared, Space other_space,
                                           uint64_t other, uint32_t bytes, AccessKind on_other) {
  check_bulk(warp, lane, other_space, other, bytes, on_other);
  check_bulk(warp, lane, Space::kShared, shared, bytes,
             on_other == AccessKind::kLoad ? AccessKind::kStore : AccessKind::kLoad);
  std::vector<BulkCopy::Piece> pieces;
  pieces.reserve(bytes / kBulkAlignment);
  for (uint32_t i = 0; i < bytes; i += kBulkAlignment)
    pieces.push_back({other + i, static_cast<uint32_t>(shared + i), kBulkAlignment});
  return pieces;
}

// dst [address] in the cluster's shared memory, src [address2] in global memory or the CTA's own
// shared memory; src: bytes, mbarrier, and the ranks of a multicast where sub says so.
void bulk_to_shared(Warp& warp, const Instruction& in, uint32_t mask) {
  const LaneAddresses to = addresses(warp, in.address, in.address_bytes, in.offset, mask);
  const LaneAddresses from = addresses(warp, in.address2, in.address2_bytes, in.offset2, mask);
  need_defined(warp, in.src[0], mask, "the size of a copy");
  need_defined(warp, in.src[1], mask, "the mbarrier of a copy");
  for (uint32_t rest = mask; rest; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    const auto bytes = warp.reg<uint32_t>(in.src[0])[l];
    const BulkTarget target = bulk_target(warp, l, to.at[l], mbarrier_of(warp, in, 1, l));
    std::vector<BulkCopy::Piece> pieces =
        linear_pieces(warp, l, target.shared, in.space2, from.at[l], bytes, AccessKind::kLoad);
    if (in.sub)
      start_multicast(warp, l, target, warp.reg<uint16_t>(in.src[2])[l], pieces);
    else
      start_to_shared(
          warp, l, target, std::move(pieces),
          in.space2 == Space::kShared ? BulkCopy::Kind::kAcross : BulkCopy::Kind::kToShared);
  }
  warp.advance_clock();
}

// dst [address] in global memory, src [address2] in shared memory; src[0]: bytes.
void bulk_to_global(Warp& warp, const Instruction& in, uint32_t mask) {
  const LaneAddresses to = addresses(warp, in.address, in.address_bytes, in.offset, mask);
  const LaneAddresses from = addresses(warp, in.address2, in.address2_bytes, in.offset2, mask);
  need_defined(warp, in.src[0], mask, "the size of a copy");
  for (uint32_t rest = mask; rest; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    const auto bytes = warp.reg<uint32_t>(in.src[0])[l];
    start_to_global(
        warp, l,
        linear_pieces(warp, l, from.at[l], Space::kGlobal, to.at[l], bytes, AccessKind::kStore));
  }
  warp.advance_clock();
}

Space shared_or_generic(Builder& b) {
  if (b.has("shared::cluster")) return Space::kSharedCluster;
  return b.has("shared") || b.has("shared::cta") ? Space::kShared : Space::kGeneric;
}

void uses_async_proxy(Builder& b) {
  b.linker().kernel().uses_async_proxy = true;
  b.in.tracks_definedness = true;
}

}  // namespace

void mbarrier_operand(Builder& b, const Operand& operand) {
  if (operand.kind != Operand::Kind::kAddress || operand.parts.size() != 1)
    b.fail("expected the address of an mbarrier in brackets");
  b.source(operand.parts[0], Type::kU32, 4, false);
  b.in.immediate = operand.offset;
}

namespace build {

void mbarrier(Builder& b) {
  b.in.space = shared_or_generic(b);
  b.operands();
  uses_async_proxy(b);
  if (b.has("init")) return b.execute(init);
  if (b.has("inval")) return b.execute(inval);
  if (b.has("test_wait") || b.has("try_wait")) {
    b.in.sub = b.has("parity") ? 0 : 1;
    b.in.sources = 1;  // how long try_wait may sleep means nothing here
    b.in.flow = Flow::kPoll;
    b.in.scope = b.has("cluster") ? Scope::kCluster : Scope::kCta;
    return b.execute(test_wait);
  }
  b.in.scope = b.has("cluster") ? Scope::kCluster : Scope::kCta;
  if (b.in.space == Space::kSharedCluster && b.in.destinations &&
      b.statement().operands[0].name != "_")
    b.fail("an arrival in the cluster's shared memory gives no phase: _");
  b.in.sub = !b.has("expect_tx") ? kArrive : b.has("arrive") ? kArriveExpect : kExpect;
  b.execute(arrive_at);
}

void mbarrier_copies(Builder& b) {
  b.in.space = shared_or_generic(b);
  b.operands();
  uses_async_proxy(b);
  b.execute(arrive_with_copies);
}

void mbarrier_init_fence(Builder& b) {
  b.operands();
  uses_async_proxy(b);
  b.execute(fence_inits);
}

void proxy_fence(Builder& b) {
  b.operands();
  uses_async_proxy(b);
  const bool only_global = b.has("global");
  const bool only_shared = b.has("shared::cta") || b.has("shared::cluster");
  b.in.flags = (only_global ? 0u : kFencesShared) | (only_shared ? 0u : kFencesGlobal);
  b.execute(fence_proxy);
}

void elect(Builder& b) {
  b.operands();
  if (b.in.destinations != 2) b.fail("elect.sync needs a register and a predicate");
  b.in.converges = true;
  b.in.member_mask = 0;
  b.in.tracks_definedness = true;
  b.execute(emulator::elect);
}

void bulk_copy(Builder& b) {
  Instruction& in = b.in;
  const auto& operands = b.statement().operands;
  const bool to_global = b.has("bulk_group"), is_multicast = b.has("multicast::cluster");
  const bool across = !b.has("global");
  const size_t wanted =
      (to_global ? 3u : 4u) + (is_multicast ? 1u : 0u) + (b.has("L2::cache_hint") ? 1u : 0u);
  if (operands.size() != wanted)
    b.fail("a bulk copy of this form has " + std::to_string(wanted) + " operands");
  in.space = to_global ? Space::kGlobal : Space::kShared;
  in.space2 = to_global || across ? Space::kShared : Space::kGlobal;
  b.address(operands[0]);
  b.address(operands[1]);
  b.source(operands[2], Type::kU32, 4, false);
  if (!to_global) mbarrier_operand(b, operands[3]);
  if (is_multicast) b.source(operands[4], Type::kB16, 2, false);
  in.sub = is_multicast;
  uses_async_proxy(b);
  b.execute(to_global ? bulk_to_global : bulk_to_shared);
}

void bulk_group(Builder& b) {
  b.operands();
  uses_async_proxy(b);
  if (b.has("commit_group"))
    return b.execute([](Warp& warp, const Instruction&, uint32_t mask) {
      for (uint32_t rest = mask; rest; rest &= rest - 1)
        commit_bulk_group(warp, std::countr_zero(rest));
    });
  if (b.in.immediate < 0) b.fail("a negative number of groups");
  b.in.sub = b.has("read");
  b.execute([](Warp& warp, const Instruction& in, uint32_t mask) {
    for (uint32_t rest = mask; rest; rest &= rest - 1)
      wait_bulk_groups(warp, std::countr_zero(rest), static_cast<uint32_t>(in.immediate), in.sub);
  });
}

}  // namespace build
}  // namespace gptoss::emulator
