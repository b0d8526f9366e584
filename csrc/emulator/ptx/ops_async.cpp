// cp.async: copies from global to shared memory that land late.
//
// The data of a copy arrives when the thread waits for its group, never before; until then the
// target holds poison and is marked as in flight. A thread's own wait makes the data visible to
// itself only: for others a barrier must follow.
#include <algorithm>
#include <bit>
#include <cstring>

#include "emulator/ptx/access.h"
#include "emulator/ptx/builder.h"
#include "emulator/ptx/bulk.h"
#include "emulator/ptx/lanes.h"

namespace gptoss::emulator {
namespace {

constexpr AccessPlan source_plan(uint32_t bytes) {
  return {AccessKind::kLoad, bytes, Scope::kNone, false};
}

// dst [address], src [address2], bytes in immediate; src[0]: bytes to fill, where there is one.
void issue(Warp& warp, const Instruction& in, uint32_t mask) {
  const auto bytes = static_cast<uint32_t>(in.immediate);
  const LaneAddresses to = addresses(warp, in.address, in.address_bytes, in.offset, mask);
  const LaneAddresses from = addresses(warp, in.address2, in.address2_bytes, in.offset2, mask);
  const AccessPlan plan{AccessKind::kStore, bytes, Scope::kNone, false};
  uint8_t* target[kLanes];
  locate(warp, Space::kShared, to, mask, plan, target);
  check_store(warp, Space::kShared, to, mask, plan, 0, 0);
  uint32_t filled[kLanes];
  uint32_t full = 0, partial = 0;
  for (int l = 0; l < kLanes; ++l) {
    filled[l] = bytes;
    if (in.sources) filled[l] = std::min(bytes, warp.reg<uint32_t>(in.src[0])[l]);
    if (!(mask >> l & 1)) continue;
    if (filled[l] == bytes)
      full |= 1u << l;
    else if (filled[l])
      partial |= 1u << l;
  }
  if (in.sources)
    if (const uint32_t bad = mask & ~warp.defined[in.src[0]])
      warp.launch->report(ReportClass::kUninitialisedOperand, warp, std::countr_zero(bad),
                          "the size of a copy was never set");
  uint8_t* source[kLanes];
  if (full) {
    locate(warp, Space::kGlobal, from, full, source_plan(bytes), source);
    check_load(warp, Space::kGlobal, from, full, source_plan(bytes));
  }
  for (uint32_t rest = partial; rest; rest &= rest - 1) {
    // Byte by byte: the part need be neither a power of two nor aligned to its size.
    const int l = std::countr_zero(rest);
    LaneAddresses byte = from;
    for (uint32_t i = 0; i < filled[l]; ++i) {
      byte.at[l] = from.at[l] + i;
      locate(warp, Space::kGlobal, byte, 1u << l, source_plan(1), source);
      check_load(warp, Space::kGlobal, byte, 1u << l, source_plan(1));
    }
  }
  for (int l = 0; l < kLanes; ++l) {
    if (!(mask >> l & 1)) continue;
    std::memset(target[l], kPoison, bytes);
    std::memset(&warp.cta->shared_state[to.at[l]], Cta::kInFlight, bytes);
    warp.async[l].copies.push_back({from.at[l], static_cast<uint32_t>(to.at[l]),
                                    static_cast<uint16_t>(bytes), static_cast<uint16_t>(filled[l]),
                                    static_cast<uint32_t>(warp.pc)});
  }
  warp.launch->counters.async_copy_bytes +=
      uint64_t{bytes} * static_cast<uint64_t>(std::popcount(mask));
}

void land(Warp& warp, int lane, const AsyncCopy& copy) {
  Cta& cta = *warp.cta;
  uint8_t* state = &cta.shared_state[copy.target];
  std::memset(&cta.shared[copy.target], 0, copy.bytes);
  std::memset(state, Cta::kWritten, copy.bytes);
  const bool check_races = warp.launch->options.check_races;
  Access access = access_of(warp, lane, source_plan(copy.bytes));
  access.pc = copy.pc;
  if (copy.filled) {
    Memory& memory = warp.launch->memory;
    Allocation* from = warp.launch->last_allocation;
    if (!from || !from->contains(copy.source, copy.filled)) from = memory.nearest(copy.source);
    const uint64_t offset = copy.source - from->base;
    std::memcpy(&cta.shared[copy.target], from->bytes + offset, copy.filled);
    if (!from->written.empty())
      for (uint32_t i = 0; i < copy.filled; ++i)
        state[i] = from->written[offset + i] ? Cta::kWritten : 0;
    if (check_races) {
      const uint32_t piece = copy.filled == copy.bytes ? copy.bytes : 1;
      for (uint32_t i = 0; i < copy.filled; i += piece) {
        const Conflict c = from->shadow.read(from->shadow_offset(copy.source + i), piece, access);
        if (!c) continue;
        warp.launch->report(
            ReportClass::kAsyncSourceWritten,
            warp.launch->site(warp, static_cast<int>(copy.pc), lane, "asynchronous copy"),
            warp.launch->past_site(c.slot, c.clock, static_cast<int>(c.pc), c.lane, "write"),
            "the source of a copy in flight is written: " + from->name);
        break;
      }
    }
  }
  if (check_races) {
    const AccessPlan plan{AccessKind::kStore, copy.bytes, Scope::kNone, false};
    if (const Conflict c = cta.shadow.write(copy.target, copy.bytes, access))
      report_conflict(warp, Space::kShared, copy.target, lane, c, plan, false);
  }
  ++warp.launch->progress;
}

}  // namespace

void land_copies(Warp& warp, int lane, uint64_t end) {
  AsyncGroups& async = warp.async[lane];
  if (end <= async.landed) return;
  const uint64_t count = end - async.landed;
  for (uint64_t i = 0; i < count; ++i) land(warp, lane, async.copies[i]);
  async.copies.erase(async.copies.begin(),
                     async.copies.begin() + static_cast<std::ptrdiff_t>(count));
  async.landed = end;
  // Groups stay, with the copies that they still have.
  uint64_t rest = count;
  for (uint32_t& group : async.groups) {
    const auto taken = static_cast<uint32_t>(std::min<uint64_t>(rest, group));
    group -= taken;
    async.committed -= taken;
    rest -= taken;
  }
}

namespace {

// Lands the groups of a lane until `keep` are left.
void wait(Warp& warp, int lane, size_t keep) {
  AsyncGroups& async = warp.async[lane];
  if (async.groups.size() <= keep) return;
  const size_t groups = async.groups.size() - keep;
  uint32_t copies = 0;
  for (size_t i = 0; i < groups; ++i) copies += async.groups[i];
  for (uint32_t i = 0; i < copies; ++i) land(warp, lane, async.copies[i]);
  async.copies.erase(async.copies.begin(), async.copies.begin() + copies);
  async.groups.erase(async.groups.begin(),
                     async.groups.begin() + static_cast<std::ptrdiff_t>(groups));
  async.committed -= copies;
  async.landed += copies;
}

void commit(Warp& warp, int lane) {
  AsyncGroups& async = warp.async[lane];
  const auto open = static_cast<uint32_t>(async.copies.size()) - async.committed;
  async.groups.push_back(open);
  async.committed += open;
}

}  // namespace

namespace build {

void copy_async(Builder& b) {
  Instruction& in = b.in;
  in.space = Space::kShared;
  in.space2 = Space::kGlobal;
  b.operands();
  const int64_t bytes = in.immediate;
  if (bytes != 16 && (b.has("cg") || (bytes != 4 && bytes != 8)))
    b.fail("cp.async copies 4, 8 or 16 bytes, with .cg 16");
  // What may follow is the number of bytes to read and a cache policy, which means nothing here.
  if (in.sources && b.statement().operands.size() == 4 && b.has("L2::cache_hint"))
    b.fail("a cache policy without a source size is not supported");
  in.sources = in.sources ? 1 : 0;
  in.tracks_definedness = true;
  b.execute(issue);
}

void copy_async_group(Builder& b) {
  Instruction& in = b.in;
  b.operands();
  in.tracks_definedness = true;
  if (b.has("commit_group"))
    return b.execute([](Warp& warp, const Instruction&, uint32_t mask) {
      for (uint32_t rest = mask; rest; rest &= rest - 1) commit(warp, std::countr_zero(rest));
    });
  if (b.has("wait_all"))
    return b.execute([](Warp& warp, const Instruction&, uint32_t mask) {
      for (uint32_t rest = mask; rest; rest &= rest - 1) {
        commit(warp, std::countr_zero(rest));
        wait(warp, std::countr_zero(rest), 0);
      }
    });
  if (in.immediate < 0) b.fail("a negative number of groups");
  b.execute([](Warp& warp, const Instruction& i, uint32_t mask) {
    for (uint32_t rest = mask; rest; rest &= rest - 1)
      wait(warp, std::countr_zero(rest), static_cast<size_t>(i.immediate));
  });
}

}  // namespace build
}  // namespace gptoss::emulator
