// Q8 rows times many tokens in registers of 256 bits.
//
// A panel is 16 rows, one per lane of two registers (q8_panels.inl.h). Included after the file that
// has the instruction set's own part, a token's exact sums of one block of 16 rows:
//   Mxfp4Products, Int8Products   from a correction and what sums of int8 start at (UnpackedChunk);
//                                 add(quads, x), sum(v)
//   kTokens, kFewestTokens        of these: tokens that pass together, and from how many on
//                                 panels are faster than tiles
//   kChunkBlocks                  blocks in an unpacked chunk, each 512 bytes
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/q8.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/q8_row.inl.h"
#include "cpu/kernels/transpose_rows.inl.h"
#include "cpu/simd/avx2.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

inline constexpr int kLanes = 8;
inline constexpr int kPanelVectors = 2;
inline constexpr int kPanelSize = kPanelVectors * kLanes;

template <class Group>
using ProductsOf =
    std::conditional_t<std::is_same_v<Group, Mxfp4Group>, Mxfp4Products, Int8Products>;

// Tokens that pass together.
template <class Group>
inline constexpr int kPanelTokens = ProductsOf<Group>::kTokens;

template <class Group>
inline constexpr bool kHasPanels = true;

template <class Group>
inline constexpr int kFewestPanelTokens = ProductsOf<Group>::kFewestTokens;

struct UnpackedChunk {
  __m256i codes[kChunkBlocks][8][kPanelVectors];  // quads of 8 rows
  __m256 scales[kChunkBlocks][kPanelVectors];
  // Of int8, whose products take the sign of w: -x is ~x + 1, so |w| * (x, or ~x where w is
  // negative) lacks one |w| for every negative w. They are where the sums start.
  __m256i starts[kChunkBlocks][kPanelVectors];
};

// Scales are multiplied.
template <class Group>
inline constexpr bool kAddsExponents = false;
inline bool exponents_can_be_added(const MatmulTask&) { return false; }
inline bool take_exponents(UnpackedChunk&, int) { return false; }

// Scales of the same block in 8 rows.
inline __m256 scales_of_rows(const uint8_t* scales, int64_t row_blocks) {
  uint8_t of_rows[kLanes];
  for (int r = 0; r < kLanes; ++r) of_rows[r] = scales[r * row_blocks];
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(of_rows));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu8_epi32(bytes), 23));
}
inline __m256 scales_of_rows(const uint16_t* scales, int64_t row_blocks) {
  uint16_t of_rows[kLanes];
  for (int r = 0; r < kLanes; ++r) of_rows[r] = scales[r * row_blocks];
  const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(of_rows));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16));
}
// Twice the scales, as those of q8 are stored.
inline __m256 scales_of_rows(const HalfScale* scales, int64_t row_blocks) {
  uint16_t of_rows[kLanes];
  for (int r = 0; r < kLanes; ++r) of_rows[r] = scales[r * row_blocks].bits;
  const __m256 halves = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i*>(of_rows)));
  return _mm256_add_ps(halves, halves);
}

// 32 bits of each of 8 rows.
inline __m256i words_of_rows(const void* first, int64_t row_bytes) {
  const auto* const bytes = static_cast<const uint8_t*>(first);
  int words[kLanes];
  for (int r = 0; r < kLanes; ++r) std::memcpy(&words[r], bytes + r * row_bytes, sizeof words[r]);
  return _mm256_setr_epi32(words[0], words[1], words[2], words[3], words[4], words[5], words[6],
                           words[7]);
}
// Scales of the first blocks of 8 rows, as many as are whole words; returns how many. Blocks are
// kPanelVectors apart in `out`.
inline int first_scales(const uint8_t* scales, int64_t row_blocks, int count, __m256* out) {
  int b = 0;
  for (; b + 4 <= count; b += 4) {
    const __m256i words = words_of_rows(scales + b, row_blocks);
    const auto store = [&](int i, __m256i shifted) {
      const __m256i exponents = _mm256_set1_epi32(0x7f800000);
      out[(b + i) * kPanelVectors] = _mm256_castsi256_ps(_mm256_and_si256(shifted, exponents));
    };
    store(0, _mm256_slli_epi32(words, 23));
    store(1, _mm256_slli_epi32(words, 15));
    store(2, _mm256_slli_epi32(words, 7));
    store(3, _mm256_srli_epi32(words, 1));
  }
  return b;
}
inline int first_scales(const uint16_t* scales, int64_t row_blocks, int count, __m256* out) {
  int b = 0;
  for (; b + 2 <= count; b += 2) {
    const __m256i words = words_of_rows(scales + b, row_blocks * int64_t{sizeof *scales});
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    out[b * kPanelVectors] = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
    out[(b + 1) * kPanelVectors] = _mm256_castsi256_ps(_mm256_and_si256(words, high));
  }
  return b;
}
inline int first_scales(const HalfScale* /*scales*/, int64_t /*row_blocks*/, int /*count*/,
                        __m256* /*out*/) {
  return 0;
}

// Scales of `count` blocks of 8 rows.
template <class Scale>
void unpack_scales(const Scale* scales, int64_t row_blocks, int count, __m256* out) {
  for (int b = first_scales(scales, row_blocks, count, out); b < count; ++b) {
    out[b * kPanelVectors] = scales_of_rows(scales + b, row_blocks);
  }
}

// The codes of a block of 8 rows: even elements, then odd ones.
template <class Group>
void unpack_block(const uint8_t* rows, int64_t row_bytes, int64_t blocks, int block,
                  __m256i (&quads)[8][kPanelVectors], int v) {
  __m256i words[4];
  if constexpr (std::is_same_v<Group, Mxfp4Group>) {
    const __m256i table = _mm256_broadcastsi128_si256(load_table(kE2m1DoubledPlus12));
    const __m256i low_nibbles = _mm256_set1_epi8(15);
    transpose_rows(rows + block * kMxfp4BlockBytes, row_bytes, words);
    for (int j = 0; j < 4; ++j) {
      const __m256i even = _mm256_and_si256(words[j], low_nibbles);
      const __m256i odd = _mm256_and_si256(_mm256_srli_epi16(words[j], 4), low_nibbles);
      quads[j][v] = _mm256_shuffle_epi8(table, even);
      quads[4 + j][v] = _mm256_shuffle_epi8(table, odd);
    }
  } else {
    int64_t to_odd;
    const uint8_t* const even = rows + q8_block_offset(blocks * kQ8Block, block, &to_odd);
    transpose_rows(even, row_bytes, words);
    for (int j = 0; j < 4; ++j) quads[j][v] = words[j];
    transpose_rows(even + to_odd, row_bytes, words);
    for (int j = 0; j < 4; ++j) quads[4 + j][v] = words[j];
  }
}

// Of the codes of a block of 8 rows that are negative, the sum of magnitudes.
inline __m256i sum_of_negatives(const __m256i (&quads)[8][kPanelVectors], int v) {
  __m256i sums = _mm256_setzero_si256();
  for (int j = 0; j < 8; ++j) {
    const __m256i negative = _mm256_min_epi8(quads[j][v], _mm256_setzero_si256());
    sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(_mm256_set1_epi8(1), negative));
  }
  return _mm256_madd_epi16(sums, _mm256_set1_epi16(-1));
}

// Blocks [begin, begin + count) of the panel that starts at `row`.
template <class Group>
void unpack_chunk(const MatmulTask& task, int row, int begin, int count, UnpackedChunk& chunk) {
  const int64_t row_blocks = task.w.k / kQ8Block;
  const int64_t row_bytes = row_blocks * Group::kBlockBytes;
  for (int v = 0; v < kPanelVectors; ++v) {
    const int64_t first = row + v * kLanes;
    const auto* const codes = static_cast<const uint8_t*>(task.w.data) + first * row_bytes;
    const auto* const scales =
        static_cast<const typename Group::Scale*>(task.w.scales) + first * row_blocks + begin;
    for (int b = 0; b < count; ++b) {
      unpack_block<Group>(codes, row_bytes, row_blocks, begin + b, chunk.codes[b], v);
      if constexpr (!std::is_same_v<Group, Mxfp4Group>) {
        chunk.starts[b][v] = sum_of_negatives(chunk.codes[b], v);
      }
    }
    unpack_scales(scales, row_blocks, count, &chunk.scales[0][v]);
  }
}

using TokenSums = float[4][kPanelSize];  // a token's four chains

// sums of kTokens tokens += the chunk's blocks, which are [begin, begin + count) of K.
template <class Group, bool kExponents, int kTokens>
void add_chunk(const MatmulTask& task, const UnpackedChunk& chunk, int begin, int count, int token,
               TokenSums* sums) {
  using Products = ProductsOf<Group>;
  Q8Row rows[kTokens];
  for (int t = 0; t < kTokens; ++t) rows[t] = Q8Row(task, token + t, begin);
  const int64_t to_next = kTokens * q8_row_bytes(task.w.k);
  for (int b = 0; b < count; ++b) {
    const int chain = (begin + b) % 4;
    const auto at = [&](int t) { return rows[t].codes + kQ8Block * b; };
    const auto products_of = [&](int t) {
      return Products(rows[t].corrections + b, chunk.starts[b]);
    };
    const auto finish = [&](const Products& products, int t) {
      const __m256 x_scale = _mm256_set1_ps(rows[t].scales[b]);
      for (int v = 0; v < kPanelVectors; ++v) {
        float* const total = sums[t][chain] + v * kLanes;
        const __m256 dot = _mm256_mul_ps(_mm256_cvtepi32_ps(products.sum(v)), chunk.scales[b][v]);
        _mm256_store_ps(total, _mm256_fmadd_ps(dot, x_scale, _mm256_load_ps(total)));
      }
    };
    // One by one, because an array would live in memory.
    Products p0 = products_of(0);
    Products p1 = products_of(kTokens > 1 ? 1 : 0);
    Products p2 = products_of(kTokens > 2 ? 2 : 0);
    Products p3 = products_of(kTokens > 3 ? 3 : 0);
    Products p4 = products_of(kTokens > 4 ? 4 : 0);
    Products p5 = products_of(kTokens > 5 ? 5 : 0);
    // A loop would keep the sums of int8 in memory.
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const auto& quads = chunk.codes[b][j];
      p0.add(quads, at(0) + 4 * j);
      if constexpr (kTokens > 1) p1.add(quads, at(1) + 4 * j);
      if constexpr (kTokens > 2) p2.add(quads, at(2) + 4 * j);
      if constexpr (kTokens > 3) p3.add(quads, at(3) + 4 * j);
      if constexpr (kTokens > 4) p4.add(quads, at(4) + 4 * j);
      if constexpr (kTokens > 5) p5.add(quads, at(5) + 4 * j);
    }
    if (b % 2 == 0) {
      for (int t = 0; t < kTokens; ++t) __builtin_prefetch(at(t) + to_next);
    }
    finish(p0, 0);
    if constexpr (kTokens > 1) finish(p1, 1);
    if constexpr (kTokens > 2) finish(p2, 2);
    if constexpr (kTokens > 3) finish(p3, 3);
    if constexpr (kTokens > 4) finish(p4, 4);
    if constexpr (kTokens > 5) finish(p5, 5);
  }
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE

// The loops over panels, chunks and tokens are written in what is above.
#include "cpu/kernels/q8_panels.inl.h"
