// F32x16 as one 512-bit register. Needs AVX-512 F, BW, DQ, VL (compiled with VNNI too).
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "core/mxfp4.h"
#include "core/q8.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {

// 32 registers: 16 sums, 8 weights (4 rows, even and odd), 2 activations and the FP4 table.
inline constexpr int kTileRows = 4;
inline constexpr int kTileTokens = 4;
// One token: enough independent sums to cover 4 cycles of FMA latency on one or two ports.
inline constexpr int kTileRowsOneToken = 8;
// 4 rows' weights (8), 4 sums, the table and a group's activations fit into 32 registers.
inline constexpr int kTileTokensQ8 = 4;
inline constexpr int kTileQueries = 4;
inline constexpr int kTileKeyVectors = 4;
inline constexpr bool kStagesPages = false;

struct F32x16 {
  __m512 v;
};

inline F32x16 set1(float x) { return {_mm512_set1_ps(x)}; }
inline F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F32x16 a) { _mm512_storeu_ps(p, a.v); }
inline F32x16 add(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32x16 sub(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32x16 mul(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32x16 div(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32x16 fused(F32x16 a, F32x16 b, F32x16 c) { return fma(a, b, c); }
inline F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32x16 round(F32x16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline F32x16 pow2(F32x16 n) {
  const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
}
inline F32x16 select_less(F32x16 a, F32x16 b, F32x16 yes, F32x16 no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}
inline F32x16 keep_lanes(F32x16 a, int begin, int end, float fill) {
  const uint32_t below_end = end <= 0 ? 0 : end >= 16 ? 0xffffu : (1u << end) - 1;
  const uint32_t below_begin = begin <= 0 ? 0 : begin >= 16 ? 0xffffu : (1u << begin) - 1;
  const auto keep = static_cast<__mmask16>(below_end & ~below_begin);
  return {_mm512_mask_blend_ps(keep, _mm512_set1_ps(fill), a.v)};
}
inline F32x16 keep_bits(F32x16 a, uint32_t bits, float fill) {
  return {_mm512_mask_blend_ps(static_cast<__mmask16>(bits), _mm512_set1_ps(fill), a.v)};
}
inline uint32_t lanes_at_least(F32x16 a, float bound) {
  return _mm512_cmp_ps_mask(a.v, _mm512_set1_ps(bound), _CMP_GE_OQ);
}
inline void store_int32(int32_t* p, F32x16 a) { _mm512_storeu_si512(p, _mm512_cvttps_epi32(a.v)); }
// In f64, exact below 2^53.
struct MassSum {
  __m512d sums[2] = {};

  void add(F32x16 a) {
    sums[0] = _mm512_add_pd(sums[0], _mm512_cvtps_pd(_mm512_castps512_ps256(a.v)));
    sums[1] = _mm512_add_pd(sums[1], _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1)));
  }
  uint64_t total() const {
    const __m512d both = _mm512_add_pd(sums[0], sums[1]);
    const __m256d four =
        _mm256_add_pd(_mm512_castpd512_pd256(both), _mm512_extractf64x4_pd(both, 1));
    double lanes[4];
    _mm256_storeu_pd(lanes, four);
    return static_cast<uint64_t>(
        static_cast<int64_t>((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])));
  }
};
inline float reduce_add(F32x16 a) {
  const __m256 lanes8 = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 lanes4 = _mm_add_ps(_mm256_castps256_ps128(lanes8), _mm256_extractf128_ps(lanes8, 1));
  lanes4 = _mm_add_ps(lanes4, _mm_movehl_ps(lanes4, lanes4));
  return _mm_cvtss_f32(_mm_add_ss(lanes4, _mm_movehdup_ps(lanes4)));
}
inline float reduce_max(F32x16 a) {
  const __m256 lanes8 = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 lanes4 = _mm_max_ps(_mm256_castps256_ps128(lanes8), _mm256_extractf128_ps(lanes8, 1));
  lanes4 = _mm_max_ps(lanes4, _mm_movehl_ps(lanes4, lanes4));
  return _mm_cvtss_f32(_mm_max_ss(lanes4, _mm_movehdup_ps(lanes4)));
}
inline F32x16 load_half(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline void store_half(uint16_t* p, F32x16 a) {
  const __m512 limit = _mm512_set1_ps(65504.0f);
  // The order of operands lets NaN through.
  const __m512 bounded =
      _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), limit), _mm512_min_ps(limit, a.v));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(bounded, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
// Of 32 numbers, those with even index and those with odd ones.
inline void load_pairs(const float* p, F32x16& even, F32x16& odd) {
  const __m512 first = _mm512_loadu_ps(p);
  const __m512 second = _mm512_loadu_ps(p + 16);
  const __m512i evens =
      _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  even.v = _mm512_permutex2var_ps(first, evens, second);
  odd.v = _mm512_permutex2var_ps(first, _mm512_add_epi32(evens, _mm512_set1_epi32(1)), second);
}
// Whole numbers in [-127, 127].
inline void store_int8(int8_t* p, F32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
inline F32x16 load_int8(const int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}
inline void load_bf16_pairs(const uint16_t* p, F32x16& even, F32x16& odd) {
  const __m512i words = _mm512_loadu_si512(p);
  even.v = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
  odd.v = _mm512_castsi512_ps(
      _mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
// A group of bf12 as two vectors of bf16, in order.
inline void unpack_bf12(const uint8_t* low, const uint8_t* nibbles, __m512i table, __m512i& first,
                        __m512i& second) {
  const __m512i pairs =
      _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(nibbles)));
  const __m512i places =
      _mm512_and_si512(_mm512_or_si512(pairs, _mm512_slli_epi16(pairs, 4)), _mm512_set1_epi8(15));
  const __m512i upper = _mm512_shuffle_epi8(table, places);
  const __m512i lower = _mm512_loadu_si512(low);
  first = _mm512_unpacklo_epi8(lower, upper);
  second = _mm512_unpackhi_epi8(lower, upper);
}
inline __m512i load_bf12_table(const uint8_t* table) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
}
inline void unpack_bf12(const uint8_t* low, const uint8_t* nibbles, const uint8_t* table,
                        uint16_t* out) {
  __m512i first;
  __m512i second;
  unpack_bf12(low, nibbles, load_bf12_table(table), first, second);
  _mm512_storeu_si512(out, first);
  _mm512_storeu_si512(out + 32, second);
}
// A table of 16 bytes, for shuffles.
inline __m128i load_table(const E2m1Bytes& table) {
  return _mm_load_si128(reinterpret_cast<const __m128i*>(table.byte));
}
inline void load_mxfp4_pairs(const uint8_t* block, uint8_t scale, F32x16& even, F32x16& odd) {
  const __m512i bytes =
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block)));
  // The permutation looks at the low four bits of each lane only: no masking is needed.
  const __m512 table =
      _mm512_mul_ps(_mm512_loadu_ps(kE2m1Values), _mm512_set1_ps(e8m0_to_float(scale)));
  even.v = _mm512_permutexvar_ps(bytes, table);
  odd.v = _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), table);
}

// Integers; interleaving is within lanes of 128 bits.
using Integers = __m512i;
inline __m512i interleave_low32(__m512i a, __m512i b) { return _mm512_unpacklo_epi32(a, b); }
inline __m512i interleave_high32(__m512i a, __m512i b) { return _mm512_unpackhi_epi32(a, b); }
inline __m512i interleave_low64(__m512i a, __m512i b) { return _mm512_unpacklo_epi64(a, b); }
inline __m512i interleave_high64(__m512i a, __m512i b) { return _mm512_unpackhi_epi64(a, b); }

// ---- int8 products ----------------------------------------------------------------------------
// A group is 4 blocks, 128 elements: of MXFP4 weights, doubled so that they are whole numbers in
// [-12, 12], or of int8 weights.

struct I32x16 {
  __m512i v;
};
// A group of one row, with an offset that makes the codes unsigned.
struct Codes128 {
  __m512i even, odd;
};
// Lane 4b + r: p[b].
inline __m512i spread4_lanes() {
  return _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
}
inline F32x16 spread4(const float* p) {
  return {_mm512_permutexvar_ps(spread4_lanes(), _mm512_castps128_ps512(_mm_loadu_ps(p)))};
}
inline __m512i spread4(const int32_t* p) {
  const __m128i four = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm512_permutexvar_epi32(spread4_lanes(), _mm512_castsi128_si512(four));
}

struct Mxfp4Group : Codes128 {
  using Scale = uint8_t;
  static constexpr int kBlockBytes = kMxfp4BlockBytes;

  static Mxfp4Group load(const uint8_t* blocks, int n_blocks) {
    const __m512i table = _mm512_broadcast_i32x4(load_table(kE2m1DoubledPlus16));
    const __m512i low_nibbles = _mm512_set1_epi8(15);
    const __m512i bytes =
        n_blocks == 4 ? _mm512_loadu_si512(blocks)
                      : _mm512_maskz_loadu_epi8((uint64_t{1} << (16 * n_blocks)) - 1, blocks);
    return {
        {_mm512_shuffle_epi8(table, _mm512_and_si512(bytes, low_nibbles)),
         _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low_nibbles))}};
  }
  // What a Q8 row has for a block of these codes, of this sum.
  static int32_t correction(const int8_t* /*codes*/, int32_t sum) { return -16 * sum; }
  static void spread_corrections(const int32_t* p, int32_t* out) {
    _mm512_store_si512(out, spread4(p));
  }
  // Eight products of a lane, <= 28 * 127 each, fit into 16 bits: two shuffles fewer than with 32.
  static I32x16 sum_rows(const I32x16 (&dots)[4], const int32_t* corrections) {
    const auto pairs = [](I32x16 a, I32x16 b) {
      const __m512i lanes = _mm512_packs_epi32(a.v, b.v);
      return _mm512_castsi512_ps(_mm512_madd_epi16(lanes, _mm512_set1_epi16(1)));
    };
    const __m512 r01 = pairs(dots[0], dots[1]);
    const __m512 r23 = pairs(dots[2], dots[3]);
    const __m512i first = _mm512_castps_si512(_mm512_shuffle_ps(r01, r23, 0x88));
    const __m512i second = _mm512_castps_si512(_mm512_shuffle_ps(r01, r23, 0xdd));
    return {_mm512_add_epi32(_mm512_add_epi32(first, second), _mm512_load_si512(corrections))};
  }
};
struct Q8Group : Codes128 {
  using Scale = uint16_t;
  static constexpr int kBlockBytes = kQ8Block;

  static Q8Group load(const uint8_t* group, int n_blocks) {
    const __mmask64 mask = ~uint64_t{0} >> (64 - 16 * n_blocks);
    const __m512i offset = _mm512_set1_epi8(-128);
    return {{_mm512_xor_si512(offset, _mm512_maskz_loadu_epi8(mask, group)),
             _mm512_xor_si512(offset, _mm512_maskz_loadu_epi8(mask, group + 16 * n_blocks))}};
  }
  static void spread_corrections(const int32_t* p, int32_t* out) {
    _mm512_store_si512(out, _mm512_slli_epi32(spread4(p), 3));
  }
  static I32x16 sum_rows(const I32x16 (&dots)[4], const int32_t* corrections) {
    const auto pairs = [](__m512i a, __m512i b) {
      return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    };
    const __m512i r01 = pairs(dots[0].v, dots[1].v);
    const __m512i r23 = pairs(dots[2].v, dots[3].v);
    const __m512i first = _mm512_unpacklo_epi64(r01, r23);
    const __m512i second = _mm512_unpackhi_epi64(r01, r23);
    return {_mm512_add_epi32(_mm512_add_epi32(first, second), _mm512_load_si512(corrections))};
  }
};

inline I32x16 dot(const Codes128& w, const int8_t* x_even, const int8_t* x_odd) {
  const __m512i even =
      _mm512_dpbusd_epi32(_mm512_setzero_si512(), w.even, _mm512_load_si512(x_even));
  return {_mm512_dpbusd_epi32(even, w.odd, _mm512_load_si512(x_odd))};
}
inline F32x16 to_float(I32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline F32x16 load_scales4x4(const uint8_t* r0, const uint8_t* r1, const uint8_t* r2,
                             const uint8_t* r3, int n_blocks) {
  int rows[4] = {};
  const auto count = static_cast<size_t>(n_blocks);
  std::memcpy(&rows[0], r0, count);
  std::memcpy(&rows[1], r1, count);
  std::memcpy(&rows[2], r2, count);
  std::memcpy(&rows[3], r3, count);
  const __m128i by_row = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows));
  const __m128i by_block =
      _mm_shuffle_epi8(by_row, _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu8_epi32(by_block), 23))};
}
inline F32x16 load_scales4x4(const uint16_t* r0, const uint16_t* r1, const uint16_t* r2,
                             const uint16_t* r3, int n_blocks) {
  uint64_t rows[4] = {};
  const auto bytes = static_cast<size_t>(2 * n_blocks);
  std::memcpy(&rows[0], r0, bytes);
  std::memcpy(&rows[1], r1, bytes);
  std::memcpy(&rows[2], r2, bytes);
  std::memcpy(&rows[3], r3, bytes);
  // Word 4r + b to the upper half of lane 4b + r.
  const __m512i by_row =
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows)));
  const __m512i by_block = _mm512_permutexvar_epi32(
      _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), by_row);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(by_block, 16))};
}

}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
