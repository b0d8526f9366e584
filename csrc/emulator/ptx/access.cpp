#include "emulator/ptx/access.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace gptoss::emulator {
namespace {

constexpr uint64_t kNullPage = 4096;
constexpr int kSectorBytes = 32;
constexpr int kBanks = 32;

const char* verb(AccessKind kind) {
  return kind == AccessKind::kLoad ? "read" : kind == AccessKind::kStore ? "write" : "atomic";
}

std::string describe(const AccessPlan& plan) {
  return std::string(verb(plan.kind)) + " of " + std::to_string(plan.bytes) + " bytes";
}

std::string hex(uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

const SharedVariable* shared_near(const Kernel& kernel, uint64_t address) {
  const SharedVariable* found = nullptr;
  for (const SharedVariable& variable : kernel.shared)
    if (variable.begin <= address) found = &variable;
  return found;
}

std::string name_cta(const Cta& cta) {
  return "block (" + std::to_string(cta.id.x) + "," + std::to_string(cta.id.y) + "," +
         std::to_string(cta.id.z) + ")";
}

// "tile+128", or how far outside of it.
std::string name_place(Warp& warp, Space space, uint64_t address) {
  if (space == Space::kShared && warp.shared_cta != warp.cta) {
    const Cta& owner = *warp.shared_cta;
    const SharedOf own(warp, *warp.cta);
    return name_place(warp, space, address) + ", of " + name_cta(owner);
  }
  if (space == Space::kShared) {
    if (address >= warp.kernel->dynamic_shared_begin)
      return "dynamic shared memory+" +
             std::to_string(address - warp.kernel->dynamic_shared_begin) + " of " +
             std::to_string(warp.launch->options.dynamic_shared_bytes) + " bytes";
    if (const SharedVariable* v = shared_near(*warp.kernel, address))
      return v->name + "+" + std::to_string(address - v->begin) + " of " +
             std::to_string(v->end - v->begin) + " bytes";
    return "shared address " + hex(address);
  }
  if (space == Space::kGlobal || space == Space::kConst) {
    const Allocation* below = warp.launch->memory.nearest(address);
    if (below && address - below->base < below->size + (1ull << 20))
      return below->name + "+" + std::to_string(address - below->base) + " of " +
             std::to_string(below->size) + " bytes";
    // Just before an allocation is its name, too.
    const Allocation* above = warp.launch->memory.nearest(address + kNullPage);
    if (above && above->base > address)
      return above->name + "-" + std::to_string(above->base - address);
    return "address " + hex(address);
  }
  return std::string(space == Space::kLocal ? "local" : "parameter") + " address " +
         std::to_string(address);
}

[[noreturn]] void refuse(Warp& warp, ReportClass report_class, Space space, uint64_t address,
                         int lane, const AccessPlan& plan, const std::string& why) {
  warp.launch->report(report_class, warp, lane, why + ": " + name_place(warp, space, address),
                      describe(plan));
  throw LaunchFault{report_class == ReportClass::kMisaligned ? Fault::kMisalignedAddress
                                                             : Fault::kIllegalAddress};
}

void check_alignment(Warp& warp, Space space, const LaneAddresses& a, uint32_t mask,
                     const AccessPlan& plan) {
  // Vectors are aligned as a whole; their size is a power of two.
  const uint64_t low_bits = plan.bytes - 1;
  if (a.is_range && !(a.at[0] & low_bits)) return;
  uint64_t any = 0;
  for (int l = 0; l < kLanes; ++l) any |= mask >> l & 1 ? a.at[l] & low_bits : 0;
  if (!any) return;
  for (int l = 0; l < kLanes; ++l)
    if (mask >> l & 1 && a.at[l] & low_bits)
      refuse(warp, ReportClass::kMisaligned, space, a.at[l], l, plan,
             "address is not a multiple of " + std::to_string(plan.bytes));
}

void count_sectors(Warp& warp, const LaneAddresses& a, uint32_t mask, const AccessPlan& plan) {
  Counters& counters = warp.launch->counters;
  const uint64_t bytes = uint64_t{plan.bytes} * static_cast<uint64_t>(std::popcount(mask));
  uint64_t sectors = 0;
  if (a.is_range) {
    sectors = (a.at[0] + bytes - 1) / kSectorBytes - a.at[0] / kSectorBytes + 1;
  } else if (warp.launch->options.count_memory) {
    uint64_t list[2 * kLanes];
    int n = 0;
    bool sorted = true;
    uint64_t previous = 0;
    for (int l = 0; l < kLanes; ++l) {
      if (!(mask >> l & 1)) continue;
      const uint64_t first = a.at[l] / kSectorBytes,
                     last = (a.at[l] + plan.bytes - 1) / kSectorBytes;
      for (uint64_t s = first; s <= last; ++s) {
        if (n && s == previous) continue;
        sorted = sorted && (!n || s > previous);
        list[n++] = previous = s;
      }
    }
    if (!sorted) {
      std::sort(list, list + n);
      n = static_cast<int>(std::unique(list, list + n) - list);
    }
    sectors = static_cast<uint64_t>(n);
  }
  if (plan.kind == AccessKind::kLoad) {
    counters.global_load_bytes += bytes;
    counters.global_load_sectors += sectors;
  } else {
    counters.global_store_bytes += bytes;
    counters.global_store_sectors += sectors;
  }
}

// A wavefront serves every bank once; lanes of accesses of 8 and 16 bytes go in halves and
// quarters of the warp. Lanes that want the same word share it.
void count_banks(Warp& warp, const LaneAddresses& a, uint32_t mask, const AccessPlan& plan) {
  Counters& counters = warp.launch->counters;
  const uint64_t bytes = uint64_t{plan.bytes} * static_cast<uint64_t>(std::popcount(mask));
  (plan.kind == AccessKind::kLoad ? counters.shared_load_bytes : counters.shared_store_bytes) +=
      bytes;
  if (!warp.launch->options.count_memory) return;
  const int words = static_cast<int>((plan.bytes + 3) / 4);
  if (a.is_range) {  // every bank once per 128 bytes
    counters.shared_wavefronts += (bytes + 127) / 128;
    return;
  }
  const int lanes_per_pass = kLanes / words;
  for (int first = 0; first < kLanes; first += lanes_per_pass) {
    uint64_t seen[kBanks][4];
    uint8_t depth[kBanks] = {};
    int deepest = 0;
    for (int l = first; l < first + lanes_per_pass; ++l) {
      if (!(mask >> l & 1)) continue;
      for (int w = 0; w < words; ++w) {
        const uint64_t word = a.at[l] / 4 + static_cast<uint64_t>(w);
        const size_t bank = word % kBanks;
        bool known = false;
        for (int i = 0; i < std::min<int>(depth[bank], 4); ++i) known |= seen[bank][i] == word;
        if (known) continue;
        if (depth[bank] < 4) seen[bank][depth[bank]] = word;
        deepest = std::max<int>(deepest, ++depth[bank]);
      }
    }
    if (!deepest) continue;
    counters.shared_wavefronts += static_cast<uint64_t>(deepest);
    counters.shared_bank_conflicts += static_cast<uint64_t>(deepest - 1);
  }
}

void locate_global(Warp& warp, Space space, const LaneAddresses& a, uint32_t mask,
                   const AccessPlan& plan, uint8_t* (&place)[kLanes]) {
  Allocation* allocation = warp.launch->last_allocation;
  if (a.is_range && allocation && !allocation->is_freed && !allocation->is_constant &&
      allocation->contains(a.at[0], uint64_t{plan.bytes} * kLanes)) {
    uint8_t* const first = allocation->bytes + (a.at[0] - allocation->base);
    for (int l = 0; l < kLanes; ++l) place[l] = first + static_cast<size_t>(l) * plan.bytes;
    return;
  }
  for (int l = 0; l < kLanes; ++l) {
    if (!(mask >> l & 1)) continue;
    const uint64_t address = a.at[l];
    if (!allocation || allocation->is_freed || !allocation->contains(address, plan.bytes)) {
      allocation = warp.launch->memory.nearest(address);
      if (address < kNullPage)
        refuse(warp, ReportClass::kNull, space, address, l, plan, "null pointer");
      if (!allocation || !allocation->contains(address, plan.bytes))
        refuse(warp, ReportClass::kOutOfBoundsGlobal, space, address, l, plan,
               "access outside of any allocation");
      if (allocation->is_freed)
        refuse(warp, ReportClass::kUseAfterFree, space, address, l, plan,
               "access to memory that was freed");
      warp.launch->last_allocation = allocation;
    }
    if (plan.kind != AccessKind::kLoad && allocation->is_constant)
      refuse(warp, ReportClass::kWriteToConstant, space, address, l, plan,
             "write to constant memory");
    place[l] = allocation->bytes + (address - allocation->base);
  }
}

void locate_shared(Warp& warp, const LaneAddresses& a, uint32_t mask, const AccessPlan& plan,
                   uint8_t* (&place)[kLanes]) {
  const Kernel& kernel = *warp.kernel;
  Cta& cta = *warp.shared_cta;
  uint64_t begin = kernel.dynamic_shared_begin;
  uint64_t end = begin + warp.launch->options.dynamic_shared_bytes;
  for (int l = 0; l < kLanes; ++l) {
    if (!(mask >> l & 1)) continue;
    const uint64_t address = a.at[l];
    if (address < begin || address + plan.bytes > end) {
      bool found = false;
      if (address >= kernel.dynamic_shared_begin) {
        begin = kernel.dynamic_shared_begin;
        end = begin + warp.launch->options.dynamic_shared_bytes;
        found = address + plan.bytes <= end;
      } else if (const SharedVariable* v = shared_near(kernel, address)) {
        begin = v->begin;
        end = v->end;
        found = address + plan.bytes <= end;
      }
      if (!found && address >> kRankShift)
        refuse(warp, ReportClass::kWrongSpace, Space::kShared, address, l, plan,
               "an address that mapa gave in an instruction for the block's own shared memory");
      if (!found)
        refuse(warp, ReportClass::kOutOfBoundsShared, Space::kShared, address, l, plan,
               "access outside of any shared variable");
    }
    place[l] = &cta.shared[address];
  }
}

ReportClass class_of(Space space, const Conflict& c, bool same_value, bool other_grid,
                     bool other_is_agent) {
  using Kind = Conflict::Kind;
  if (c.is_ordered) return ReportClass::kReadOnlyWritten;
  if (other_grid) return ReportClass::kRaceGrids;
  if (c.lacks_proxy_fence) return ReportClass::kProxyFence;
  if (other_is_agent)
    return c.kind == Kind::kReadAfterWrite   ? ReportClass::kAsyncReadEarly
           : c.kind == Kind::kWriteAfterRead ? ReportClass::kAsyncSourceWritten
                                             : ReportClass::kAsyncOverwritten;
  if (c.non_coherent) return ReportClass::kReadOnlyWritten;
  if (c.both_strong) return ReportClass::kRaceScope;
  if (c.kind == Kind::kWriteAfterWrite && same_value) return ReportClass::kRaceSameValue;
  if (c.either_strong) return ReportClass::kRaceMixed;
  if (c.inside_warp) return ReportClass::kRaceWarp;
  if (space == Space::kShared)
    return c.kind == Kind::kReadAfterWrite   ? ReportClass::kRaceSharedReadAfterWrite
           : c.kind == Kind::kWriteAfterRead ? ReportClass::kRaceSharedWriteAfterRead
                                             : ReportClass::kRaceSharedWriteAfterWrite;
  return c.kind == Kind::kReadAfterWrite   ? ReportClass::kRaceGlobalReadAfterWrite
         : c.kind == Kind::kWriteAfterRead ? ReportClass::kRaceGlobalWriteAfterRead
                                           : ReportClass::kRaceGlobalWriteAfterWrite;
}

// Whether the other side is the initialisation of an mbarrier that fence.mbarrier_init and a
// barrier of the cluster have made known, be it a relaxed one.
bool is_known_init(const Warp& warp, Space space, uint64_t address, const Conflict& c) {
  return space == Space::kShared && !warp.known_inits.empty() &&
         warp.shared_cta->shared_state[address] & Cta::kMbarrier &&
         c.kind == Conflict::Kind::kReadAfterWrite &&
         warp.known_inits.covers(c.slot, c.lane, c.clock);
}

bool has_races(Space space) { return space == Space::kShared || space == Space::kGlobal; }

// The shadow of an address, and its place there.
Shadow& shadow_of(Warp& warp, Space space, uint64_t address, uint64_t& offset) {
  if (space == Space::kShared) {
    offset = address;
    return warp.shared_cta->shadow;
  }
  Allocation* allocation = warp.launch->last_allocation;
  if (!allocation || !allocation->contains(address, 1))
    allocation = warp.launch->last_allocation = warp.launch->memory.nearest(address);
  offset = allocation->shadow_offset(address);
  return allocation->shadow;
}

}  // namespace

void report_state(Warp& warp, uint64_t address, int lane, const AccessPlan& plan, uint8_t state) {
  if (state & Cta::kMbarrier) {
    warp.launch->report(
        ReportClass::kMbarrier, warp, lane,
        "an mbarrier is accessed as memory: " + name_place(warp, Space::kShared, address),
        describe(plan));
    if (!(state & Cta::kInFlight)) return;
  }
  AccessSite other;
  for (const Warp& w : warp.shared_cta->warps) {
    if (!w.async) continue;
    for (int l = 0; l < kLanes && !other.known; ++l) {
      for (const AsyncCopy& copy : w.async[l].copies)
        if (!other.known && address < copy.target + copy.bytes &&
            copy.target < address + plan.bytes)
          other = warp.launch->site(w, static_cast<int>(copy.pc), l, "asynchronous copy");
    }
  }
  for (const BulkCopy& copy : warp.launch->chain.in_flight) {
    const bool lands =
        copy.kind == BulkCopy::Kind::kToShared || copy.kind == BulkCopy::Kind::kAcross;
    if (other.known || !lands || copy.target != warp.shared_cta) continue;
    for (const BulkCopy::Piece& piece : copy.pieces)
      if (!other.known && address < piece.shared + piece.bytes &&
          piece.shared < address + plan.bytes)
        other = warp.launch->site(*copy.warp, copy.pc, copy.lane, "asynchronous copy");
  }
  const bool is_read = plan.kind == AccessKind::kLoad;
  warp.launch->report(
      is_read ? ReportClass::kAsyncReadEarly : ReportClass::kAsyncOverwritten,
      warp.launch->site(warp, warp.pc, lane, describe(plan)), other,
      std::string(is_read ? "shared memory is read before the copy into it was waited for: "
                          : "shared memory is written while a copy into it is in flight: ") +
          name_place(warp, Space::kShared, address));
}

Cta& owner_of(Warp& warp, uint64_t& address, int lane) {
  const uint64_t tag = address >> kRankShift;
  if (!tag) return *warp.cta;
  const std::vector<Cta*>& ctas = warp.cta->cluster->ctas;
  address &= kOwnSharedMask;
  if (tag > ctas.size()) {
    warp.launch->report(ReportClass::kOutOfBoundsShared, warp, lane,
                        "shared memory of block " + std::to_string(tag - 1) + " of a cluster of " +
                            std::to_string(ctas.size()));
    throw LaunchFault{Fault::kIllegalAddress};
  }
  Cta& owner = *ctas[tag - 1];
  if (owner.has_ended) {
    warp.launch->report(ReportClass::kClusterExit, warp, lane,
                        "shared memory of " + name_cta(owner) + ", which has ended");
    throw LaunchFault{Fault::kLaunchFailure};
  }
  return owner;
}

void visit(Warp& warp, Cta& owner, int lane) {
  owner.visits[uint64_t{warp.slot} * kLanes + static_cast<uint32_t>(lane)] = {
      warp.clock, static_cast<uint32_t>(warp.pc)};
}

LaneAddresses addresses(Warp& warp, int32_t reg, int reg_bytes, int64_t offset, uint32_t mask) {
  LaneAddresses a;
  const uint64_t add = static_cast<uint64_t>(offset);
  if (reg < 0) {
    std::fill_n(a.at, kLanes, add);
    return a;
  }
  if (const uint32_t bad = mask & ~warp.defined[reg]) {
    const int lane = std::countr_zero(bad);
    const uint32_t origin = warp.origin[reg];
    const AccessSite other = origin ? warp.launch->site(warp, static_cast<int>(origin) - 1, lane,
                                                        "read of what was never written")
                                    : AccessSite{};
    warp.launch->report(ReportClass::kUninitialisedAddress,
                        warp.launch->site(warp, warp.pc, lane, "access"), other,
                        "an address is computed from a value that was never set (" +
                            warp.kernel->register_names[reg] + ")");
  }
  if (reg_bytes == 4) {
    const uint32_t* base = warp.reg<uint32_t>(static_cast<uint32_t>(reg));
    for (int l = 0; l < kLanes; ++l) a.at[l] = static_cast<uint32_t>(base[l] + add);
  } else {
    const uint64_t* base = warp.reg<uint64_t>(static_cast<uint32_t>(reg));
    for (int l = 0; l < kLanes; ++l) a.at[l] = base[l] + add;
  }
  return a;
}

Space resolve(uint64_t& address) {
  const uint64_t window = address & kWindowMask;
  if (window < kSharedWindow || window > kParamWindow) return Space::kGlobal;
  address &= ~kWindowMask;
  return window == kSharedWindow  ? Space::kShared
         : window == kLocalWindow ? Space::kLocal
                                  : Space::kParam;
}

void locate(Warp& warp, Space space, const LaneAddresses& a, uint32_t mask, const AccessPlan& plan,
            uint8_t* (&place)[kLanes]) {
  check_alignment(warp, space, a, mask, plan);
  switch (space) {
    case Space::kShared:
      locate_shared(warp, a, mask, plan, place);
      count_banks(warp, a, mask, plan);
      return;
    case Space::kLocal: {
      const uint64_t size = warp.kernel->local_bytes;
      for (int l = 0; l < kLanes; ++l) {
        if (!(mask >> l & 1)) continue;
        if (a.at[l] + plan.bytes > size || a.at[l] > size)
          refuse(warp, ReportClass::kOutOfBoundsLocal, space, a.at[l], l, plan,
                 "access outside of the " + std::to_string(size) + " bytes of local memory");
        place[l] = &warp.local[static_cast<size_t>(l) * size + a.at[l]];
      }
      return;
    }
    case Space::kParam: {
      const auto& parameters = warp.launch->parameters;
      for (int l = 0; l < kLanes; ++l) {
        if (!(mask >> l & 1)) continue;
        if (a.at[l] + plan.bytes > parameters.size() || plan.kind != AccessKind::kLoad)
          refuse(warp, ReportClass::kOutOfBoundsParam, space, a.at[l], l, plan,
                 "access outside of the kernel's " + std::to_string(parameters.size()) +
                     " bytes of parameters");
        place[l] = const_cast<uint8_t*>(&parameters[a.at[l]]);
      }
      return;
    }
    default:
      locate_global(warp, space, a, mask, plan, place);
      if (space != Space::kConst) count_sectors(warp, a, mask, plan);
  }
}

bool is_in_shared(const Warp& warp, uint64_t address, uint64_t bytes) {
  const uint64_t dynamic = warp.kernel->dynamic_shared_begin;
  if (address >= dynamic)
    return address + bytes <= dynamic + warp.launch->options.dynamic_shared_bytes;
  const SharedVariable* v = shared_near(*warp.kernel, address);
  return v && address + bytes <= v->end;
}

void check_range(Warp& warp, Space space, uint64_t address, uint64_t bytes, int lane,
                 AccessKind kind, int pc) {
  const AccessPlan plan{kind, static_cast<uint32_t>(bytes), Scope::kNone, false};
  const int now = warp.pc;
  warp.pc = pc;  // the place of the report
  if (space == Space::kShared) {
    if (!is_in_shared(warp, address, bytes))
      refuse(warp, ReportClass::kOutOfBoundsShared, space, address, lane, plan,
             "access outside of any shared variable");
  } else {
    const Allocation* allocation = warp.launch->memory.nearest(address);
    if (address < kNullPage)
      refuse(warp, ReportClass::kNull, space, address, lane, plan, "null pointer");
    if (!allocation || !allocation->contains(address, bytes))
      refuse(warp, ReportClass::kOutOfBoundsGlobal, space, address, lane, plan,
             "access outside of any allocation");
    if (allocation->is_freed)
      refuse(warp, ReportClass::kUseAfterFree, space, address, lane, plan,
             "access to memory that was freed");
    if (kind != AccessKind::kLoad && allocation->is_constant)
      refuse(warp, ReportClass::kWriteToConstant, space, address, lane, plan,
             "write to constant memory");
  }
  warp.pc = now;
}

void check_alignment(Warp& warp, Space space, uint64_t address, uint64_t alignment, int lane) {
  if (!(address & (alignment - 1))) return;
  refuse(warp, ReportClass::kMisaligned, space, address, lane,
         {AccessKind::kLoad, static_cast<uint32_t>(alignment), Scope::kNone, false},
         "address is not a multiple of " + std::to_string(alignment));
}

Access access_of(const Warp& warp, int lane, const AccessPlan& plan) {
  Access access;
  access.slot = warp.slot;
  access.lane = lane;
  access.clock = warp.clock;
  access.pc = static_cast<uint32_t>(warp.pc);
  access.scope = plan.scope;
  access.non_coherent = plan.non_coherent;
  access.seen = &warp.seen[lane];
  access.done_before = &warp.launch->done_before();
  access.slot_begin = warp.launch->chain.slot_begin.data();
  access.first_slot_of_cta = warp.cta->first_slot;
  access.slots_per_cta = warp.launch->warps_per_cta;
  access.first_slot_of_cluster = warp.cta->cluster->ctas.front()->first_slot;
  access.slots_per_cluster = warp.launch->warps_per_cta * warp.launch->ctas_per_cluster;
  return access;
}

void report_conflict(Warp& warp, Space space, uint64_t address, int lane, const Conflict& c,
                     const AccessPlan& plan, bool same_value, int pc) {
  const bool other_grid = space == Space::kGlobal && warp.launch->is_of_other_grid(c.slot, c.clock);
  const ReportClass report_class =
      class_of(space, c, same_value, other_grid, warp.launch->chain.is_agent(c.slot));
  const bool other_wrote = c.kind != Conflict::Kind::kWriteAfterRead;
  const char* why = "nothing orders these accesses: ";
  if (report_class == ReportClass::kRaceGrids)
    why = "accesses of two grids, without griddepcontrol.wait in the later one between them: ";
  if (report_class == ReportClass::kProxyFence)
    why = "a write by threads reaches the async proxy without fence.proxy.async: ";
  if (report_class == ReportClass::kAsyncReadEarly)
    why = "a read of what an asynchronous operation writes, without waiting for it: ";
  if (report_class == ReportClass::kAsyncSourceWritten)
    why = "a write of what an asynchronous operation reads, without waiting for it: ";
  if (report_class == ReportClass::kAsyncOverwritten)
    why = "a write of what an asynchronous operation writes, without waiting for it: ";
  if (report_class == ReportClass::kRaceScope) why = "a scope does not reach the other thread: ";
  if (report_class == ReportClass::kRaceSameValue) why = "several threads write the same value: ";
  if (report_class == ReportClass::kRaceWarp)
    why = "lanes of one warp are not ordered without __syncwarp: ";
  if (report_class == ReportClass::kRaceMixed)
    why = "an atomic or volatile access against a plain one: ";
  if (report_class == ReportClass::kReadOnlyWritten)
    why = other_grid ? "memory read through the read-only path is written by a grid that had not "
                       "ended when this one began: "
                     : "memory read through the read-only path is written by the same kernel: ";
  warp.launch->report(report_class,
                      warp.launch->site(warp, pc < 0 ? warp.pc : pc, lane, describe(plan)),
                      warp.launch->past_site(c.slot, c.clock, static_cast<int>(c.pc), c.lane,
                                             other_wrote ? "write" : "read"),
                      why + name_place(warp, space, address));
}

namespace {
// Whether all bytes are `value`.
bool all_are(const uint8_t* bytes, size_t count, uint8_t value) {
  uint8_t different = 0;
  for (size_t i = 0; i < count; ++i) different |= bytes[i] ^ value;
  return !different;
}
}  // namespace

uint32_t written_lanes(Warp& warp, Space space, const LaneAddresses& a, uint32_t mask,
                       const AccessPlan& plan) {
  const uint32_t n = plan.bytes;
  uint32_t written = mask;
  if (a.is_range) {
    const size_t count = size_t{n} * kLanes;
    if (space == Space::kShared &&
        all_are(&warp.shared_cta->shared_state[a.at[0]], count, Cta::kWritten))
      return mask;
    if (space == Space::kGlobal) {
      const Allocation* allocation = warp.launch->last_allocation;
      if (allocation->contains(a.at[0], count) &&
          (allocation->written.empty() ||
           all_are(&allocation->written[a.at[0] - allocation->base], count, 1)))
        return mask;
    }
  }
  if (space == Space::kShared) {
    for (int l = 0; l < kLanes; ++l) {
      if (!(mask >> l & 1)) continue;
      const uint8_t* state = &warp.shared_cta->shared_state[a.at[l]];
      uint8_t all = Cta::kWritten, any = 0;
      for (uint32_t i = 0; i < n; ++i) all &= state[i], any |= state[i];
      if (any & ~Cta::kWritten) report_state(warp, a.at[l], l, plan, any);
      if (!all) written &= ~(1u << l);
    }
  } else if (space == Space::kLocal) {
    for (int l = 0; l < kLanes; ++l) {
      if (!(mask >> l & 1)) continue;
      for (uint32_t i = 0; i < n; ++i)
        if (!(warp.local_written[a.at[l] + i] >> l & 1)) written &= ~(1u << l);
    }
  } else if (space == Space::kGlobal) {
    Allocation* allocation = warp.launch->last_allocation;
    for (int l = 0; l < kLanes; ++l) {
      if (!(mask >> l & 1)) continue;
      if (!allocation->contains(a.at[l], n)) allocation = warp.launch->memory.nearest(a.at[l]);
      if (allocation->written.empty()) continue;
      const uint8_t* state = &allocation->written[a.at[l] - allocation->base];
      uint8_t all = 1;
      for (uint32_t i = 0; i < n; ++i) all &= state[i];
      if (!all) written &= ~(1u << l);
    }
  }
  return written;
}

namespace {
// Of lanes that store one value to one place the first one's write would hide from the others'
// what was read there before.
void check_shared_places(Warp& warp, Space space, const LaneAddresses& a, uint32_t mask,
                         const AccessPlan& plan, uint32_t same_value, Access& access) {
  for (uint32_t rest = mask & same_value; rest; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    int first = 0;
    while (!(mask >> first & 1) || a.at[first] != a.at[l]) ++first;
    if (first == l) continue;
    access.lane = l;
    access.seen = &warp.seen[l];
    uint64_t offset;
    Shadow& shadow = shadow_of(warp, space, a.at[l], offset);
    if (const Conflict c = shadow.find_reader(offset, plan.bytes, access))
      report_conflict(warp, space, a.at[l], l, c, plan, true);
  }
}
}  // namespace

void check_races(Warp& warp, Space space, const LaneAddresses& a, uint32_t mask,
                 const AccessPlan& plan, uint32_t same_value) {
  if (!has_races(space) || !warp.launch->options.check_races) return;
  Access access = access_of(warp, 0, plan);
  if (same_value && !a.is_range)
    check_shared_places(warp, space, a, mask, plan, same_value, access);
  const bool is_read = plan.kind == AccessKind::kLoad;
  int first = 0;
  // Lanes before `first` have nothing to say; those from it on are asked again, one by one.
  uint64_t begin;
  if (a.is_range) {
    Shadow& shadow = shadow_of(warp, space, a.at[0], begin);
    const uint64_t last = a.at[0] + uint64_t{plan.bytes} * kLanes - 1;
    if (space == Space::kShared || warp.launch->last_allocation->contains(last, 1))
      first = is_read ? shadow.read_range(begin, plan.bytes, access)
                      : shadow.write_range(begin, plan.bytes, access);
  }
  for (int l = first; l < kLanes; ++l) {
    if (!(mask >> l & 1)) continue;
    access.lane = l;
    access.seen = &warp.seen[l];
    uint64_t offset;
    Shadow& shadow = shadow_of(warp, space, a.at[l], offset);
    const Conflict c = is_read ? shadow.read(offset, plan.bytes, access)
                               : shadow.write(offset, plan.bytes, access);
    if (c && !is_known_init(warp, space, a.at[l], c))
      report_conflict(warp, space, a.at[l], l, c, plan, same_value >> l & 1);
  }
}

uint32_t check_load(Warp& warp, Space space, const LaneAddresses& a, uint32_t mask,
                    const AccessPlan& plan) {
  const uint32_t written = written_lanes(warp, space, a, mask, plan);
  check_races(warp, space, a, mask, plan, 0);
  return written;
}

void check_store(Warp& warp, Space space, const LaneAddresses& a, uint32_t mask,
                 const AccessPlan& plan, uint32_t same_value, uint32_t defined) {
  const uint32_t n = plan.bytes;
  check_races(warp, space, a, mask, plan, same_value);
  if (space == Space::kShared) {
    for (int l = 0; l < kLanes; ++l) {
      if (!(mask >> l & 1)) continue;
      uint8_t* state = &warp.shared_cta->shared_state[a.at[l]];
      uint8_t any = 0;
      for (uint32_t i = 0; i < n; ++i) any |= state[i];
      if (any & ~Cta::kWritten) report_state(warp, a.at[l], l, plan, any);
      const uint8_t value = defined >> l & 1 ? Cta::kWritten : 0;
      for (uint32_t i = 0; i < n; ++i) state[i] = (state[i] & ~Cta::kWritten) | value;
    }
  } else if (space == Space::kLocal) {
    for (int l = 0; l < kLanes; ++l) {
      if (!(mask >> l & 1)) continue;
      for (uint32_t i = 0; i < n; ++i) {
        uint32_t& lanes = warp.local_written[a.at[l] + i];
        lanes = (lanes & ~(1u << l)) | (defined & 1u << l);
      }
    }
  } else if (space == Space::kGlobal) {
    Allocation* whole = warp.launch->last_allocation;
    if (a.is_range && defined == kAllLanes && whole->contains(a.at[0], uint64_t{n} * kLanes)) {
      if (!whole->written.empty())
        std::memset(&whole->written[a.at[0] - whole->base], 1, size_t{n} * kLanes);
      return;
    }
    for (int l = 0; l < kLanes; ++l) {
      if (!(mask >> l & 1)) continue;
      Allocation* allocation = warp.launch->last_allocation;
      if (!allocation->contains(a.at[l], n)) allocation = warp.launch->memory.nearest(a.at[l]);
      if (!allocation->written.empty())
        std::memset(&allocation->written[a.at[l] - allocation->base], defined >> l & 1, n);
    }
  }
}

// ---- release and acquire ----

namespace {
std::unordered_map<uint64_t, Released>& released_in(Warp& warp, Space space) {
  return space == Space::kShared ? warp.shared_cta->released : warp.launch->chain.released;
}
}  // namespace

void publish(Warp& warp, Space space, uint64_t key, int lane, Semantics semantics, Scope scope,
             bool is_read_modify_write) {
  auto& map = released_in(warp, space);
  const bool releases = semantics == Semantics::kRelease || semantics == Semantics::kAcqRel;
  const Fenced& fenced = warp.fenced[lane];
  if (!releases && !fenced.clock) {
    // A read-modify-write goes on with what was released before; another store ends it.
    if (!is_read_modify_write) map.erase(key);
    return;
  }
  Released now;
  now.cta = warp.cta->number;
  now.cluster = warp.cta->cluster->number;
  if (releases) {
    now.seen = warp.seen[lane];
    now.seen.know_lane(warp.slot, lane, warp.clock);
    now.scope = scope;
  } else {
    now.seen = fenced.seen;
    now.seen.know_lane(warp.slot, lane, fenced.clock);
    now.scope = std::min(scope, fenced.scope);
  }
  Released& place = map[key];
  if (is_read_modify_write && place.scope != Scope::kNone) {
    // Release patterns at one address add up; the narrowest scope decides.
    if (place.cta != now.cta || now.scope == Scope::kCta)
      now.scope = std::min(place.scope, now.scope);
    now.seen.join(place.seen);
  }
  place = std::move(now);
}

void observe(Warp& warp, Space space, uint64_t key, int lane, Semantics semantics, Scope scope) {
  auto& map = released_in(warp, space);
  const auto found = map.find(key);
  if (found == map.end()) return;
  const Released& released = found->second;
  const bool acquires = semantics == Semantics::kAcquire || semantics == Semantics::kAcqRel;
  // How far a scope must reach from one to the other.
  const Scope distance = released.cta == warp.cta->number                ? Scope::kCta
                         : released.cluster == warp.cta->cluster->number ? Scope::kCluster
                                                                         : Scope::kGpu;
  if (std::min(released.scope, scope) < distance) return;
  if (acquires) {
    warp.seen.own(lane).join(released.seen);
  } else {
    Met& met = warp.met.own(lane);
    met.seen.join(released.seen);
    met.scope = std::max(met.scope, distance);
  }
}

void forget_released(Warp& warp, Space space, uint64_t key) {
  auto& map = released_in(warp, space);
  if (!map.empty()) map.erase(key);
}

void fence(Warp& warp, uint32_t mask, Scope scope) {
  const auto one = [&](VectorClock& seen, const Met& met, Fenced& fenced) {
    // What was met across CTAs needs a fence that reaches as far.
    if (met.scope != Scope::kNone && scope >= met.scope) seen.join(met.seen);
    fenced.seen = seen;
    fenced.clock = warp.clock;
    fenced.scope = scope;
  };
  const bool uniform = mask == warp.live && warp.seen.is_uniform() && warp.met.is_uniform();
  if (uniform) {
    warp.fenced.make_uniform();
    one(warp.seen.shared(), warp.met.shared(), warp.fenced.shared());
  } else {
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
      const int lane = std::countr_zero(rest);
      one(warp.seen.own(lane), warp.met[lane], warp.fenced.own(lane));
      warp.met.own(lane) = Met{};
    }
  }
  warp.advance_clock();
}

}  // namespace gptoss::emulator
