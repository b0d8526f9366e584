#include "emulator/ptx/shadow.h"

#include <algorithm>
#include <bit>

namespace gptoss::emulator {
namespace {

// Whether the access (slot, clock) was made by a thread of the accessing thread's own CTA.
bool same_cta(const Access& a, uint32_t slot, uint32_t clock) {
  return slot >= a.first_slot_of_cta && slot < a.first_slot_of_cta + a.slots_per_cta &&
         clock >= a.slot_begin[slot];
}

bool same_cluster(const Access& a, uint32_t slot, uint32_t clock) {
  return slot >= a.first_slot_of_cluster && slot < a.first_slot_of_cluster + a.slots_per_cluster &&
         clock >= a.slot_begin[slot];
}

bool same_warp(const Access& a, uint32_t slot, uint32_t clock) {
  return slot == a.slot && clock >= a.slot_begin[slot];
}

// Strong operations that reach each other do not race.
bool reach(const Access& a, Scope other, uint32_t slot, uint32_t clock) {
  if (a.scope == Scope::kNone || other == Scope::kNone) return false;
  const Scope narrower = std::min(a.scope, other);
  if (narrower > Scope::kCluster) return true;
  return narrower == Scope::kCluster ? same_cluster(a, slot, clock) : same_cta(a, slot, clock);
}

bool ordered(const Access& a, uint32_t slot, int lane, uint32_t clock) {
  // Asynchronous operations of one thread are not ordered among themselves.
  if (a.proxied) return a.seen->covers(slot, lane, clock) && a.proxied->covers(slot, lane, clock);
  if (same_warp(a, slot, clock) && lane == a.lane) return true;
  return a.seen->covers(slot, lane, clock);
}

Conflict conflict(Conflict::Kind kind, const Access& a, uint32_t slot, int lane, uint32_t clock,
                  uint32_t pc, Scope other_scope) {
  Conflict c;
  c.kind = kind;
  c.slot = slot;
  c.lane = lane;
  c.clock = clock;
  c.pc = pc;
  c.inside_warp = same_warp(a, slot, clock);
  c.both_strong = a.scope != Scope::kNone && other_scope != Scope::kNone;
  c.either_strong = a.scope != Scope::kNone || other_scope != Scope::kNone;
  c.lacks_proxy_fence = a.proxied && a.seen->covers(slot, lane, clock);
  return c;
}

}  // namespace

uint32_t Shadow::Page::add(const Reader& reader, uint32_t next) {
  if (!unused) {
    more.push_back({reader, next});
    return static_cast<uint32_t>(more.size());
  }
  const uint32_t link = unused;
  unused = more[link - 1].next;
  more[link - 1] = {reader, next};
  return link;
}

void Shadow::Page::drop(uint32_t& link) {
  const uint32_t dropped = link;
  link = more[dropped - 1].next;
  more[dropped - 1].next = unused;
  unused = dropped;
}

void Shadow::split(Page& page, int shift) {
  std::vector<Cell> cells(kPageBytes >> shift);
  const int factor = 1 << (page.shift - shift);
  for (size_t i = 0; i < cells.size(); ++i) {
    cells[i] = page.cells[i / factor];
    // Each piece has its own list of readers.
    if (i % factor) {
      uint32_t list = 0;
      for (uint32_t at = cells[i].more_readers; at; at = page.more[at - 1].next)
        list = page.add(page.more[at - 1].reader, list);
      cells[i].more_readers = list;
    }
  }
  page.cells = std::move(cells);
  page.shift = shift;
}

Shadow::Page& Shadow::make_page(uint64_t offset, uint32_t bytes) {
  std::unique_ptr<Page>& slot = pages_[offset >> kPageShift];
  if (!slot) slot = std::make_unique<Page>();
  Page& page = *slot;
  if (page.launch != launch_ || page.cells.empty()) {
    page.launch = launch_;
    page.cells.assign(kPageBytes >> page.shift, Cell{});
    page.more.clear();
    page.unused = 0;
  }
  const int shift = std::min(kCoarsest, std::countr_zero(bytes));
  if (shift < page.shift) split(page, shift);
  return page;
}

inline bool Shadow::read_quickly(Cell& cell, const Access& a) {
  if (cell.write_clock) return false;
  Reader& last = cell.reader;
  const uint32_t lane = 1u << a.lane;
  if (last.clock) {
    if (last.slot != a.slot || last.clock < a.slot_begin[a.slot]) return false;
    if (last.clock == a.clock) {
      last.lanes |= lane;
      last.scope = std::min(last.scope, a.scope);
      return true;
    }
    if (last.lanes != lane) return false;
  }
  // The first read, or a later one by the thread that was the last to read.
  last = {a.clock, a.pc, lane, static_cast<uint16_t>(a.slot), a.scope, a.non_coherent, false};
  return true;
}

inline bool Shadow::write_quickly(Cell& cell, const Access& a) {
  const Reader& last = cell.reader;
  const uint32_t begin = a.slot_begin[a.slot];
  if (cell.more_readers) return false;
  if (last.clock && (last.slot != a.slot || last.clock < begin || last.lanes != 1u << a.lane))
    return false;
  if (cell.write_clock && (cell.write_slot != a.slot || cell.write_lane != a.lane ||
                           cell.write_clock < begin || cell.write_scope != a.scope))
    return false;
  // Nobody but this thread has been here.
  if (last.non_coherent) return false;
  if (last.clock && a.scope != Scope::kNone && last.scope == Scope::kNone) return false;
  cell.reader.clock = 0;
  cell.write_clock = a.clock;
  cell.write_pc = a.pc;
  cell.write_slot = static_cast<uint16_t>(a.slot);
  cell.write_lane = static_cast<uint8_t>(a.lane) & 0x7f;
  cell.write_scope = a.scope;
  return true;
}

template <bool (*kQuickly)(Shadow::Cell&, const Access&)>
int Shadow::range(uint64_t offset, uint32_t bytes, Access& access) {
  for (int lane = 0; lane < kLanes;) {
    const uint64_t at = offset + static_cast<uint64_t>(lane) * bytes;
    Page& p = page(at, bytes);
    const uint64_t in_page = at & (kPageBytes - 1);
    const int here = static_cast<int>((kPageBytes - in_page + bytes - 1) / bytes);
    Cell* cell = &p.cells[in_page >> p.shift];
    const uint32_t per_lane = bytes >> p.shift;
    for (const int end = std::min(kLanes, lane + here); lane < end; ++lane) {
      access.lane = lane;
      for (uint32_t i = 0; i < per_lane; ++i, ++cell)
        if (!kQuickly(*cell, access)) return lane;
    }
  }
  return kLanes;
}

int Shadow::read_range(uint64_t offset, uint32_t bytes, Access& access) {
  return range<read_quickly>(offset, bytes, access);
}
int Shadow::write_range(uint64_t offset, uint32_t bytes, Access& access) {
  return range<write_quickly>(offset, bytes, access);
}

// Whether what was written last is ordered before the access, if anything was written.
inline bool Shadow::is_known(const Cell& cell, const Access& a) {
  return !cell.write_clock || ordered(a, cell.write_slot, cell.write_lane, cell.write_clock);
}

Conflict Shadow::read(uint64_t offset, uint32_t bytes, const Access& access) {
  Page& p = page(offset, bytes);
  Conflict found;
  const uint64_t in_page = offset & (kPageBytes - 1);
  for (uint64_t i = in_page >> p.shift; i <= (in_page + bytes - 1) >> p.shift; ++i)
    if (access.proxied || !read_quickly(p.cells[i], access)) {
      Cell& cell = p.cells[i];
      // Mostly the write is known, and there is nothing to copy.
      if (access.non_coherent || cell.hides_write || !is_known(cell, access))
        if (const Conflict c = check_read(p, cell, access); c && !found) found = c;
      note_read(p, cell, access);
    }
  return found;
}

Conflict Shadow::write(uint64_t offset, uint32_t bytes, const Access& access) {
  Page& p = page(offset, bytes);
  Conflict found;
  const uint64_t in_page = offset & (kPageBytes - 1);
  for (uint64_t i = in_page >> p.shift; i <= (in_page + bytes - 1) >> p.shift; ++i)
    if (access.proxied || !write_quickly(p.cells[i], access))
      write_cell(p, p.cells[i], access, found);
  return found;
}

Conflict Shadow::find_reader(uint64_t offset, uint32_t bytes, const Access& access) {
  const Page& p = page(offset, bytes);
  const uint64_t in_page = offset & (kPageBytes - 1);
  for (uint64_t i = in_page >> p.shift; i <= (in_page + bytes - 1) >> p.shift; ++i) {
    const Cell& cell = p.cells[i];
    if (cell.reader.clock)
      if (const uint32_t lanes = conflicting_lanes(cell.reader, access))
        return conflict_with(cell.reader, lanes, access);
    for (uint32_t at = cell.more_readers; at; at = p.more[at - 1].next) {
      const Reader& r = p.more[at - 1].reader;
      if (r.is_write) continue;
      if (const uint32_t lanes = conflicting_lanes(r, access))
        return conflict_with(r, lanes, access);
    }
  }
  return {};
}

Conflict Shadow::check_hidden_writes(const Page& page, const Cell& cell, const Access& a) {
  for (uint32_t at = cell.more_readers; at; at = page.more[at - 1].next) {
    const Reader& r = page.more[at - 1].reader;
    const int lane = std::countr_zero(r.lanes);
    if (r.is_write && !ordered(a, r.slot, lane, r.clock))
      return conflict(Conflict::Kind::kReadAfterWrite, a, r.slot, lane, r.clock, r.pc, r.scope);
  }
  return {};
}

Conflict Shadow::check_read(const Page& page, const Cell& cell, const Access& a) {
  Conflict found;
  if (!cell.write_clock) return found;
  if (!is_known(cell, a) && !reach(a, cell.write_scope, cell.write_slot, cell.write_clock)) {
    found = conflict(Conflict::Kind::kReadAfterWrite, a, cell.write_slot, cell.write_lane,
                     cell.write_clock, cell.write_pc, cell.write_scope);
    found.non_coherent = a.non_coherent;
  }
  if (a.non_coherent && !found &&
      !a.done_before->covers(cell.write_slot, cell.write_lane, cell.write_clock)) {
    // Ordered or not, the read-only path may return what was there before.
    found = conflict(Conflict::Kind::kReadAfterWrite, a, cell.write_slot, cell.write_lane,
                     cell.write_clock, cell.write_pc, cell.write_scope);
    found.non_coherent = found.is_ordered = true;
  }
  if (cell.hides_write && !found) return check_hidden_writes(page, cell, a);
  return found;
}

void Shadow::note_read(Page& page, Cell& cell, const Access& a) {
  const Reader mine{a.clock, a.pc,           1u << a.lane, static_cast<uint16_t>(a.slot),
                    a.scope, a.non_coherent, false};
  Reader& last = cell.reader;
  if (last.clock == a.clock && last.slot == a.slot) {
    last.lanes |= mine.lanes;
    last.scope = std::min(last.scope, a.scope);
    return;
  }
  const auto is_covered = [&](const Reader& r) {
    if (r.clock == a.clock && r.slot == a.slot) return false;
    // A strong read does not stand for a weak access: strong writes conflict with that alone.
    if (r.is_write || (a.scope != Scope::kNone && r.scope == Scope::kNone)) return false;
    const uint32_t others = same_warp(a, r.slot, r.clock) ? r.lanes & ~mine.lanes : r.lanes;
    return a.seen->covers_all(r.slot, others, r.clock);
  };
  // Whether the same lanes have read again since, no stronger: then that speaks for both.
  const auto is_repeated = [&](const Reader& r) {
    return r.slot == last.slot && r.clock >= a.slot_begin[r.slot] && !(r.lanes & ~last.lanes) &&
           r.scope >= last.scope && !r.is_write;
  };
  if (last.clock && !is_covered(last)) {
    for (uint32_t* link = &cell.more_readers; *link;) {
      Reader& r = page.more[*link - 1].reader;
      if (r.clock == a.clock && r.slot == a.slot && !r.is_write) {
        r.lanes |= mine.lanes;
        r.scope = std::min(r.scope, a.scope);
        return;
      }
      if (is_covered(r) || is_repeated(r))
        page.drop(*link);
      else
        link = &page.more[*link - 1].next;
    }
    cell.more_readers = page.add(last, cell.more_readers);
  }
  last = mine;
}

// The lanes of a read, or of a weak write that strong ones have hidden, that a write conflicts
// with.
uint32_t Shadow::conflicting_lanes(const Reader& r, const Access& a) {
  if (r.is_write) return ordered(a, r.slot, std::countr_zero(r.lanes), r.clock) ? 0 : r.lanes;
  const bool own_warp = !a.proxied && same_warp(a, r.slot, r.clock);
  const uint32_t others = own_warp ? r.lanes & ~(1u << a.lane) : r.lanes;
  if (a.seen->covers_all(r.slot, others, r.clock) || reach(a, r.scope, r.slot, r.clock)) return 0;
  return others;
}

Conflict Shadow::conflict_with(const Reader& r, uint32_t lanes, const Access& a) {
  Conflict found =
      conflict(r.is_write ? Conflict::Kind::kWriteAfterWrite : Conflict::Kind::kWriteAfterRead, a,
               r.slot, std::countr_zero(lanes), r.clock, r.pc, r.scope);
  if (r.is_write) return found;
  found.lacks_proxy_fence = false;  // reads need none
  found.non_coherent = r.non_coherent;
  return found;
}

void Shadow::write_cell(Page& page, Cell& cell, const Access& a, Conflict& found) {
  if (!found && cell.write_clock &&
      !ordered(a, cell.write_slot, cell.write_lane, cell.write_clock) &&
      !reach(a, cell.write_scope, cell.write_slot, cell.write_clock))
    found = conflict(Conflict::Kind::kWriteAfterWrite, a, cell.write_slot, cell.write_lane,
                     cell.write_clock, cell.write_pc, cell.write_scope);
  const auto check = [&](const Reader& r) {
    if (found) return;
    if (const uint32_t lanes = conflicting_lanes(r, a)) found = conflict_with(r, lanes, a);
  };
  // A weak write takes the place of all that came before; a strong one does not speak for weak
  // accesses, with which later strong ones may conflict.
  const auto stays = [&a](Scope scope) { return a.scope != Scope::kNone && scope == Scope::kNone; };
  if (cell.reader.clock) {
    check(cell.reader);
    if (!stays(cell.reader.scope)) cell.reader.clock = 0;
  }
  for (uint32_t* link = &cell.more_readers; *link;) {
    check(page.more[*link - 1].reader);
    if (stays(page.more[*link - 1].reader.scope))
      link = &page.more[*link - 1].next;
    else
      page.drop(*link);
  }
  if (cell.write_clock && stays(cell.write_scope)) {
    const Reader hidden{cell.write_clock,
                        cell.write_pc,
                        1u << cell.write_lane,
                        cell.write_slot,
                        Scope::kNone,
                        false,
                        true};
    cell.more_readers = page.add(hidden, cell.more_readers);
    cell.hides_write = true;
  }
  if (a.scope == Scope::kNone) cell.hides_write = false;
  cell.write_clock = a.clock;
  cell.write_pc = a.pc;
  cell.write_slot = static_cast<uint16_t>(a.slot);
  cell.write_lane = static_cast<uint8_t>(a.lane) & 0x7f;
  cell.write_scope = a.scope;
}

}  // namespace gptoss::emulator
