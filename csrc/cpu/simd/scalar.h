// F32x16 in plain C++: the variant to read, and the one that runs everywhere.
//
// Every ISA has this type with the same 16 lanes and the same order of operations, so the kernels
// are written once and all ISAs that have fused multiply-add give the same bits.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/bf12.h"
#include "core/float16.h"
#include "core/fma.h"
#include "core/mxfp4.h"
#include "core/q8.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {

// Rows and tokens of a matmul tile, rows of an attention tile; a tile's sums are kept in registers
// by the ISAs that have enough of them.
inline constexpr int kTileRows = 2;
inline constexpr int kTileTokens = 2;
inline constexpr int kTileRowsOneToken = 4;
inline constexpr int kTileTokensQ8 = 1;
inline constexpr int kTileQueries = 1;
inline constexpr int kTileKeyVectors = 4;
inline constexpr bool kStagesPages = false;

struct F32x16 {
  float v[16];
};

#define GPTOSS_LANES for (int i = 0; i < 16; ++i)

inline F32x16 set1(float x) {
  F32x16 r;
  GPTOSS_LANES r.v[i] = x;
  return r;
}
inline F32x16 load(const float* p) {
  F32x16 r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
inline void store(float* p, F32x16 a) { std::memcpy(p, a.v, sizeof a.v); }
inline F32x16 add(F32x16 a, F32x16 b) {
  GPTOSS_LANES a.v[i] += b.v[i];
  return a;
}
inline F32x16 sub(F32x16 a, F32x16 b) {
  GPTOSS_LANES a.v[i] -= b.v[i];
  return a;
}
inline F32x16 mul(F32x16 a, F32x16 b) {
  GPTOSS_LANES a.v[i] *= b.v[i];
  return a;
}
inline F32x16 div(F32x16 a, F32x16 b) {
  GPTOSS_LANES a.v[i] /= b.v[i];
  return a;
}
// a * b + c. Two roundings here, one in the ISAs with fused multiply-add.
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  GPTOSS_LANES c.v[i] = a.v[i] * b.v[i] + c.v[i];
  return c;
}
// a * b + c, rounded once on every ISA.
inline F32x16 fused(F32x16 a, F32x16 b, F32x16 c) {
  GPTOSS_LANES c.v[i] = exact_fma(a.v[i], b.v[i], c.v[i]);
  return c;
}
inline F32x16 min(F32x16 a, F32x16 b) {
  GPTOSS_LANES a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return a;
}
inline F32x16 max(F32x16 a, F32x16 b) {
  GPTOSS_LANES a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
// To the nearest whole number, ties to even; |x| < 2^22.
inline F32x16 round(F32x16 a) {
  GPTOSS_LANES a.v[i] = std::nearbyint(a.v[i]);
  return a;
}
// 2^n for whole n in [-126, 127].
inline F32x16 pow2(F32x16 n) {
  GPTOSS_LANES n.v[i] =
      std::bit_cast<float>(static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23);
  return n;
}
// Lanes where a < b get `yes`, the others `no`.
inline F32x16 select_less(F32x16 a, F32x16 b, F32x16 yes, F32x16 no) {
  GPTOSS_LANES no.v[i] = a.v[i] < b.v[i] ? yes.v[i] : no.v[i];
  return no;
}
// Lanes in [begin, end) keep their value, the others get `fill`.
inline F32x16 keep_lanes(F32x16 a, int begin, int end, float fill) {
  GPTOSS_LANES a.v[i] = i >= begin && i < end ? a.v[i] : fill;
  return a;
}
// Lanes whose bit is set keep their value, the others get `fill`.
inline F32x16 keep_bits(F32x16 a, uint32_t bits, float fill) {
  GPTOSS_LANES a.v[i] = (bits >> i & 1) != 0 ? a.v[i] : fill;
  return a;
}
// Bit i: lane i is at least `bound`.
inline uint32_t lanes_at_least(F32x16 a, float bound) {
  uint32_t bits = 0;
  GPTOSS_LANES bits |= (a.v[i] >= bound ? 1u : 0u) << i;
  return bits;
}
// Rounded towards zero.
inline void store_int32(int32_t* p, F32x16 a) { GPTOSS_LANES p[i] = static_cast<int32_t>(a.v[i]); }
inline float reduce_add(F32x16 a) {
  for (int width = 8; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) a.v[i] += a.v[i + width];
  }
  return a.v[0];
}
inline float reduce_max(F32x16 a) {
  for (int width = 8; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) a.v[i] = a.v[i] > a.v[i + width] ? a.v[i] : a.v[i + width];
  }
  return a.v[0];
}
inline F32x16 load_half(const uint16_t* p) {
  F32x16 r;
  GPTOSS_LANES r.v[i] = half_to_float(load_u16(p + i));
  return r;
}
// Rounds to nearest even, saturating at +-65504.
inline void store_half(uint16_t* p, F32x16 a) { GPTOSS_LANES p[i] = float_to_half(a.v[i]); }

// Of 32 numbers, those with even index and those with odd ones.
inline void load_pairs(const float* p, F32x16& even, F32x16& odd) {
  GPTOSS_LANES {
    even.v[i] = p[2 * i];
    odd.v[i] = p[2 * i + 1];
  }
}
// Whole numbers in [-127, 127].
inline void store_int8(int8_t* p, F32x16 a) { GPTOSS_LANES p[i] = static_cast<int8_t>(a.v[i]); }
inline F32x16 load_int8(const int8_t* p) {
  F32x16 r;
  GPTOSS_LANES r.v[i] = static_cast<float>(p[i]);
  return r;
}
// 32 bf16 as their even and odd elements.
// A group of bf12, in order.
inline void unpack_bf12(const uint8_t* low, const uint8_t* nibbles, const uint8_t* table,
                        uint16_t* out) {
  for (int i = 0; i < kBf12Group; ++i) {
    const int place = bf12_place(i);
    const int upper = table[nibbles[place / 2] >> place % 2 * 4 & 15];
    out[i] = static_cast<uint16_t>(upper << 8 | low[place]);
  }
}
inline void load_bf16_pairs(const uint16_t* p, F32x16& even, F32x16& odd) {
  GPTOSS_LANES {
    even.v[i] = bf16_to_float(load_u16(p + 2 * i));
    odd.v[i] = bf16_to_float(load_u16(p + 2 * i + 1));
  }
}
// One MXFP4 block, scaled, as its even and odd elements.
inline void load_mxfp4_pairs(const uint8_t* block, uint8_t scale, F32x16& even, F32x16& odd) {
  const float factor = e8m0_to_float(scale);
  GPTOSS_LANES {
    even.v[i] = kE2m1Values[block[i] & 15] * factor;
    odd.v[i] = kE2m1Values[block[i] >> 4] * factor;
  }
}
// An exact sum of whole numbers up to 2^40, of 2^13 vectors at most.
struct MassSum {
  uint64_t sum = 0;

  void add(F32x16 a) { GPTOSS_LANES sum += static_cast<uint64_t>(a.v[i]); }
  uint64_t total() const { return sum; }
};
#undef GPTOSS_LANES

// ---- int8 products ----------------------------------------------------------------------------
// A group is 4 blocks, 128 elements: of MXFP4 weights, doubled so that they are whole numbers in
// [-12, 12], or of int8 weights.

struct I32x16 {
  int32_t v[16];
};
// A group of one row.
struct Codes128 {
  int8_t even[64], odd[64];
};
inline I32x16 sum_blocks(const I32x16 (&rows)[4]) {
  I32x16 sums = {};
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 4; ++j) sums.v[i] += rows[i % 4].v[i / 4 * 4 + j];
  }
  return sums;
}
struct Mxfp4Group : Codes128 {
  using Scale = uint8_t;
  static constexpr int kBlockBytes = kMxfp4BlockBytes;

  // Blocks from n_blocks on are not read and count as zero.
  static Mxfp4Group load(const uint8_t* blocks, int n_blocks) {
    Mxfp4Group codes = {};
    for (int i = 0; i < kMxfp4BlockBytes * n_blocks; ++i) {
      codes.even[i] = kE2m1Doubled.byte[blocks[i] & 15];
      codes.odd[i] = kE2m1Doubled.byte[blocks[i] >> 4];
    }
    return codes;
  }
  // What a Q8 row has for a block of these codes, of this sum.
  static int32_t correction(const int8_t* /*codes*/, int32_t sum) { return -16 * sum; }
  // A Q8 row's corrections of four blocks in the order of sum_rows, times what the offset of these
  // codes is to 16. Here they have none.
  static void spread_corrections(const int32_t* /*p*/, int32_t* /*out*/) {}
  // Lane 4b + r: the whole sum of block b in row r, from the dots of rows 0 to 3.
  static I32x16 sum_rows(const I32x16 (&dots)[4], const int32_t* /*corrections*/) {
    return sum_blocks(dots);
  }
};
struct Q8Group : Codes128 {
  using Scale = uint16_t;
  static constexpr int kBlockBytes = kQ8Block;

  static Q8Group load(const uint8_t* group, int n_blocks) {
    Q8Group codes = {};
    const auto half = static_cast<size_t>(16 * n_blocks);
    std::memcpy(codes.even, group, half);
    std::memcpy(codes.odd, group + half, half);
    return codes;
  }
  static void spread_corrections(const int32_t* /*p*/, int32_t* /*out*/) {}
  static I32x16 sum_rows(const I32x16 (&dots)[4], const int32_t* /*corrections*/) {
    return sum_blocks(dots);
  }
};
// Lane 4b + j: a part of block b's sum of products with a group of a Q8 row, its even elements and
// its odd ones.
inline I32x16 dot(const Codes128& w, const int8_t* even, const int8_t* odd) {
  I32x16 sums = {};
  for (int i = 0; i < 64; ++i) sums.v[i / 4] += w.even[i] * even[i] + w.odd[i] * odd[i];
  return sums;
}
inline F32x16 to_float(const I32x16& a) {
  F32x16 r;
  for (int i = 0; i < 16; ++i) r.v[i] = static_cast<float>(a.v[i]);
  return r;
}
// Lane 4b + r: 2^(scale byte b of row r - 127); 0 for byte 0 and from n_blocks on.
inline F32x16 load_scales4x4(const uint8_t* r0, const uint8_t* r1, const uint8_t* r2,
                             const uint8_t* r3, int n_blocks) {
  const uint8_t* const rows[4] = {r0, r1, r2, r3};
  F32x16 scales = {};
  for (int i = 0; i < 4 * n_blocks; ++i) {
    scales.v[i] = std::bit_cast<float>(static_cast<uint32_t>(rows[i % 4][i / 4]) << 23);
  }
  return scales;
}
// Lane 4b + r: bf16 scale b of row r; 0 from n_blocks on.
inline F32x16 load_scales4x4(const uint16_t* r0, const uint16_t* r1, const uint16_t* r2,
                             const uint16_t* r3, int n_blocks) {
  const uint16_t* const rows[4] = {r0, r1, r2, r3};
  F32x16 scales = {};
  for (int i = 0; i < 4 * n_blocks; ++i) scales.v[i] = bf16_to_float(rows[i % 4][i / 4]);
  return scales;
}
// Lane 4b + r: p[b].
inline F32x16 spread4(const float* p) {
  F32x16 r;
  for (int i = 0; i < 16; ++i) r.v[i] = p[i / 4];
  return r;
}

}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
