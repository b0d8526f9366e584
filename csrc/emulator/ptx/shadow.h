// Last accesses of each piece of memory, for the race check.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "emulator/ptx/clocks.h"
#include "emulator/ptx/types.h"

namespace gptoss::emulator {

// One access of one lane.
struct Access {
  uint32_t slot = 0;  // of the warp among those resident
  int lane = 0;
  uint32_t clock = 0;  // of the warp
  uint32_t pc = 0;
  Scope scope = Scope::kNone;  // kNone: weak
  bool non_coherent = false;
  // What the thread knows, and since when its slot and those of its CTA and cluster are theirs.
  const VectorClock* seen = nullptr;
  // What had been done for certain when the access's grid began, for the read-only path.
  const VectorClock* done_before = nullptr;
  // Of an access through the async proxy: which writes of threads are fenced for it.
  const VectorClock* proxied = nullptr;
  const uint32_t* slot_begin = nullptr;  // first clock of the current occupant, per slot
  uint32_t first_slot_of_cta = 0, slots_per_cta = 1;
  uint32_t first_slot_of_cluster = 0, slots_per_cluster = 1;
};

// The access that conflicts with another, and how.
struct Conflict {
  enum class Kind : uint8_t { kNone, kReadAfterWrite, kWriteAfterRead, kWriteAfterWrite };
  Kind kind = Kind::kNone;
  uint32_t slot = 0, clock = 0, pc = 0;
  int lane = 0;
  bool inside_warp = false;  // both lanes are of one warp
  bool both_strong = false;  // only a scope is too narrow
  bool either_strong = false;
  bool non_coherent = false;       // the read was ld.global.nc
  bool is_ordered = false;         // so that nothing but ld.global.nc is at fault
  bool lacks_proxy_fence = false;  // ordered, but for another proxy
  explicit operator bool() const { return kind != Kind::kNone; }
};

// The shadow of a range of memory. Starts with pieces of 16 bytes and splits a page's pieces where
// smaller accesses come, so that neighbouring bytes of different threads do not conflict.
class Shadow {
 public:
  explicit Shadow(uint64_t size = 0) { resize(size); }
  void resize(uint64_t size) { pages_.resize((size + kPageBytes - 1) >> kPageShift); }
  void clear() {
    for (auto& page : pages_) page.reset();
  }
  // Cells of an earlier launch count as untouched.
  void begin_launch(uint64_t launch) { launch_ = launch; }

  Conflict read(uint64_t offset, uint32_t bytes, const Access& access);
  Conflict write(uint64_t offset, uint32_t bytes, const Access& access);
  // The read that a write would conflict with; notes nothing.
  Conflict find_reader(uint64_t offset, uint32_t bytes, const Access& access);
  // All lanes of a warp, each `bytes` behind the one before, from `offset` on. Stops at the first
  // lane that does not pass quickly, and returns it; kLanes where all did.
  int read_range(uint64_t offset, uint32_t bytes, Access& access);
  int write_range(uint64_t offset, uint32_t bytes, Access& access);

 private:
  static constexpr int kPageShift = 10;
  static constexpr uint64_t kPageBytes = 1u << kPageShift;
  static constexpr int kCoarsest = 4;

  // Or a weak write that strong ones have hidden: those are checked against it, too.
  struct Reader {
    uint32_t clock;
    uint32_t pc;
    uint32_t lanes;
    uint16_t slot;
    Scope scope;
    bool non_coherent : 1;
    bool is_write : 1;
  };
  struct Cell {
    uint32_t write_clock = 0;
    uint32_t write_pc = 0;
    uint16_t write_slot = 0;
    uint8_t write_lane : 7 = 0;
    bool hides_write : 1 = false;  // among more_readers
    Scope write_scope = Scope::kNone;
    Reader reader{0, 0, 0, 0, Scope::kNone, false, false};  // clock 0: none
    uint32_t more_readers = 0;                              // 1 + index of the first in Page::more
  };
  static_assert(sizeof(Cell) == 32);
  // A reader of a list; 1 + index of the next, 0: none.
  struct MoreReaders {
    Reader reader;
    uint32_t next;
  };
  struct Page {
    uint64_t launch = 0;
    int shift = kCoarsest;
    std::vector<Cell> cells;
    std::vector<MoreReaders> more;  // of all cells
    uint32_t unused = 0;            // the list of those in `more` that no cell has

    uint32_t add(const Reader& reader, uint32_t next);
    void drop(uint32_t& link);  // takes the first of a list away
  };

  Page& page(uint64_t offset, uint32_t bytes) {
    Page* const found = pages_[offset >> kPageShift].get();
    if (found && found->launch == launch_ && !found->cells.empty() &&
        !(bytes & ((1u << found->shift) - 1)))
      return *found;
    return make_page(offset, bytes);
  }
  Page& make_page(uint64_t offset, uint32_t bytes);
  template <bool (*kQuickly)(Cell&, const Access&)>
  int range(uint64_t offset, uint32_t bytes, Access& access);
  // The frequent cases, in which nothing can conflict: true where that was it.
  static bool read_quickly(Cell& cell, const Access& access);
  static bool write_quickly(Cell& cell, const Access& access);
  static void split(Page& page, int shift);
  static bool is_known(const Cell& cell, const Access& access);
  static Conflict check_read(const Page& page, const Cell& cell, const Access& access);
  static Conflict check_hidden_writes(const Page& page, const Cell& cell, const Access& access);
  static void note_read(Page& page, Cell& cell, const Access& access);
  static uint32_t conflicting_lanes(const Reader& reader, const Access& access);
  static Conflict conflict_with(const Reader& reader, uint32_t lanes, const Access& access);
  // Keeps in `found` what is there already.
  static void write_cell(Page& page, Cell& cell, const Access& access, Conflict& found);

  std::vector<std::unique_ptr<Page>> pages_;
  uint64_t launch_ = 0;
};

}  // namespace gptoss::emulator
