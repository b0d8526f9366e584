// Weights of 16 rows, unpacked for the matmuls of many tokens: bytes in the order in which integer
// dot products read them, 4 elements of each row after the other, and scales as f32.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "core/mxfp4.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/transpose_words.inl.h"
#include "cpu/simd/avx512.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {

inline constexpr int kLanes = 16;
inline constexpr int kBlockQuads = 8;  // of 4 elements

// 16 bytes each of rows r, r+4, r+8, r+12.
inline __m512i load_four_rows(const uint8_t* bytes, int64_t row_bytes) {
  const auto load = [&](int lane) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + 4 * lane * row_bytes));
  };
  const __m512i first = _mm512_castsi128_si512(load(0));
  return _mm512_inserti32x4(_mm512_inserti32x4(_mm512_inserti32x4(first, load(1), 1), load(2), 2),
                            load(3), 3);
}

// words[j] = the j-th 32-bit word of 16 rows, from 16 bytes of each.
inline void transpose_words(const uint8_t* bytes, int64_t row_bytes, __m512i (&words)[4]) {
  // Lane l of rows[q] holds the 16 bytes of row 4l + q.
  __m512i rows[4];
  for (int q = 0; q < 4; ++q) rows[q] = load_four_rows(bytes + q * row_bytes, row_bytes);
  transpose_words(rows, words);
}

// codes[0 .. 7] = block `block` of 16 rows from `row` on, kStep vectors apart: 4 quads of even
// elements, then 4 of odd ones. Every code has kOffset added.
template <int kOffset, int kStep>
void unpack_block(const Mxfp4Group*, const MatmulTask& task, int64_t row, int block,
                  __m512i* codes) {
  const int64_t row_bytes = task.w.k / kMxfp4BlockSize * kMxfp4BlockBytes;
  const auto* const first =
      static_cast<const uint8_t*>(task.w.data) + row * row_bytes + block * kMxfp4BlockBytes;
  __m512i words[4];
  transpose_words(first, row_bytes, words);
  const __m512i values = _mm512_broadcast_i32x4(load_table(kE2m1Doubled));
  const __m512i table = _mm512_add_epi8(values, _mm512_set1_epi8(static_cast<char>(kOffset)));
  const __m512i low_nibbles = _mm512_set1_epi8(15);
  for (int j = 0; j < 4; ++j) {
    codes[j * kStep] = _mm512_shuffle_epi8(table, _mm512_and_si512(words[j], low_nibbles));
    codes[(4 + j) * kStep] =
        _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(words[j], 4), low_nibbles));
  }
}

template <int kOffset, int kStep>
void unpack_block(const Q8Group*, const MatmulTask& task, int64_t row, int block, __m512i* codes) {
  const int blocks = task.w.k / kQ8Block;
  const int in_group = blocks - block / 4 * 4 < 4 ? blocks - block / 4 * 4 : 4;
  const auto* const even = static_cast<const uint8_t*>(task.w.data) + row * task.w.k +
                           block / 4 * 4 * kQ8Block + block % 4 * 16;
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(kOffset));
  for (int half = 0; half < 2; ++half) {
    __m512i words[4];
    transpose_words(even + half * 16 * in_group, task.w.k, words);
    for (int j = 0; j < 4; ++j) {
      codes[(4 * half + j) * kStep] = _mm512_add_epi8(words[j], offset);
    }
  }
}

// scales[0 .. count-1] = those of `count` <= 16 blocks of 16 rows, kStep vectors apart.
template <int kStep>
void unpack_scales(const uint8_t* scales_of_first, int64_t row_blocks, int count, __m512* scales) {
  const auto mask = static_cast<__mmask16>((1u << count) - 1);
  __m128i a[kLanes];
  for (int r = 0; r < kLanes; ++r) {
    a[r] = _mm_maskz_loadu_epi8(mask, scales_of_first + r * row_blocks);
  }
  // Four perfect shuffles transpose 16 x 16 bytes.
  for (int round = 0; round < 4; ++round) {
    __m128i b[kLanes];
    for (int i = 0; i < 8; ++i) {
      b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
      b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
    }
    for (int i = 0; i < kLanes; ++i) a[i] = b[i];
  }
  for (int b = 0; b < count; ++b) {
    scales[b * kStep] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu8_epi32(a[b]), 23));
  }
}

// The same of 16-bit scales, `upper_halves` being in the upper half of each lane.
template <int kStep, class Convert>
void unpack_scales16(const void* scales_of_first, int64_t row_blocks, int count, __m512* scales,
                     Convert&& upper_halves) {
  const auto mask = static_cast<__mmask16>((1u << count) - 1);
  uint8_t rows[kLanes][32];
  for (int r = 0; r < kLanes; ++r) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(rows[r]),
                        _mm256_maskz_loadu_epi16(
                            mask, static_cast<const uint16_t*>(scales_of_first) + r * row_blocks));
  }
  for (int first = 0; first < count; first += 8) {
    __m512i words[4];  // two scales each
    transpose_words(rows[0] + 2 * first, sizeof rows[0], words);
    for (int b = first; b < count && b < first + 8; ++b) {
      const __m512i pair = words[(b - first) / 2];
      scales[b * kStep] =
          upper_halves(b % 2 == 0 ? _mm512_slli_epi32(pair, 16)
                                  : _mm512_and_si512(pair, _mm512_set1_epi32(~0xffff)));
    }
  }
}

template <int kStep>
void unpack_scales(const uint16_t* scales_of_first, int64_t row_blocks, int count, __m512* scales) {
  unpack_scales16<kStep>(scales_of_first, row_blocks, count, scales,
                         [](__m512i bits) { return _mm512_castsi512_ps(bits); });
}

// Of q8_0, doubled.
template <int kStep>
void unpack_scales(const HalfScale* scales_of_first, int64_t row_blocks, int count,
                   __m512* scales) {
  unpack_scales16<kStep>(scales_of_first, row_blocks, count, scales, [](__m512i bits) {
    const __m512 scale = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
    return _mm512_add_ps(scale, scale);
  });
}

}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
