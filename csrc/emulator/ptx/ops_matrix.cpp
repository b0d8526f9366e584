// ldmatrix, stmatrix and mma.sync.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "emulator/ptx/access.h"
#include "emulator/ptx/builder.h"
#include "emulator/ptx/lanes.h"
#include "emulator/ptx/number.h"
#include "emulator/ptx/tensor_core.h"

namespace gptoss::emulator {
namespace {

void need_whole_warp(Warp& warp, uint32_t mask) {
  if (mask == kAllLanes) return;
  warp.launch->report(ReportClass::kDivergentWarp, warp, std::countr_zero(mask),
                      "a matrix instruction needs all 32 lanes of a warp");
  throw LaunchFault{Fault::kIllegalInstruction};
}

constexpr AccessPlan row_plan(AccessKind kind) { return {kind, 16, Scope::kNone, false}; }

// Lane l gives the address of row l % 8 of matrix l / 8. A lane's register of a matrix holds the
// elements 2 * (l % 4) and the next of row l / 4; with .trans of column l / 4.
void ldmatrix(Warp& warp, const Instruction& in, uint32_t mask) {
  need_whole_warp(warp, mask);
  const uint32_t rows = in.vector == 4 ? kAllLanes : (1u << (8 * in.vector)) - 1;
  const LaneAddresses a = addresses(warp, in.address, in.address_bytes, in.offset, rows);
  uint8_t* place[kLanes];
  locate(warp, Space::kShared, a, rows, row_plan(AccessKind::kLoad), place);
  check_load(warp, Space::kShared, a, rows, row_plan(AccessKind::kLoad));
  const bool transposed = in.flags & 1;
  for (int m = 0; m < in.vector; ++m) {
    uint32_t* d = warp.reg<uint32_t>(in.dst[m]);
    uint32_t defined = 0;
    for (int l = 0; l < kLanes; ++l) {
      uint32_t value = 0;
      bool ok = true;
      for (int i = 0; i < 2; ++i) {
        const int row = transposed ? 2 * (l % 4) + i : l / 4;
        const int column = transposed ? l / 4 : 2 * (l % 4) + i;
        const int lane = 8 * m + row;
        uint16_t element;
        std::memcpy(&element, place[lane] + 2 * column, 2);
        value |= uint32_t{element} << (16 * i);
        const uint8_t* state =
            &warp.cta->shared_state[a.at[lane] + static_cast<uint64_t>(2 * column)];
        ok = ok && (state[0] & state[1] & Cta::kWritten);
      }
      d[l] = value;
      defined |= static_cast<uint32_t>(ok) << l;
    }
    warp.defined[in.dst[m]] = defined;
    if (defined != kAllLanes) warp.origin[in.dst[m]] = static_cast<uint32_t>(warp.pc) + 1;
  }
}

void stmatrix(Warp& warp, const Instruction& in, uint32_t mask) {
  need_whole_warp(warp, mask);
  const uint32_t rows = in.vector == 4 ? kAllLanes : (1u << (8 * in.vector)) - 1;
  const LaneAddresses a = addresses(warp, in.address, in.address_bytes, in.offset, rows);
  uint8_t* place[kLanes];
  locate(warp, Space::kShared, a, rows, row_plan(AccessKind::kStore), place);
  check_store(warp, Space::kShared, a, rows, row_plan(AccessKind::kStore), 0, rows);
  const bool transposed = in.flags & 1;
  for (int m = 0; m < in.vector; ++m) {
    const uint32_t* s = warp.reg<uint32_t>(in.src[m]);
    for (int l = 0; l < kLanes; ++l) {
      for (int i = 0; i < 2; ++i) {
        const int row = transposed ? 2 * (l % 4) + i : l / 4;
        const int column = transposed ? l / 4 : 2 * (l % 4) + i;
        const int lane = 8 * m + row;
        const auto element = static_cast<uint16_t>(s[l] >> (16 * i));
        std::memcpy(place[lane] + 2 * column, &element, 2);
        if (!(warp.defined[in.src[m]] >> l & 1))
          std::memset(&warp.cta->shared_state[a.at[lane] + static_cast<uint64_t>(2 * column)], 0,
                      2);
      }
    }
  }
  ++warp.launch->progress;
}

// ---- mma.sync ----

enum Accumulator : uint8_t { kF32Sum, kF16Sum, kS32Sum };

// sub: accumulator; vector: registers of A; register_bytes: registers of B; immediate: k.
// Fragments (lane l, g = l / 4, t = l % 4, e elements per register): register i of A holds row
// g + 8 * (i % 2), k = e * t + 4 * e * (i / 2) and the following; register i of B column g,
// k = e * t + 4 * e * i and the following.
template <class Load>
void spread(Warp& warp, const Instruction& in, int per_register, Load load) {
  for (int l = 0; l < kLanes; ++l) {
    const int g = l / 4, t = l % 4;
    for (int i = 0; i < in.vector; ++i) {
      const uint32_t word = warp.reg<uint32_t>(in.src[i])[l];
      const int row = g + 8 * (i % 2), k = per_register * (t + 4 * (i / 2));
      for (int e = 0; e < per_register; ++e) load(true, row, k + e, word, e);
    }
    for (int i = 0; i < in.register_bytes; ++i) {
      const uint32_t word = warp.reg<uint32_t>(in.src[in.vector + i])[l];
      const int k = per_register * (t + 4 * i);
      for (int e = 0; e < per_register; ++e) load(false, g, k + e, word, e);
    }
  }
}

// Half of a tile's columns: what one vector register holds.
using Half [[gnu::vector_size(kColumns / 2 * sizeof(double))]] = double;

Half load_half(const double* from) {
  Half half;
  std::memcpy(&half, from, sizeof half);
  return half;
}

void store_half(double* to, Half half) { std::memcpy(to, &half, sizeof half); }

// One exact sum of all products and the accumulator, rounded once. A few rows at a time, so that
// their sums stay in registers.
void multiply_exactly(const double (&a)[kRows][kMostTerms], const double (&b)[kMostTerms][kColumns],
                      int terms, double (&sum)[kRows][kColumns]) {
  constexpr int kBlock = 4;
  for (int first = 0; first < kRows; first += kBlock) {
    Half left[kBlock] = {}, right[kBlock] = {};
    for (int k = 0; k < terms; ++k) {
      const Half b_left = load_half(b[k]), b_right = load_half(b[k] + kColumns / 2);
      for (int r = 0; r < kBlock; ++r) {
        left[r] += a[first + r][k] * b_left;
        right[r] += a[first + r][k] * b_right;
      }
    }
    for (int r = 0; r < kBlock; ++r) {
      double* const row = sum[first + r];
      store_half(row, load_half(row) + left[r]);
      store_half(row + kColumns / 2, load_half(row + kColumns / 2) + right[r]);
    }
  }
}

// `value`, of at most 53 bits, as a float: cut or rounded to nearest.
double as_float(double value, bool truncate) {
  const auto nearest = static_cast<float>(value);
  if (!truncate || std::fabs(nearest) <= std::fabs(value)) return nearest;
  return std::nextafter(nearest, 0.0f);
}

// As tensor cores may: groups of k terms are aligned to their largest, cut to a few bits more than
// a float has, added to the accumulator with it, and the sum is cut or rounded to f32.
void multiply_hostile(const double (&a)[kRows][kMostTerms], const double (&b)[kMostTerms][kColumns],
                      int terms, const Launch::TensorBehaviour& how,
                      double (&sum)[kRows][kColumns]) {
  for (int r = 0; r < kRows; ++r) {
    for (int first = 0; first < terms; first += how.group) {
      const int count = std::min(how.group, terms - first);
      double part[kMostTerms][kColumns], largest[kColumns], exact[kColumns], unit[kColumns],
          total[kColumns];
      for (int n = 0; n < kColumns; ++n) {
        exact[n] = sum[r][n];
        largest[n] = std::fabs(exact[n]);
      }
      for (int k = 0; k < count; ++k) {
        for (int n = 0; n < kColumns; ++n) {
          part[k][n] = a[r][first + k] * b[first + k][n];
          exact[n] += part[k][n];
          largest[n] = std::max(largest[n], std::fabs(part[k][n]));
        }
      }
      for (int n = 0; n < kColumns; ++n) {
        // The exponent's bits; products of narrow numbers are never subnormal.
        const uint64_t exponent = std::bit_cast<uint64_t>(largest[n]) >> 52;
        unit[n] = std::bit_cast<double>((exponent - 23 - how.extra_bits) << 52);
        total[n] = std::trunc(sum[r][n] / unit[n]) * unit[n];
      }
      for (int k = 0; k < count; ++k) {
        for (int n = 0; n < kColumns; ++n) total[n] += std::trunc(part[k][n] / unit[n]) * unit[n];
      }
      for (int n = 0; n < kColumns; ++n) {
        const bool special = !std::isfinite(exact[n]) || largest[n] == 0;
        sum[r][n] = special ? exact[n] : as_float(total[n], how.truncate);
      }
    }
  }
}

}  // namespace

void multiply_tile(Launch& launch, uint32_t shape, const double (&a)[kRows][kMostTerms],
                   const double (&b)[kMostTerms][kColumns], int terms,
                   double (&sum)[kRows][kColumns]) {
  if (launch.options.hostile_tensor_cores)
    multiply_hostile(a, b, terms, launch.tensor_behaviour(shape), sum);
  else
    multiply_exactly(a, b, terms, sum);
}

namespace {

// Rows of A and columns of B that are defined throughout decide which results are.
void track_mma(Warp& warp, const Instruction& in) {
  uint32_t bad_rows = 0, bad_columns = 0;
  bool all = true;
  for (int i = 0; i < in.sources; ++i) all = all && warp.defined[in.src[i]] == kAllLanes;
  if (all) {
    for (int i = 0; i < in.destinations; ++i) warp.defined[in.dst[i]] = kAllLanes;
    return;
  }
  uint32_t from = 0;
  for (int i = 0; i < in.vector + in.register_bytes; ++i) {
    const uint32_t bad = ~warp.defined[in.src[i]];
    if (bad && !from) from = warp.origin[in.src[i]];
    for (uint32_t rest = bad; rest; rest &= rest - 1) {
      const int g = std::countr_zero(rest) / 4;
      if (i < in.vector)
        bad_rows |= 1u << (g + 8 * (i % 2));
      else
        bad_columns |= 1u << g;
    }
  }
  const int first_c = in.vector + in.register_bytes;
  const bool is_f16 = in.sub == kF16Sum;
  for (int i = 0; i < in.destinations; ++i) {
    uint32_t ok = 0;
    for (int l = 0; l < kLanes; ++l) {
      const int row = l / 4 + 8 * (is_f16 ? i : i / 2);
      const int column = 2 * (l % 4) + (is_f16 ? 0 : i % 2);
      const uint32_t columns = is_f16 ? 3u << column : 1u << column;
      if (!(bad_rows >> row & 1) && !(bad_columns & columns)) ok |= 1u << l;
    }
    const uint32_t c = warp.defined[in.src[first_c + i]];
    if ((ok & c) != kAllLanes)
      warp.origin[in.dst[i]] = from ? from : warp.origin[in.src[first_c + i]];
    warp.defined[in.dst[i]] = ok & c;
  }
}

void mma_float(Warp& warp, const Instruction& in, uint32_t mask) {
  need_whole_warp(warp, mask);
  const int terms = static_cast<int>(in.immediate);
  alignas(64) double a[kRows][kMostTerms], b[kMostTerms][kColumns], sum[kRows][kColumns];
  const auto put = [&](bool is_a, int mn, int k, double value) {
    (is_a ? a[mn][k] : b[k][mn]) = value;
  };
  switch (in.type2) {
    case Type::kBf16:
      spread(warp, in, 2, [&](bool is_a, int mn, int k, uint32_t word, int e) {
        put(is_a, mn, k, bf16_to_float(static_cast<uint16_t>(word >> (16 * e))));
      });
      break;
    case Type::kF16:
      spread(warp, in, 2, [&](bool is_a, int mn, int k, uint32_t word, int e) {
        put(is_a, mn, k, f16_to_float(static_cast<uint16_t>(word >> (16 * e))));
      });
      break;
    default:  // tf32: the low 13 bits of a float are not looked at
      spread(warp, in, 1, [&](bool is_a, int mn, int k, uint32_t word, int) {
        put(is_a, mn, k, std::bit_cast<float>(word & 0xffffe000u));
      });
      break;
  }
  const int first_c = in.vector + in.register_bytes;
  const bool is_f16 = in.sub == kF16Sum;
  for (int i = 0; i < in.destinations; ++i) {
    const uint32_t* c = warp.reg<uint32_t>(in.src[first_c + i]);
    for (int l = 0; l < kLanes; ++l) {
      if (is_f16) {
        for (int e = 0; e < 2; ++e)
          sum[l / 4 + 8 * i][2 * (l % 4) + e] =
              f16_to_float(static_cast<uint16_t>(c[l] >> (16 * e)));
      } else {
        sum[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2] = std::bit_cast<float>(c[l]);
      }
    }
  }
  multiply_tile(*warp.launch, in.flags, a, b, terms, sum);
  track_mma(warp, in);
  for (int i = 0; i < in.destinations; ++i) {
    uint32_t* d = warp.reg<uint32_t>(in.dst[i]);
    for (int l = 0; l < kLanes; ++l) {
      if (is_f16) {
        d[l] = 0;
        for (int e = 0; e < 2; ++e)
          d[l] |= static_cast<uint32_t>(round_to(exact_of(sum[l / 4 + 8 * i][2 * (l % 4) + e]),
                                                 kFormatF16, Rounding::kNearest))
                  << (16 * e);
      } else {
        const auto value = static_cast<float>(sum[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2]);
        d[l] = value != value ? 0x7fffffffu : std::bit_cast<uint32_t>(value);
      }
    }
  }
  warp.launch->counters.tensor_multiply_adds += static_cast<uint64_t>(kRows * kColumns * terms);
}

void mma_integer(Warp& warp, const Instruction& in, uint32_t mask) {
  need_whole_warp(warp, mask);
  const int terms = static_cast<int>(in.immediate);
  const bool a_signed = in.flags & 1, b_signed = in.flags & 2;
  int32_t a[kRows][kMostTerms], b[kMostTerms][kColumns];
  spread(warp, in, 4, [&](bool is_a, int mn, int k, uint32_t word, int e) {
    const auto raw = static_cast<uint8_t>(word >> (8 * e));
    const int32_t value = (is_a ? a_signed : b_signed) ? static_cast<int8_t>(raw) : raw;
    (is_a ? a[mn][k] : b[k][mn]) = value;
  });
  const int first_c = in.vector + in.register_bytes;
  track_mma(warp, in);
  for (int i = 0; i < in.destinations; ++i) {
    uint32_t* d = warp.reg<uint32_t>(in.dst[i]);
    const uint32_t* c = warp.reg<uint32_t>(in.src[first_c + i]);
    uint32_t out[kLanes];
    for (int l = 0; l < kLanes; ++l) {
      const int row = l / 4 + 8 * (i / 2), column = 2 * (l % 4) + i % 2;
      int64_t s = static_cast<int32_t>(c[l]);
      for (int k = 0; k < terms; ++k) s += a[row][k] * b[k][column];
      if (in.saturate) s = std::clamp<int64_t>(s, INT32_MIN, INT32_MAX);
      out[l] = static_cast<uint32_t>(s);
    }
    // Destinations may be the accumulators of later columns: none is, as each i has its own.
    std::memcpy(d, out, sizeof out);
  }
  warp.launch->counters.tensor_multiply_adds += static_cast<uint64_t>(kRows * kColumns * terms);
}

void shape_of_matrix(Builder& b, size_t operand) {
  Instruction& in = b.in;
  const int n = b.has("x4") ? 4 : b.has("x2") ? 2 : 1;
  if (b.vector_size(operand) != static_cast<size_t>(n)) b.fail("vector of the wrong length");
  in.vector = static_cast<uint8_t>(n);
  in.flags = b.has("trans");
  in.converges = true;
  in.tracks_definedness = true;
}

}  // namespace

namespace build {

void load_matrix(Builder& b) {
  b.in.space = Space::kShared;
  b.operands();
  shape_of_matrix(b, 0);
  b.execute(ldmatrix);
}

void store_matrix(Builder& b) {
  b.in.space = Space::kShared;
  b.operands();
  shape_of_matrix(b, 1);
  b.execute(stmatrix);
}

// Types of the opcode: D, A, B, C.
void multiply_matrix(Builder& b) {
  Instruction& in = b.in;
  b.operands();
  const Type of_d = b.types()[0], of_a = b.types()[1], of_b = b.types()[2];
  int terms = 0;
  for (const auto& [name, k] :
       {std::pair{"m16n8k4", 4}, {"m16n8k8", 8}, {"m16n8k16", 16}, {"m16n8k32", 32}})
    if (b.has(name)) terms = k;
  const bool is_integer = of_d == Type::kS32;
  const int per_register = is_integer ? 4 : of_a == Type::kTf32 ? 1 : 2;
  const auto expect = [&](size_t operand, int n) {
    if (b.vector_size(operand) != static_cast<size_t>(n)) b.fail("fragment of the wrong length");
  };
  const int of_sum = of_d == Type::kF16 ? 2 : 4;
  const int a_registers = terms * kRows / kLanes / per_register;
  const int b_registers = terms * kColumns / kLanes / per_register;
  expect(0, of_sum);
  expect(1, a_registers);
  expect(2, b_registers);
  expect(3, of_sum);
  in.immediate = terms;
  in.vector = static_cast<uint8_t>(a_registers);
  in.register_bytes = static_cast<uint8_t>(b_registers);
  in.sub = is_integer ? kS32Sum : of_d == Type::kF16 ? kF16Sum : kF32Sum;
  in.type2 = of_a;
  in.converges = true;
  in.tracks_definedness = true;
  if (is_integer) {
    in.saturate = b.has("satfinite");
    in.flags = (of_a == Type::kS8 ? 1u : 0u) | (of_b == Type::kS8 ? 2u : 0u);
    return b.execute(mma_integer);
  }
  if (of_a != of_b) b.fail("A and B of different types");
  // What hostile tensor cores behave by: the shape and the types.
  in.flags = static_cast<uint32_t>(terms) << 8 | static_cast<uint32_t>(of_a);
  b.execute(mma_float);
}

}  // namespace build
}  // namespace gptoss::emulator
