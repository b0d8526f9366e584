// F32x16 as two 256-bit registers. Needs AVX2, FMA and F16C.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "core/mxfp4.h"
#include "core/q8.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {

// 16 registers: 8 sums (2 x 2 tiles of two registers), 4 weights, 2 activations.
inline constexpr int kTileRows = 2;
inline constexpr int kTileTokens = 2;
inline constexpr int kTileRowsOneToken = 4;
inline constexpr int kTileTokensQ8 = 3;
inline constexpr int kTileQueries = 4;
inline constexpr int kTileKeyVectors = 1;
inline constexpr bool kStagesPages = true;

struct F32x16 {
  __m256 lo, hi;
};

inline F32x16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F32x16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
inline F32x16 add(F32x16 a, F32x16 b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
inline F32x16 sub(F32x16 a, F32x16 b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
inline F32x16 mul(F32x16 a, F32x16 b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
inline F32x16 div(F32x16 a, F32x16 b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline F32x16 fused(F32x16 a, F32x16 b, F32x16 c) { return fma(a, b, c); }
inline F32x16 min(F32x16 a, F32x16 b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
inline F32x16 max(F32x16 a, F32x16 b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
inline F32x16 round(F32x16 a) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, kMode), _mm256_round_ps(a.hi, kMode)};
}
inline __m256 pow2_lanes8(__m256 n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline F32x16 pow2(F32x16 n) { return {pow2_lanes8(n.lo), pow2_lanes8(n.hi)}; }
inline F32x16 select_less(F32x16 a, F32x16 b, F32x16 yes, F32x16 no) {
  return {_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
          _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
inline __m256 keep_lanes8(__m256 a, int begin, int end, float fill) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i keep = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(begin), lane),
                                           _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane));
  return _mm256_blendv_ps(_mm256_set1_ps(fill), a, _mm256_castsi256_ps(keep));
}
inline F32x16 keep_lanes(F32x16 a, int begin, int end, float fill) {
  return {keep_lanes8(a.lo, begin, end, fill), keep_lanes8(a.hi, begin - 8, end - 8, fill)};
}
inline __m256 keep_bits8(__m256 a, uint32_t bits, float fill) {
  const __m256i lane_bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane_bits);
  return _mm256_blendv_ps(_mm256_set1_ps(fill), a,
                          _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane_bits)));
}
inline F32x16 keep_bits(F32x16 a, uint32_t bits, float fill) {
  return {keep_bits8(a.lo, bits, fill), keep_bits8(a.hi, bits >> 8, fill)};
}
inline uint32_t lanes_at_least(F32x16 a, float bound) {
  const __m256 bounds = _mm256_set1_ps(bound);
  const int lo = _mm256_movemask_ps(_mm256_cmp_ps(a.lo, bounds, _CMP_GE_OQ));
  const int hi = _mm256_movemask_ps(_mm256_cmp_ps(a.hi, bounds, _CMP_GE_OQ));
  return static_cast<uint32_t>(lo | hi << 8);
}
inline void store_int32(int32_t* p, F32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_cvttps_epi32(a.lo));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), _mm256_cvttps_epi32(a.hi));
}
// In f64, exact below 2^53.
struct MassSum {
  __m256d sums[4] = {};

  void add(F32x16 a) {
    add_quarter(0, _mm256_castps256_ps128(a.lo));
    add_quarter(1, _mm256_extractf128_ps(a.lo, 1));
    add_quarter(2, _mm256_castps256_ps128(a.hi));
    add_quarter(3, _mm256_extractf128_ps(a.hi, 1));
  }
  uint64_t total() const {
    double lanes[4];
    _mm256_storeu_pd(
        lanes, _mm256_add_pd(_mm256_add_pd(sums[0], sums[1]), _mm256_add_pd(sums[2], sums[3])));
    return static_cast<uint64_t>(
        static_cast<int64_t>((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])));
  }

 private:
  void add_quarter(int i, __m128 a) { sums[i] = _mm256_add_pd(sums[i], _mm256_cvtps_pd(a)); }
};
inline float reduce_add(F32x16 a) {
  const __m256 lanes8 = _mm256_add_ps(a.lo, a.hi);
  __m128 lanes4 = _mm_add_ps(_mm256_castps256_ps128(lanes8), _mm256_extractf128_ps(lanes8, 1));
  lanes4 = _mm_add_ps(lanes4, _mm_movehl_ps(lanes4, lanes4));
  return _mm_cvtss_f32(_mm_add_ss(lanes4, _mm_movehdup_ps(lanes4)));
}
inline float reduce_max(F32x16 a) {
  const __m256 lanes8 = _mm256_max_ps(a.lo, a.hi);
  __m128 lanes4 = _mm_max_ps(_mm256_castps256_ps128(lanes8), _mm256_extractf128_ps(lanes8, 1));
  lanes4 = _mm_max_ps(lanes4, _mm_movehl_ps(lanes4, lanes4));
  return _mm_cvtss_f32(_mm_max_ss(lanes4, _mm_movehdup_ps(lanes4)));
}
inline F32x16 load_half(const uint16_t* p) {
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(words)),
          _mm256_cvtph_ps(_mm256_extracti128_si256(words, 1))};
}
inline __m128i to_half_lanes8(__m256 a) {
  const __m256 limit = _mm256_set1_ps(65504.0f);
  // The order of operands lets NaN through.
  const __m256 bounded =
      _mm256_max_ps(_mm256_sub_ps(_mm256_setzero_ps(), limit), _mm256_min_ps(limit, a));
  return _mm256_cvtps_ph(bounded, _MM_FROUND_TO_NEAREST_INT);
}
inline void store_half(uint16_t* p, F32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_half_lanes8(a.lo));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), to_half_lanes8(a.hi));
}
inline void load_pairs8(const float* p, __m256& even, __m256& odd) {
  const __m256 first = _mm256_loadu_ps(p);
  const __m256 second = _mm256_loadu_ps(p + 8);
  const auto in_order = [](__m256 a) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(a), 0xd8));
  };
  even = in_order(_mm256_shuffle_ps(first, second, 0x88));
  odd = in_order(_mm256_shuffle_ps(first, second, 0xdd));
}
// Of 32 numbers, those with even index and those with odd ones.
inline void load_pairs(const float* p, F32x16& even, F32x16& odd) {
  load_pairs8(p, even.lo, odd.lo);
  load_pairs8(p + 16, even.hi, odd.hi);
}
// Whole numbers in [-127, 127].
inline void store_int8(int8_t* p, F32x16 a) {
  const __m256i words = _mm256_permute4x64_epi64(
      _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)), 0xd8);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(p),
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
inline F32x16 load_int8(const int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
inline void load_bf16_pairs(const uint16_t* p, F32x16& even, F32x16& odd) {
  const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16));
  const __m256i high_words = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  even.lo = _mm256_castsi256_ps(_mm256_slli_epi32(first, 16));
  even.hi = _mm256_castsi256_ps(_mm256_slli_epi32(second, 16));
  odd.lo = _mm256_castsi256_ps(_mm256_and_si256(first, high_words));
  odd.hi = _mm256_castsi256_ps(_mm256_and_si256(second, high_words));
}
// A group of bf12, in order.
inline void unpack_bf12(const uint8_t* low, const uint8_t* nibbles, const uint8_t* table,
                        uint16_t* out) {
  const __m256i upper_bytes =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  for (int half = 0; half < 2; ++half) {
    const __m256i pairs = _mm256_cvtepu8_epi16(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(nibbles + 16 * half)));
    const __m256i places =
        _mm256_and_si256(_mm256_or_si256(pairs, _mm256_slli_epi16(pairs, 4)), _mm256_set1_epi8(15));
    const __m256i upper = _mm256_shuffle_epi8(upper_bytes, places);
    const __m256i lower = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(low + 32 * half));
    auto* const to = reinterpret_cast<__m256i*>(out + 16 * half);
    _mm256_storeu_si256(to, _mm256_unpacklo_epi8(lower, upper));
    _mm256_storeu_si256(to + 2, _mm256_unpackhi_epi8(lower, upper));
  }
}
// A table of 16 bytes, for shuffles.
inline __m128i load_table(const E2m1Bytes& table) {
  return _mm_load_si128(reinterpret_cast<const __m128i*>(table.byte));
}
// The low 8 bytes, doubled values, as scaled ones.
inline __m256 e2m1_lanes8(__m128i doubled, __m256 half_scale) {
  return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(doubled)), half_scale);
}
inline void load_mxfp4_pairs(const uint8_t* block, uint8_t scale, F32x16& even, F32x16& odd) {
  const __m128i table = load_table(kE2m1Doubled);
  const __m128i low_nibbles = _mm_set1_epi8(15);
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block));
  const __m128i low = _mm_shuffle_epi8(table, _mm_and_si128(bytes, low_nibbles));
  const __m128i high =
      _mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(bytes, 4), low_nibbles));
  const __m256 half_scale = _mm256_set1_ps(e8m0_to_float(scale) * 0.5f);
  even.lo = e2m1_lanes8(low, half_scale);
  even.hi = e2m1_lanes8(_mm_srli_si128(low, 8), half_scale);
  odd.lo = e2m1_lanes8(high, half_scale);
  odd.hi = e2m1_lanes8(_mm_srli_si128(high, 8), half_scale);
}

// Integers; interleaving is within lanes of 128 bits.
using Integers = __m256i;
inline __m256i interleave_low32(__m256i a, __m256i b) { return _mm256_unpacklo_epi32(a, b); }
inline __m256i interleave_high32(__m256i a, __m256i b) { return _mm256_unpackhi_epi32(a, b); }
inline __m256i interleave_low64(__m256i a, __m256i b) { return _mm256_unpacklo_epi64(a, b); }
inline __m256i interleave_high64(__m256i a, __m256i b) { return _mm256_unpackhi_epi64(a, b); }

// ---- int8 products ----------------------------------------------------------------------------
// A group is 4 blocks, 128 elements: of MXFP4 weights, doubled so that they are whole numbers in
// [-12, 12], or of int8 weights.

struct I32x16 {
  __m256i lo, hi;
};
inline I32x16 sum_blocks(const I32x16 (&rows)[4]) {
  const auto pairs = [](__m256i a, __m256i b) {
    return _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
  };
  const auto quads = [&](__m256i a, __m256i b, __m256i c, __m256i d) {
    const __m256i ab = pairs(a, b);
    const __m256i cd = pairs(c, d);
    return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
  };
  return {quads(rows[0].lo, rows[1].lo, rows[2].lo, rows[3].lo),
          quads(rows[0].hi, rows[1].hi, rows[2].hi, rows[3].hi)};
}

// A group of one row; MXFP4 weights carry an offset of 12, so that they are unsigned.
struct Mxfp4Group {
  using Scale = uint8_t;
  static constexpr int kBlockBytes = kMxfp4BlockBytes;
  __m256i even[2], odd[2];

  static Mxfp4Group load(const uint8_t* blocks, int n_blocks) {
    const __m256i table = _mm256_broadcastsi128_si256(load_table(kE2m1DoubledPlus12));
    const __m256i low_nibbles = _mm256_set1_epi8(15);
    uint8_t padded[64] = {};
    if (n_blocks < 4) {
      std::memcpy(padded, blocks, static_cast<size_t>(kMxfp4BlockBytes * n_blocks));
      blocks = padded;
    }
    Mxfp4Group codes;
    for (int i = 0; i < 2; ++i) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(blocks + 32 * i));
      codes.even[i] = _mm256_shuffle_epi8(table, _mm256_and_si256(bytes, low_nibbles));
      codes.odd[i] =
          _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low_nibbles));
    }
    return codes;
  }
  // Two words: -12 * sum of the codes at 0 and 1 of every four, and of those at 2 and 3.
  static int32_t correction(const int8_t* codes, int32_t /*sum*/) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    __m128i sums = _mm_add_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    sums = _mm_add_epi16(sums, _mm_unpackhi_epi64(sums, sums));
    sums = _mm_add_epi16(sums, _mm_shuffle_epi32(sums, 1));
    return _mm_cvtsi128_si32(_mm_mullo_epi16(sums, _mm_set1_epi16(-12)));
  }
  static void spread_corrections(const int32_t* p, int32_t* out) {
    for (int b = 0; b < 4; ++b) {
      const __m128i words = _mm_set1_epi32(p[b]);
      _mm_store_si128(reinterpret_cast<__m128i*>(out + 4 * b),
                      _mm_madd_epi16(words, _mm_set1_epi16(1)));
    }
  }
  static I32x16 sum_rows(const I32x16 (&dots)[4], const int32_t* corrections) {
    const I32x16 sums = sum_blocks(dots);
    const auto* const offsets = reinterpret_cast<const __m256i*>(corrections);
    return {_mm256_add_epi32(sums.lo, _mm256_load_si256(offsets)),
            _mm256_add_epi32(sums.hi, _mm256_load_si256(offsets + 1))};
  }
};
struct Q8Group {
  using Scale = uint16_t;
  static constexpr int kBlockBytes = kQ8Block;
  __m256i even[2], odd[2];

  static Q8Group load(const uint8_t* group, int n_blocks) {
    uint8_t padded[128] = {};
    const uint8_t* halves[2] = {group, group + 64};
    if (n_blocks < 4) {
      const auto half = static_cast<size_t>(16 * n_blocks);
      std::memcpy(padded, group, half);
      std::memcpy(padded + 64, group + half, half);
      halves[0] = padded;
      halves[1] = padded + 64;
    }
    Q8Group codes;
    for (int i = 0; i < 2; ++i) {
      codes.even[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves[0] + 32 * i));
      codes.odd[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves[1] + 32 * i));
    }
    return codes;
  }
  static void spread_corrections(const int32_t* /*p*/, int32_t* /*out*/) {}
  static I32x16 sum_rows(const I32x16 (&dots)[4], const int32_t* /*corrections*/) {
    return sum_blocks(dots);
  }
};

inline __m256i load_half_group(const int8_t* p, int i) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(p + 32 * i));
}
inline I32x16 dot(const Mxfp4Group& w, const int8_t* x_even, const int8_t* x_odd) {
  // |pair of products| <= 2 * 24 * 127 and twice that fit into 16 bits.
  const auto half = [&](int i) {
    const __m256i even = _mm256_maddubs_epi16(w.even[i], load_half_group(x_even, i));
    const __m256i odd = _mm256_maddubs_epi16(w.odd[i], load_half_group(x_odd, i));
    return _mm256_madd_epi16(_mm256_add_epi16(even, odd), _mm256_set1_epi16(1));
  };
  return {half(0), half(1)};
}
inline I32x16 dot(const Q8Group& w, const int8_t* x_even, const int8_t* x_odd) {
  // The sign goes to x: |pair of products| <= 2 * 128 * 127 fits into 16 bits.
  const auto products = [](__m256i a, __m256i b) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  };
  const auto half = [&](int i) {
    return _mm256_add_epi32(products(w.even[i], load_half_group(x_even, i)),
                            products(w.odd[i], load_half_group(x_odd, i)));
  };
  return {half(0), half(1)};
}
// Lane 4b + r: p[b].
inline F32x16 spread4(const float* p) {
  const __m256 four = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
  return {_mm256_permutevar8x32_ps(four, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1)),
          _mm256_permutevar8x32_ps(four, _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3))};
}
inline F32x16 to_float(I32x16 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
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
  const auto powers = [](__m128i bytes) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu8_epi32(bytes), 23));
  };
  return {powers(by_block), powers(_mm_srli_si128(by_block, 8))};
}
inline F32x16 load_scales4x4(const uint16_t* r0, const uint16_t* r1, const uint16_t* r2,
                             const uint16_t* r3, int n_blocks) {
  uint64_t rows[4] = {};
  const auto bytes = static_cast<size_t>(2 * n_blocks);
  std::memcpy(&rows[0], r0, bytes);
  std::memcpy(&rows[1], r1, bytes);
  std::memcpy(&rows[2], r2, bytes);
  std::memcpy(&rows[3], r3, bytes);
  // Words of block b from all rows, in the upper halves of their lanes.
  const auto word = [&](int r, int b) { return static_cast<int>(rows[r] >> (16 * b) << 16); };
  const auto two_blocks = [&](int b) {
    return _mm256_castsi256_ps(_mm256_setr_epi32(word(0, b), word(1, b), word(2, b), word(3, b),
                                                 word(0, b + 1), word(1, b + 1), word(2, b + 1),
                                                 word(3, b + 1)));
  };
  return {two_blocks(0), two_blocks(2)};
}

}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
