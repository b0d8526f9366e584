// wgmma: matrix products of four warps that go on beside their threads.
//
// Each warp of a warpgroup computes its own 16 rows. The numbers are there at once; what counts as
// being in flight until wgmma.wait_group are the registers and the reads of shared memory.
#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "emulator/ptx/access.h"
#include "emulator/ptx/builder.h"
#include "emulator/ptx/linker.h"
#include "emulator/ptx/number.h"
#include "emulator/ptx/tensor_core.h"
#include "emulator/ptx/tensor_map.h"

namespace gptoss::emulator {
namespace {

constexpr int kWarpsOfGroup = 4;
constexpr int kMostN = 256;
constexpr int kTermBytes = 32;  // of k, in a row of A and in a column of B
constexpr uint32_t kChunkBytes = 16;
constexpr int kChunksPerTile = kColumns * kTermBytes / static_cast<int>(kChunkBytes);

enum Flag : uint32_t {
  kARegisters = 1,
  kATransposed = 2,
  kBTransposed = 4,
  kANegated = 8,
  kBNegated = 16
};

// The elements of A and B. A card may look at what it likes of the low 13 bits of tf32: here
// nothing.
struct Bf16 {
  using Bits = uint16_t;
  static float value(Bits bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
};
struct F16 {
  using Bits = uint16_t;
  // In steps that compilers make vectors of; a power of two moves subnormals, too.
  static float value(Bits bits) {
    const uint32_t magnitude = (bits & 0x7fffu) << 13, sign = (bits & 0x8000u) << 16;
    const uint32_t special = magnitude >= 0x7c00u << 13 ? 0x7f800000u : 0;
    const auto scaled = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
    return std::bit_cast<float>(scaled | special | sign);
  }
};
struct Tf32 {
  using Bits = uint32_t;
  static float value(Bits bits) { return std::bit_cast<float>(bits & 0xffffe000u); }
};

template <class Element>
constexpr int kTerms = kTermBytes / static_cast<int>(sizeof(typename Element::Bits));
template <class Element>
constexpr int kPerChunk = static_cast<int>(kChunkBytes / sizeof(typename Element::Bits));

// A matrix in shared memory: chunks at addresses that the descriptor gives.
struct Descriptor {
  uint32_t start, leading, stride, base_offset;
  int swizzle;  // 0: none; 1, 2, 3: 32, 64, 128 bytes

  explicit Descriptor(uint64_t bits) {
    start = static_cast<uint32_t>(bits & 0x3fff) << 4;
    leading = static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4;
    stride = static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4;
    base_offset = static_cast<uint32_t>(bits >> 49 & 7);
    constexpr int kModes[] = {0, 3, 2, 1};
    swizzle = kModes[bits >> 62];
  }

  // Along k: one of the two chunks of line `mn`.
  uint32_t chunk(uint32_t mn, uint32_t half) const {
    const uint32_t width = kChunkBytes << swizzle;  // bytes of a row
    const uint32_t address =
        start + (mn / 8) * stride + (mn % 8) * width + half * (swizzle ? kChunkBytes : leading);
    return swizzled(address, swizzle);
  }
  // Along mn, of a matrix of 16-bit elements that is transposed: lines `mn` to mn + 7 at `k`.
  uint32_t transposed_chunk(uint32_t mn, uint32_t k) const {
    const uint32_t width = kChunkBytes << swizzle;
    const uint32_t per_row = width / 2;  // elements
    const uint32_t address =
        start + (swizzle ? (mn / per_row) * leading + (k / 8) * stride + (k % 8) * width +
                               (mn % per_row) * 2
                         : (mn / 8) * stride + (k / 8) * leading + (k % 8) * kChunkBytes);
    return swizzled(address, swizzle);
  }
};

void report_register(Warp& warp, uint32_t reg, const char* what) {
  warp.launch->report(ReportClass::kWgmmaRegister, warp, 0,
                      std::string(what) + " while a wgmma that uses it is in flight: " +
                          warp.kernel->register_names[reg]);
}

// The chunks of eight lines: both of each line, or those of each term of a transposed matrix.
using TileChunks = const uint8_t* [kChunksPerTile];

struct Reader {
  Warp& warp;
  const Access access;
  bool all_written = true;

  // Finds `count` lines of a matrix, with all checks.
  void find(const Descriptor& d, int first_mn, int count, bool transposed, TileChunks* tiles) {
    uint32_t addresses[kMostN / kColumns][kChunksPerTile];
    uint32_t lowest = UINT32_MAX, highest = 0;
    for (int tile = 0; tile < count / kColumns; ++tile) {
      const auto mn = static_cast<uint32_t>(first_mn + tile * kColumns);
      for (uint32_t i = 0; i < kChunksPerTile; ++i) {
        const uint32_t at = transposed ? d.transposed_chunk(mn, i) : d.chunk(mn + i / 2, i % 2);
        addresses[tile][i] = at;
        lowest = std::min(lowest, at);
        highest = std::max(highest, at);
      }
    }
    // Only where not all of it lies in one variable is each chunk looked up.
    const bool in_bounds = is_in_shared(warp, lowest, highest - lowest + kChunkBytes);
    for (int tile = 0; tile < count / kColumns; ++tile) {
      for (int i = 0; i < kChunksPerTile; ++i) {
        const uint32_t at = addresses[tile][i];
        if (!in_bounds)
          check_range(warp, Space::kShared, at, kChunkBytes, 0, AccessKind::kLoad, warp.pc);
        tiles[tile][i] = chunk(at);
      }
    }
  }

 private:
  const uint8_t* chunk(uint32_t address) {
    const uint8_t* const state = &warp.cta->shared_state[address];
    const AccessPlan plan{AccessKind::kLoad, kChunkBytes, Scope::kNone, false};
    uint64_t halves[2];
    std::memcpy(halves, state, kChunkBytes);
    constexpr uint64_t kAllWritten = 0x0101010101010101u * Cta::kWritten;
    if (halves[0] != kAllWritten || halves[1] != kAllWritten) {
      uint8_t all = Cta::kWritten, any = 0;
      for (uint32_t i = 0; i < kChunkBytes; ++i) all &= state[i], any |= state[i];
      if (any & ~Cta::kWritten) report_state(warp, address, 0, plan, any);
      all_written = all_written && all;
    }
    if (warp.launch->options.check_races)
      if (const Conflict c = warp.cta->shadow.read(address, kChunkBytes, access))
        report_conflict(warp, Space::kShared, address, 0, c, plan, false);
    return &warp.cta->shared[address];
  }
};

// Where a column of a tile stands: the even ones first, so that four columns of a row lie beside
// each other as they do in the accumulator's registers.
constexpr int place_of(int column) { return column / 2 + column % 2 * (kColumns / 2); }

// Eight lines of a matrix as bits[line][k].
template <class Element>
void gather(const TileChunks& chunks, bool transposed,
            typename Element::Bits (*bits)[kTerms<Element>]) {
  for (int i = 0; i < kChunksPerTile; ++i) {
    if (!transposed) {
      std::memcpy(&bits[i / 2][i % 2 * kPerChunk<Element>], chunks[i], kChunkBytes);
    } else if constexpr (kTerms<Element> == kChunksPerTile) {
      typename Element::Bits lines[kColumns];
      std::memcpy(lines, chunks[i], kChunkBytes);
      for (int line = 0; line < kColumns; ++line) bits[line][i] = lines[line];
    }
  }
}

template <class Element>
void convert_a(const TileChunks* tiles, bool transposed, double sign,
               double (&a)[kRows][kMostTerms]) {
  typename Element::Bits bits[kRows][kTerms<Element>];
  for (int tile = 0; tile < kRows / kColumns; ++tile)
    gather<Element>(tiles[tile], transposed, &bits[tile * kColumns]);
  for (int row = 0; row < kRows; ++row)
    for (int k = 0; k < kTerms<Element>; ++k) a[row][k] = sign * Element::value(bits[row][k]);
}

template <class Element>
void convert_b(const TileChunks& chunks, bool transposed, double sign,
               double (&b)[kMostTerms][kColumns]) {
  typename Element::Bits bits[kColumns][kTerms<Element>], placed[kTerms<Element>][kColumns];
  gather<Element>(chunks, transposed, bits);
  for (int k = 0; k < kTerms<Element>; ++k)
    for (int column = 0; column < kColumns; ++column) placed[k][place_of(column)] = bits[column][k];
  for (int k = 0; k < kTerms<Element>; ++k)
    for (int n = 0; n < kColumns; ++n) b[k][n] = sign * Element::value(placed[k][n]);
}

// A's registers as those of mma.sync: one row of four lanes each, one register 32 bits of k.
template <class Element>
void convert_registers(Warp& warp, const Instruction& in, double sign,
                       double (&a)[kRows][kMostTerms]) {
  constexpr int kPerRegister = 4 / static_cast<int>(sizeof(typename Element::Bits));
  for (int i = 0; i < 4; ++i) {
    const uint32_t* words = warp.reg<uint32_t>(in.src[i]);
    for (int l = 0; l < kLanes; ++l) {
      typename Element::Bits bits[kPerRegister];
      std::memcpy(bits, &words[l], sizeof bits);
      for (int e = 0; e < kPerRegister; ++e)
        a[l / 4 + 8 * (i % 2)][kPerRegister * (l % 4 + 4 * (i / 2)) + e] =
            sign * Element::value(bits[e]);
    }
  }
}

// Register j of a tile's accumulator holds four lanes for each of eight rows, and every second
// column.
void load_sums(Warp& warp, const uint32_t* registers, double (&sum)[kRows][kColumns]) {
  for (int j = 0; j < 4; ++j) {
    const float* d = warp.reg<float>(registers[j]);
    for (int row = 0; row < kRows / 2; ++row)
      for (int i = 0; i < 4; ++i) sum[row + 8 * (j / 2)][4 * (j % 2) + i] = d[4 * row + i];
  }
}

void store_sums(Warp& warp, const uint32_t* registers, const double (&sum)[kRows][kColumns]) {
  for (int j = 0; j < 4; ++j) {
    float* d = warp.reg<float>(registers[j]);
    for (int row = 0; row < kRows / 2; ++row) {
      for (int i = 0; i < 4; ++i) {
        const auto value = static_cast<float>(sum[row + 8 * (j / 2)][4 * (j % 2) + i]);
        d[4 * row + i] = value != value ? std::bit_cast<float>(0x7fffffffu) : value;
      }
    }
  }
}

void need_whole_group(Warp& warp, uint32_t mask) {
  const bool has_group =
      static_cast<size_t>(warp.index | (kWarpsOfGroup - 1)) < warp.cta->warps.size();
  if (mask == kAllLanes && has_group) return;
  warp.launch->report(ReportClass::kDivergentWarp, warp, std::countr_zero(mask),
                      "wgmma needs all 32 lanes of the four warps of a warpgroup");
  throw LaunchFault{Fault::kIllegalInstruction};
}

const Agent& agent_of(Warp& warp) {
  std::optional<Agent>& agent = warp.cta->wgmma_reads;
  if (!agent) agent = warp.launch->make_agent(*warp.cta, true);
  return *agent;
}

uint64_t descriptor_of(Warp& warp, uint32_t reg) {
  const uint64_t* values = warp.reg<uint64_t>(reg);
  bool same = warp.defined[reg] == kAllLanes;
  for (int l = 1; l < kLanes; ++l) same = same && values[l] == values[0];
  if (!same)
    warp.launch->report(ReportClass::kUninitialisedOperand, warp, 0,
                        "a matrix descriptor that was never set, or differs between lanes");
  if (Descriptor(values[0]).base_offset) {
    warp.launch->report(ReportClass::kUninitialisedOperand, warp, 0,
                        "a matrix descriptor with a base offset is not supported");
    throw LaunchFault{Fault::kIllegalInstruction};
  }
  return values[0];
}

template <class Element>
void multiply(Warp& warp, const Instruction& in, uint32_t mask) {
  need_whole_group(warp, mask);
  WgmmaState& state = *warp.wgmma;
  const std::vector<uint32_t>& d_registers =
      warp.kernel->register_lists[static_cast<size_t>(in.list)];
  const bool a_in_registers = in.flags & kARegisters;
  const int n = static_cast<int>(in.immediate), tiles = n / kColumns;

  bool dirty = false;
  for (const uint32_t d : d_registers) dirty = dirty || state.dirty[d];
  for (int i = 0; a_in_registers && i < 4; ++i) {
    dirty = dirty || state.dirty[in.src[i]];
    if (state.writes[in.src[i]]) report_register(warp, in.src[i], "a register is read");
  }
  if (dirty)
    warp.launch->report(ReportClass::kWgmmaFence, warp, 0,
                        "registers of a wgmma were written since the last wgmma.fence");

  const Agent& agent = agent_of(warp);
  const uint32_t clock = agent.clock(state.committed + 1);
  warp.launch->note_agent_clock(*warp.cta, agent, clock);
  VectorClock seen = warp.seen[0];
  seen.know_warp(warp.slot, warp.clock);
  Access access;
  access.slot = agent.slot;
  access.lane = warp.index;
  access.clock = clock;
  access.pc = static_cast<uint32_t>(warp.pc);
  access.seen = &seen;
  access.proxied = &warp.proxied[0].in_shared;
  access.slot_begin = warp.launch->chain.slot_begin.data();
  access.first_slot_of_cta = warp.cta->first_slot;
  access.slots_per_cta = warp.launch->warps_per_cta;
  Reader reader{warp, access};

  alignas(64) double a[kRows][kMostTerms], b[kMostTerms][kColumns], sum[kRows][kColumns];
  const double a_sign = in.flags & kANegated ? -1 : 1, b_sign = in.flags & kBNegated ? -1 : 1;
  const bool a_transposed = in.flags & kATransposed, b_transposed = in.flags & kBTransposed;
  uint32_t ok = kAllLanes;
  int next = 0;
  if (a_in_registers) {
    for (; next < 4; ++next) ok &= warp.defined[in.src[next]];
    convert_registers<Element>(warp, in, a_sign, a);
  } else {
    TileChunks chunks[kRows / kColumns];
    const Descriptor descriptor(descriptor_of(warp, in.src[next++]));
    const int part = warp.index % kWarpsOfGroup;
    // That a warp has waited for its own part says nothing of the others': which warp reads which
    // rows of A, PTX leaves open. Each counts as reading all.
    Reader all{warp, access};
    for (int i = 1; i < kWarpsOfGroup && warp.launch->options.check_races; ++i)
      all.find(descriptor, kRows * ((part + i) % kWarpsOfGroup), kRows, a_transposed, chunks);
    reader.find(descriptor, kRows * part, kRows, a_transposed, chunks);
    convert_a<Element>(chunks, a_transposed, a_sign, a);
  }
  TileChunks chunks[kMostN / kColumns];
  reader.find(Descriptor(descriptor_of(warp, in.src[next++])), 0, n, b_transposed, chunks);
  const bool accumulates = warp.predicate(in.src[next]) & 1;
  ok &= warp.defined[in.src[next]];
  const bool defined = ok == kAllLanes && reader.all_written;

  for (int tile = 0; tile < tiles; ++tile) {
    const uint32_t* const registers = &d_registers[static_cast<size_t>(4 * tile)];
    convert_b<Element>(chunks[tile], b_transposed, b_sign, b);
    if (accumulates)
      load_sums(warp, registers, sum);
    else
      std::memset(sum, 0, sizeof sum);
    multiply_tile(*warp.launch, in.sub, a, b, kTerms<Element>, sum);
    store_sums(warp, registers, sum);
  }
  for (const uint32_t reg : d_registers) {
    if (!accumulates) warp.defined[reg] = kAllLanes;
    if (!defined) {
      warp.defined[reg] = 0;
      warp.origin[reg] = static_cast<uint32_t>(warp.pc) + 1;
    }
    ++state.writes[reg];
    state.open_writes.push_back(reg);
  }
  for (int i = 0; a_in_registers && i < 4; ++i) {
    ++state.reads[in.src[i]];
    state.open_reads.push_back(in.src[i]);
  }
  warp.launch->counters.tensor_multiply_adds += static_cast<uint64_t>(kRows * n * kTerms<Element>);
}

void fence_registers(Warp& warp, const Instruction&, uint32_t mask) {
  need_whole_group(warp, mask);
  WgmmaState& state = *warp.wgmma;
  std::fill(state.dirty.begin(), state.dirty.end(), uint8_t{0});
}

void commit(Warp& warp, const Instruction&, uint32_t mask) {
  need_whole_group(warp, mask);
  WgmmaState& state = *warp.wgmma;
  ++state.committed;
  state.groups.push_back({std::move(state.open_writes), std::move(state.open_reads)});
  state.open_writes.clear();
  state.open_reads.clear();
}

void wait(Warp& warp, const Instruction& in, uint32_t mask) {
  need_whole_group(warp, mask);
  WgmmaState& state = *warp.wgmma;
  const auto keep = static_cast<size_t>(in.immediate);
  while (state.groups.size() > keep) {
    for (const uint32_t reg : state.groups.front().writes) --state.writes[reg];
    for (const uint32_t reg : state.groups.front().reads) --state.reads[reg];
    state.groups.pop_front();
  }
  const Agent& agent = agent_of(warp);
  const uint32_t clock = agent.clock(state.committed - static_cast<uint32_t>(state.groups.size()));
  const auto know = [&](auto& known) {
    if (!known.is_uniform())
      for (int l = 0; l < kLanes; ++l) known.own(l).know_lane(agent.slot, warp.index, clock);
    known.shared().know_lane(agent.slot, warp.index, clock);
  };
  know(warp.seen);
  know(warp.proxied);
}

}  // namespace

void Warp::touch_wgmma_registers(const Instruction& in) {
  WgmmaState& state = *wgmma;
  for (int i = 0; i < in.sources; ++i)
    if (state.writes[in.src[i]]) report_register(*this, in.src[i], "a register is read");
  for (int i = 0; i < in.destinations; ++i) {
    const uint32_t d = in.dst[i];
    if (state.writes[d] || state.reads[d]) report_register(*this, d, "a register is written");
    state.dirty[d] = 1;
  }
}

namespace build {

void wgmma(Builder& b) {
  Instruction& in = b.in;
  const auto& operands = b.statement().operands;
  const bool a_in_registers = operands.size() > 1 && operands[1].kind == Operand::Kind::kVector;
  // Only matrices of 16-bit elements in shared memory may be transposed.
  const bool is_tf32 = in.type == Type::kTf32;
  const size_t wanted = is_tf32 ? 6 : a_in_registers ? 7 : 8;
  if (operands.size() != wanted) b.fail("this form has " + std::to_string(wanted) + " operands");
  const std::string_view shape = b.statement().words[4];
  const int n = std::atoi(std::string(shape.substr(4)).c_str());
  if (operands[0].kind != Operand::Kind::kVector ||
      operands[0].parts.size() != static_cast<size_t>(n / 2))
    b.fail("the accumulator has " + std::to_string(n / 2) + " registers");
  std::vector<uint32_t> list;
  for (const Operand& part : operands[0].parts)
    list.push_back(b.source_register(part, Type::kB32, 4, false));
  in.list = static_cast<int32_t>(b.linker().kernel().register_lists.size());
  b.linker().kernel().register_lists.push_back(std::move(list));
  if (a_in_registers) {
    if (operands[1].parts.size() != 4) b.fail("A has 4 registers");
    for (const Operand& part : operands[1].parts) b.source(part, Type::kB32, 4, false);
    in.flags |= kARegisters;
  } else {
    b.source(operands[1], Type::kB64, 8, false);
  }
  b.source(operands[2], Type::kB64, 8, false);
  b.source(operands[3], Type::kPred, 0, false);
  const auto number = [&](size_t i) {
    if (operands[i].kind != Operand::Kind::kInteger) b.fail("expected an integer constant");
    return static_cast<int64_t>(operands[i].bits);
  };
  for (size_t i = 4; i < 6; ++i) {
    if (number(i) != 1 && number(i) != -1) b.fail("a scale of A or B is 1 or -1");
    if (number(i) == -1) in.flags |= i == 4 ? kANegated : kBNegated;
  }
  for (size_t i = 6; i < operands.size(); ++i) {
    if (number(i) != 0 && number(i) != 1) b.fail("0 or 1 says whether a matrix is transposed");
    if (number(i)) in.flags |= i == 6 && !a_in_registers ? kATransposed : kBTransposed;
  }
  in.immediate = n;
  in.sub = is_tf32 ? 201 : 200;  // shapes of their own for hostile tensor cores
  in.converges = true;
  in.tracks_definedness = true;
  b.linker().kernel().uses_async_proxy = true;
  b.execute(is_tf32 ? multiply<Tf32> : in.type == Type::kBf16 ? multiply<Bf16> : multiply<F16>);
}

void wgmma_group(Builder& b) {
  b.operands();
  if (b.in.immediate < 0) b.fail("a negative number of groups");
  b.in.converges = true;
  b.in.tracks_definedness = true;
  b.linker().kernel().uses_async_proxy = true;
  b.execute(b.has("fence") ? fence_registers : b.has("commit_group") ? commit : wait);
}

}  // namespace build
}  // namespace gptoss::emulator
