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
constexpr int kTerms = 16;
constexpr int kMostN = 256;
constexpr int kElementsPerChunk = 8;
constexpr uint32_t kChunkBytes = 16;

enum Flag : uint32_t {
  kARegisters = 1,
  kATransposed = 2,
  kBTransposed = 4,
  kANegated = 8,
  kBNegated = 16
};

// A matrix in shared memory: chunks of 8 elements, at addresses that the descriptor gives.
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

  // Of the chunk that begins at (mn, k): along k, or along mn where the matrix is transposed.
  uint32_t chunk(int mn, int k, bool transposed) const {
    const auto m = static_cast<uint32_t>(mn), t = static_cast<uint32_t>(k);
    const uint32_t width = 16u << swizzle;  // bytes of a row
    uint32_t address = start;
    if (!transposed) {
      address += swizzle ? (m / 8) * stride + (m % 8) * width + t * 2
                         : (m / 8) * stride + (t / 8) * leading + (m % 8) * kChunkBytes;
    } else {
      const uint32_t per_row = width / 2;  // elements
      address +=
          swizzle ? (m / per_row) * leading + (t / 8) * stride + (t % 8) * width + (m % per_row) * 2
                  : (m / 8) * stride + (t / 8) * leading + (t % 8) * kChunkBytes;
    }
    return swizzled(address, swizzle);
  }
};

void report_register(Warp& warp, uint32_t reg, const char* what) {
  warp.launch->report(ReportClass::kWgmmaRegister, warp, 0,
                      std::string(what) + " while a wgmma that uses it is in flight: " +
                          warp.kernel->register_names[reg]);
}

struct Reader {
  Warp& warp;
  const Access access;
  bool all_written = true;

  // The 16 bytes at a shared address, with all checks.
  const uint8_t* chunk(uint32_t address) {
    check_range(warp, Space::kShared, address, kChunkBytes, 0, AccessKind::kLoad, warp.pc);
    const uint8_t* const state = &warp.cta->shared_state[address];
    uint8_t all = Cta::kWritten, any = 0;
    for (uint32_t i = 0; i < kChunkBytes; ++i) all &= state[i], any |= state[i];
    const AccessPlan plan{AccessKind::kLoad, kChunkBytes, Scope::kNone, false};
    if (any & ~Cta::kWritten) report_state(warp, address, 0, plan, any);
    all_written = all_written && all;
    if (warp.launch->options.check_races)
      if (const Conflict c = warp.cta->shadow.read(address, kChunkBytes, access))
        report_conflict(warp, Space::kShared, address, 0, c, plan, false);
    return &warp.cta->shared[address];
  }
};

template <class Put>
void read_matrix(Reader& reader, const Descriptor& d, int first_mn, int count, bool transposed,
                 bool is_bf16, Put put) {
  const auto convert = [is_bf16](const uint8_t* bytes, int i) -> double {
    uint16_t raw;
    std::memcpy(&raw, bytes + 2 * i, 2);
    return is_bf16 ? bf16_to_float(raw) : f16_to_float(raw);
  };
  if (!transposed) {
    for (int mn = 0; mn < count; ++mn) {
      for (int k = 0; k < kTerms; k += kElementsPerChunk) {
        const uint8_t* bytes = reader.chunk(d.chunk(first_mn + mn, k, false));
        for (int i = 0; i < kElementsPerChunk; ++i) put(mn, k + i, convert(bytes, i));
      }
    }
  } else {
    for (int k = 0; k < kTerms; ++k) {
      for (int mn = 0; mn < count; mn += kElementsPerChunk) {
        const uint8_t* bytes = reader.chunk(d.chunk(first_mn + mn, k, true));
        for (int i = 0; i < kElementsPerChunk; ++i) put(mn + i, k, convert(bytes, i));
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

WgmmaState& state_of(Warp& warp) {
  WgmmaState& state = *warp.wgmma;
  if (!state.in_use) {
    state.in_use = true;
    state.agent = warp.launch->make_agent(*warp.cta);
  }
  return state;
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

void multiply(Warp& warp, const Instruction& in, uint32_t mask) {
  need_whole_group(warp, mask);
  WgmmaState& state = state_of(warp);
  const std::vector<uint32_t>& d_registers =
      warp.kernel->register_lists[static_cast<size_t>(in.list)];
  const bool a_in_registers = in.flags & kARegisters, is_bf16 = in.type == Type::kBf16;
  const int n = static_cast<int>(in.immediate);

  std::vector<uint32_t> used = d_registers;
  bool dirty = false;
  for (const uint32_t d : d_registers) dirty = dirty || state.dirty[d];
  for (int i = 0; a_in_registers && i < 4; ++i) {
    dirty = dirty || state.dirty[in.src[i]];
    if (state.writes[in.src[i]]) report_register(warp, in.src[i], "a register is read");
  }
  if (dirty)
    warp.launch->report(ReportClass::kWgmmaFence, warp, 0,
                        "registers of a wgmma were written since the last wgmma.fence");

  const uint32_t clock = state.agent.clock(state.committed + 1);
  warp.launch->note_agent_clock(*warp.cta, state.agent, clock);
  VectorClock seen = warp.seen[0];
  seen.know_warp(warp.slot, warp.clock);
  const VectorClock proxied = warp.proxied[0];
  Access access;
  access.slot = state.agent.slot;
  access.clock = clock;
  access.pc = static_cast<uint32_t>(warp.pc);
  access.seen = &seen;
  access.proxied = &proxied;
  access.slot_begin = warp.launch->chain.slot_begin.data();
  access.first_slot_of_cta = warp.cta->first_slot;
  access.slots_per_cta = warp.launch->warps_per_cta;
  Reader reader{warp, access};

  alignas(64) double a[kRows][kMostTerms], b[kMostN / kColumns][kMostTerms][kColumns];
  const double a_sign = in.flags & kANegated ? -1 : 1, b_sign = in.flags & kBNegated ? -1 : 1;
  uint32_t ok = kAllLanes;
  int next = 0;
  if (a_in_registers) {
    next = 4;
    for (int i = 0; i < 4; ++i) {
      const uint32_t* words = warp.reg<uint32_t>(in.src[i]);
      ok &= warp.defined[in.src[i]];
      for (int l = 0; l < kLanes; ++l) {
        for (int e = 0; e < 2; ++e) {
          const auto raw = static_cast<uint16_t>(words[l] >> (16 * e));
          a[l / 4 + 8 * (i & 1)][2 * (l % 4) + 8 * (i >> 1) + e] =
              a_sign * (is_bf16 ? bf16_to_float(raw) : f16_to_float(raw));
        }
      }
    }
  } else {
    read_matrix(reader, Descriptor(descriptor_of(warp, in.src[next++])),
                kRows * (warp.index % kWarpsOfGroup), kRows, in.flags & kATransposed, is_bf16,
                [&](int m, int k, double v) { a[m][k] = a_sign * v; });
  }
  read_matrix(reader, Descriptor(descriptor_of(warp, in.src[next++])), 0, n,
              in.flags & kBTransposed, is_bf16,
              [&](int mn, int k, double v) { b[mn / kColumns][k][mn % kColumns] = b_sign * v; });
  const bool accumulates = warp.predicate(in.src[next]) & 1;
  ok &= warp.defined[in.src[next]];
  const bool defined = ok == kAllLanes && reader.all_written;

  for (int tile = 0; tile < n / kColumns; ++tile) {
    double sum[kRows][kColumns];
    float* d[4];
    for (int j = 0; j < 4; ++j) {
      const uint32_t reg = d_registers[static_cast<size_t>(4 * tile + j)];
      d[j] = warp.reg<float>(reg);
      for (int l = 0; l < kLanes; ++l)
        sum[l / 4 + 8 * (j >> 1)][2 * (l % 4) + (j & 1)] = accumulates ? d[j][l] : 0.0;
      if (!accumulates) warp.defined[reg] = kAllLanes;
      if (!defined) {
        warp.defined[reg] = 0;
        warp.origin[reg] = static_cast<uint32_t>(warp.pc) + 1;
      }
    }
    multiply_tile(*warp.launch, in.sub, a, b[tile], kTerms, sum);
    for (int j = 0; j < 4; ++j)
      for (int l = 0; l < kLanes; ++l) {
        const auto value = static_cast<float>(sum[l / 4 + 8 * (j >> 1)][2 * (l % 4) + (j & 1)]);
        d[j][l] = value != value ? std::bit_cast<float>(0x7fffffffu) : value;
      }
  }
  for (const uint32_t reg : d_registers) {
    ++state.writes[reg];
    state.open_writes.push_back(reg);
  }
  for (int i = 0; a_in_registers && i < 4; ++i) {
    ++state.reads[in.src[i]];
    state.open_reads.push_back(in.src[i]);
  }
  warp.launch->counters.tensor_multiply_adds += static_cast<uint64_t>(kRows * n * kTerms);
}

void fence_registers(Warp& warp, const Instruction&, uint32_t mask) {
  need_whole_group(warp, mask);
  WgmmaState& state = state_of(warp);
  std::fill(state.dirty.begin(), state.dirty.end(), uint8_t{0});
}

void commit(Warp& warp, const Instruction&, uint32_t mask) {
  need_whole_group(warp, mask);
  WgmmaState& state = state_of(warp);
  ++state.committed;
  state.groups.push_back({std::move(state.open_writes), std::move(state.open_reads)});
  state.open_writes.clear();
  state.open_reads.clear();
}

void wait(Warp& warp, const Instruction& in, uint32_t mask) {
  need_whole_group(warp, mask);
  WgmmaState& state = state_of(warp);
  const auto keep = static_cast<size_t>(in.immediate);
  while (state.groups.size() > keep) {
    for (const uint32_t reg : state.groups.front().writes) --state.writes[reg];
    for (const uint32_t reg : state.groups.front().reads) --state.reads[reg];
    state.groups.pop_front();
  }
  const uint32_t clock =
      state.agent.clock(state.committed - static_cast<uint32_t>(state.groups.size()));
  for (PerLane<VectorClock>* known : {&warp.seen, &warp.proxied}) {
    if (!known->is_uniform())
      for (int l = 0; l < kLanes; ++l) known->own(l).know_warp(state.agent.slot, clock);
    known->shared().know_warp(state.agent.slot, clock);
  }
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
  const size_t wanted = a_in_registers ? 7 : 8;
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
  in.sub = 200;  // a shape of its own for hostile tensor cores
  in.converges = true;
  in.tracks_definedness = true;
  b.linker().kernel().uses_async_proxy = true;
  b.execute(multiply);
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
