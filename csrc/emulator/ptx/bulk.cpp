#include "emulator/ptx/bulk.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "emulator/ptx/access.h"

namespace gptoss::emulator {
namespace {

using Kind = BulkCopy::Kind;
using Piece = BulkCopy::Piece;

// Calls f(address, bytes) for parts of at most 16 bytes that are aligned to their size.
template <class F>
void each_part(uint64_t address, uint64_t bytes, F f) {
  while (bytes) {
    uint64_t part = std::min<uint64_t>(16, std::bit_floor(bytes));
    if (address) part = std::min<uint64_t>(part, 1ull << std::countr_zero(address));
    f(address, static_cast<uint32_t>(part));
    address += part;
    bytes -= part;
  }
}

Access access_of_copy(const BulkCopy& copy, const Agent& agent, Space space) {
  Access access;
  access.slot = agent.slot;
  access.lane = copy.lane;
  access.clock = agent.clock(copy.batch);
  access.pc = static_cast<uint32_t>(copy.pc);
  access.seen = &copy.seen;
  access.proxied = space == Space::kShared ? &copy.proxied.in_shared : &copy.proxied.in_global;
  access.slot_begin = copy.warp->launch->chain.slot_begin.data();
  access.first_slot_of_cta = copy.warp->cta->first_slot;
  access.slots_per_cta = copy.warp->launch->warps_per_cta;
  return access;
}

void check_copy_races(const BulkCopy& copy, const Agent& agent, Space space, uint64_t address,
                      uint64_t bytes, AccessKind kind) {
  Warp& warp = *copy.warp;
  Launch& launch = *warp.launch;
  if (!launch.options.check_races) return;
  const Access access = access_of_copy(copy, agent, space);
  Allocation* const allocation = space == Space::kShared ? nullptr : launch.memory.nearest(address);
  each_part(address, bytes, [&](uint64_t at, uint32_t part) {
    Shadow& shadow = allocation ? allocation->shadow : warp.cta->shadow;
    const uint64_t offset = allocation ? allocation->shadow_offset(at) : at;
    const Conflict c = kind == AccessKind::kLoad ? shadow.read(offset, part, access)
                                                 : shadow.write(offset, part, access);
    if (c)
      report_conflict(warp, space, at, copy.lane, c, {kind, part, Scope::kNone, false}, false,
                      copy.pc);
  });
}

BulkCopy make_copy(Warp& warp, int lane, Kind kind) {
  BulkCopy copy;
  copy.kind = kind;
  copy.warp = &warp;
  copy.lane = lane;
  copy.pc = warp.pc;
  copy.seen = warp.seen[lane];
  copy.seen.know_lane(warp.slot, lane, warp.clock);
  copy.proxied = warp.proxied[lane];
  return copy;
}

uint8_t* global_bytes(Launch& launch, uint64_t address, Allocation*& allocation) {
  allocation = launch.memory.nearest(address);
  return allocation->bytes + (address - allocation->base);
}

// Reads the shared memory of a copy to global memory, once.
void read_source(BulkCopy& copy) {
  if (!copy.data.empty()) return;
  const Cta& cta = *copy.warp->cta;
  for (const Piece& piece : copy.pieces)
    copy.data.insert(copy.data.end(), &cta.shared[piece.shared],
                     &cta.shared[piece.shared] + piece.bytes);
}

void write_target(BulkCopy& copy) {
  Launch& launch = *copy.warp->launch;
  Cta& cta = *copy.warp->cta;
  const BulkGroups& groups = copy.warp->bulk[copy.lane];
  size_t at = 0;
  bool reported = false;
  for (const Piece& piece : copy.pieces) {
    Allocation* allocation;
    uint8_t* const to = global_bytes(launch, piece.global, allocation);
    check_copy_races(copy, groups.writes, Space::kGlobal, piece.global, piece.bytes,
                     AccessKind::kStore);
    std::memcpy(to, &copy.data[at], piece.bytes);
    for (uint32_t i = 0; i < piece.bytes; ++i) {
      const bool written = cta.shared_state[piece.shared + i] & Cta::kWritten;
      if (!allocation->written.empty())
        allocation->written[piece.global - allocation->base + i] = written;
      if (!written && !reported) {
        reported = true;
        launch.report(ReportClass::kUninitialisedStore,
                      launch.site(*copy.warp, copy.pc, copy.lane, "asynchronous copy"),
                      AccessSite{}, "shared memory that was never written is copied out");
      }
    }
    at += piece.bytes;
  }
}

void land_to_shared(const BulkCopy& copy) {
  Warp& warp = *copy.warp;
  Cta& cta = *warp.cta;
  MBarrier& barrier = cta.mbarriers.at(copy.mbarrier);
  for (const Piece& piece : copy.pieces) {
    uint8_t* const to = &cta.shared[piece.shared];
    uint8_t* const state = &cta.shared_state[piece.shared];
    if (piece.global) {
      check_copy_races(copy, barrier.agent, Space::kGlobal, piece.global, piece.bytes,
                       AccessKind::kLoad);
      Allocation* from;
      std::memcpy(to, global_bytes(*warp.launch, piece.global, from), piece.bytes);
      const uint64_t offset = piece.global - from->base;
      for (uint32_t i = 0; i < piece.bytes; ++i)
        state[i] = from->written.empty() || from->written[offset + i] ? Cta::kWritten : 0;
    } else {
      std::memset(to, 0, piece.bytes);
      std::memset(state, Cta::kWritten, piece.bytes);
    }
  }
  barrier.bytes -= static_cast<int64_t>(copy.bytes);
  const uint32_t clock = barrier.agent.clock(copy.batch);
  barrier.arriving.know_warp(barrier.agent.slot, clock);
  barrier.arriving_proxied.know_warp(barrier.agent.slot, clock);
  complete_phase(warp, barrier);
}

}  // namespace

MBarrier& find_mbarrier(Warp& warp, uint32_t address, int lane) {
  const auto found = warp.cta->mbarriers.find(address);
  if (found != warp.cta->mbarriers.end()) return found->second;
  warp.launch->report(
      ReportClass::kMbarrier, warp, lane,
      "there is no mbarrier at shared address " + std::to_string(address) + " (mbarrier.init)");
  throw LaunchFault{Fault::kIllegalInstruction};
}

void complete_phase(Warp& warp, MBarrier& barrier) {
  ++warp.launch->progress;
  if (barrier.pending || barrier.bytes) return;
  ++barrier.phase;
  barrier.pending = barrier.expected;
  barrier.done = barrier.arriving;
  barrier.done_proxied = barrier.arriving_proxied;
}

void arrive(Warp& warp, MBarrier& barrier, int lane, uint32_t count) {
  if (count > barrier.pending) {
    warp.launch->report(ReportClass::kMbarrier, warp, lane,
                        std::to_string(count) + " arrivals at an mbarrier that expects " +
                            std::to_string(barrier.pending) + " more of " +
                            std::to_string(barrier.expected) + " in this phase");
    throw LaunchFault{Fault::kIllegalInstruction};
  }
  barrier.pending -= count;
}

void start_to_shared(Warp& warp, int lane, uint32_t mbarrier, std::vector<Piece> pieces) {
  Cta& cta = *warp.cta;
  MBarrier& barrier = find_mbarrier(warp, mbarrier, lane);
  BulkCopy copy = make_copy(warp, lane, Kind::kToShared);
  copy.mbarrier = mbarrier;
  copy.batch = barrier.phase + 1;
  copy.pieces = std::move(pieces);
  warp.launch->note_agent_clock(cta, barrier.agent, barrier.agent.clock(copy.batch));
  for (const Piece& piece : copy.pieces) {
    copy.bytes += piece.bytes;
    uint8_t* const state = &cta.shared_state[piece.shared];
    uint8_t any = 0;
    for (uint32_t i = 0; i < piece.bytes; ++i) any |= state[i];
    if (any & ~Cta::kWritten)
      report_state(warp, piece.shared, lane, {AccessKind::kStore, piece.bytes, Scope::kNone, false},
                   any);
    check_copy_races(copy, barrier.agent, Space::kShared, piece.shared, piece.bytes,
                     AccessKind::kStore);
    std::memset(&cta.shared[piece.shared], kPoison, piece.bytes);
    std::memset(state, Cta::kInFlight, piece.bytes);
  }
  warp.launch->counters.async_copy_bytes += copy.bytes;
  warp.launch->chain.in_flight.push_back(std::move(copy));
}

void start_to_global(Warp& warp, int lane, std::vector<Piece> pieces) {
  BulkGroups& groups = warp.bulk[lane];
  if (!groups.in_use) {
    groups.in_use = true;
    groups.reads = warp.launch->make_agent(*warp.cta);
    groups.writes = warp.launch->make_agent(*warp.cta);
  }
  BulkCopy copy = make_copy(warp, lane, Kind::kToGlobal);
  copy.batch = groups.committed + 1;
  copy.pieces = std::move(pieces);
  for (const Piece& piece : copy.pieces) copy.bytes += piece.bytes;
  for (const Agent* agent : {&groups.reads, &groups.writes})
    warp.launch->note_agent_clock(*warp.cta, *agent, agent->clock(copy.batch));
  ++groups.open;
  // Registered as a reader at once: who writes the source now, before it was waited for, is wrong.
  for (const Piece& piece : copy.pieces) {
    const uint8_t* const state = &warp.cta->shared_state[piece.shared];
    uint8_t any = 0;
    for (uint32_t i = 0; i < piece.bytes; ++i) any |= state[i];
    if (any & ~Cta::kWritten)
      report_state(warp, piece.shared, lane, {AccessKind::kLoad, piece.bytes, Scope::kNone, false},
                   any);
    check_copy_races(copy, groups.reads, Space::kShared, piece.shared, piece.bytes,
                     AccessKind::kLoad);
  }
  warp.launch->counters.async_copy_bytes += copy.bytes;
  warp.launch->chain.in_flight.push_back(std::move(copy));
}

void start_arrival(Warp& warp, int lane, uint32_t mbarrier) {
  find_mbarrier(warp, mbarrier, lane);
  BulkCopy copy = make_copy(warp, lane, Kind::kArrival);
  copy.mbarrier = mbarrier;
  copy.copies = warp.async[lane].landed + warp.async[lane].copies.size();
  warp.launch->chain.in_flight.push_back(std::move(copy));
}

void commit_bulk_group(Warp& warp, int lane) {
  BulkGroups& groups = warp.bulk[lane];
  ++groups.committed;
  groups.open = 0;
}

void wait_bulk_groups(Warp& warp, int lane, uint32_t keep, bool only_reads) {
  BulkGroups& groups = warp.bulk[lane];
  if (groups.committed <= keep) return;
  const uint32_t last = groups.committed - keep;
  std::vector<BulkCopy>& in_flight = warp.launch->chain.in_flight;
  for (size_t i = 0; i < in_flight.size();) {
    BulkCopy& copy = in_flight[i];
    const bool mine = copy.kind == Kind::kToGlobal && copy.warp == &warp && copy.lane == lane &&
                      copy.batch <= last;
    if (mine && only_reads) read_source(copy);
    if (mine && !only_reads)
      land_bulk_copy(warp.launch->chain, i);
    else
      ++i;
  }
  groups.reads_waited = std::max(groups.reads_waited, last);
  if (!only_reads) groups.writes_waited = std::max(groups.writes_waited, last);
  if (!groups.in_use) return;
  const auto know = [&](auto& clock) {
    clock.know_warp(groups.reads.slot, groups.reads.clock(last));
    if (!only_reads) clock.know_warp(groups.writes.slot, groups.writes.clock(last));
  };
  know(warp.seen.own(lane));
  know(warp.proxied.own(lane));
}

void land_bulk_copy(Chain& chain, size_t index) {
  BulkCopy copy = std::move(chain.in_flight[index]);
  chain.in_flight.erase(chain.in_flight.begin() + static_cast<std::ptrdiff_t>(index));
  Warp& warp = *copy.warp;
  ++warp.launch->progress;
  switch (copy.kind) {
    case Kind::kToShared:
      land_to_shared(copy);
      break;
    case Kind::kToGlobal:
      read_source(copy);
      write_target(copy);
      break;
    case Kind::kArrival: {
      land_copies(warp, copy.lane, copy.copies);
      MBarrier& barrier = warp.cta->mbarriers.at(copy.mbarrier);
      barrier.arriving.join(copy.seen);
      barrier.arriving_proxied.join(copy.proxied);
      arrive(warp, barrier, copy.lane, 1);
      complete_phase(warp, barrier);
      break;
    }
  }
}

void invalidate(Warp& warp, uint32_t address, int lane) {
  std::vector<BulkCopy>& in_flight = warp.launch->chain.in_flight;
  bool reported = false;
  for (size_t i = 0; i < in_flight.size();) {
    const BulkCopy& copy = in_flight[i];
    if (copy.kind == Kind::kToGlobal || copy.warp->cta != warp.cta || copy.mbarrier != address) {
      ++i;
      continue;
    }
    if (!reported)
      warp.launch->report(ReportClass::kMbarrier,
                          warp.launch->site(warp, warp.pc, lane, "mbarrier.inval"),
                          warp.launch->site(*copy.warp, copy.pc, copy.lane, "asynchronous copy"),
                          "an mbarrier is invalidated while a copy that it counts is in flight");
    reported = true;
    in_flight.erase(in_flight.begin() + static_cast<std::ptrdiff_t>(i));
  }
  warp.cta->mbarriers.erase(address);
  std::memset(&warp.cta->shared_state[address], 0, kMbarrierBytes);
}

// What is still in flight when the CTA ends: writes to global memory arrive, the rest is a mistake.
void Launch::end_bulk_copies(Cta& cta) {
  for (size_t i = 0; i < chain.in_flight.size();) {
    if (chain.in_flight[i].warp->cta != &cta) {
      ++i;
      continue;
    }
    if (chain.in_flight[i].kind == Kind::kToGlobal) {
      land_bulk_copy(chain, i);
      continue;
    }
    const BulkCopy& copy = chain.in_flight[i];
    report(ReportClass::kAsyncNotWaited, site(*copy.warp, copy.pc, copy.lane, "asynchronous copy"),
           AccessSite{}, "a block ends while a copy into its shared memory is in flight");
    chain.in_flight.erase(chain.in_flight.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

}  // namespace gptoss::emulator
