// Q8 rows times many tokens, AVX2: MXFP4 weights only. Products of int8 weights do not fit into the
// 16 bits that two of them are added up in.
//
// A panel is 16 rows, one per lane of two registers (q8_panels.inl.h). Per block, 8 rows and token:
// 8 products of 32, four at a time added up in 16 bits, then in 32.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/q8_row.inl.h"
#include "cpu/kernels/transpose_rows.inl.h"
#include "cpu/simd/avx2.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

inline constexpr int kLanes = 8;
inline constexpr int kPanelVectors = 2;
inline constexpr int kPanelSize = kPanelVectors * kLanes;

// Blocks in an unpacked chunk: 32 * 16 rows * 32 bytes = 16 kB, half of the first-level cache.
inline constexpr int kChunkBlocks = 32;

// Tokens that pass together: 6 sums of products, 6 of pairs of them, and what is loaded fit into 16
// registers. From memory, 64 tokens, one thread of Zen 4: 202 Gop/s, 71 with one token at a time.
inline constexpr int kPanelTokens = 3;

template <class Group>
inline constexpr bool kHasPanels = false;
template <>
inline constexpr bool kHasPanels<Mxfp4Group> = true;

// With fewer, unpacking a panel costs more than its faster products save.
template <class Group>
inline constexpr int kFewestPanelTokens = 4;

struct UnpackedChunk {
  __m256i codes[kChunkBlocks][8][kPanelVectors];  // quads of 8 rows, with an offset of 16
  __m256 scales[kChunkBlocks][kPanelVectors];
};

// Scales are multiplied.
template <class Group>
inline constexpr bool kAddsExponents = false;
inline bool exponents_can_be_added(const MatmulTask&) { return false; }
inline bool take_exponents(UnpackedChunk&, int) { return false; }

// Blocks [begin, begin + count) of the panel that starts at `row`.
template <class Group>
void unpack_chunk(const MatmulTask& task, int row, int begin, int count, UnpackedChunk& chunk) {
  const int64_t row_blocks = task.w.k / kQ8Block;
  const int64_t row_bytes = row_blocks * kMxfp4BlockBytes;
  const __m256i table = _mm256_broadcastsi128_si256(load_table(kE2m1DoubledPlus16));
  const __m256i low_nibbles = _mm256_set1_epi8(15);
  for (int v = 0; v < kPanelVectors; ++v) {
    const int64_t first = row + v * kLanes;
    const auto* const codes = static_cast<const uint8_t*>(task.w.data) + first * row_bytes;
    const auto* const scales = static_cast<const uint8_t*>(task.w.scales) + first * row_blocks;
    for (int b = 0; b < count; ++b) {
      __m256i words[4];
      transpose_rows(codes + (begin + b) * kMxfp4BlockBytes, row_bytes, words);
      for (int j = 0; j < 4; ++j) {
        const __m256i even = _mm256_and_si256(words[j], low_nibbles);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi16(words[j], 4), low_nibbles);
        chunk.codes[b][j][v] = _mm256_shuffle_epi8(table, even);
        chunk.codes[b][4 + j][v] = _mm256_shuffle_epi8(table, odd);
      }
      uint8_t of_rows[kLanes];
      for (int r = 0; r < kLanes; ++r) of_rows[r] = scales[r * row_blocks + begin + b];
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(of_rows));
      chunk.scales[b][v] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu8_epi32(bytes), 23));
    }
  }
}

// Keeps the compiler from adding up all of a block's products at the end, for which there are too
// few registers.
inline __m256i added_up(__m256i sum) {
  asm("" : "+x"(sum));
  return sum;
}

using TokenSums = float[4][kPanelSize];  // a token's four chains

// sums of kTokens tokens += the chunk's blocks, which are [begin, begin + count) of K.
template <class Group, bool kExponents, int kTokens>
void add_chunk(const MatmulTask& task, const UnpackedChunk& chunk, int begin, int count, int token,
               TokenSums* sums) {
  Q8Row rows[kTokens];
  for (int t = 0; t < kTokens; ++t) rows[t] = Q8Row(task, token + t, begin);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int chain = 0; chain < 4; ++chain) {
    __m256 totals[kTokens][kPanelVectors];
    for (int t = 0; t < kTokens; ++t) {
      for (int v = 0; v < kPanelVectors; ++v) {
        totals[t][v] = _mm256_load_ps(sums[t][chain] + v * kLanes);
      }
    }
    for (int block = chain; block < count; block += 4) {
      // Four pairs of products in 16 bits: at most 4 * 2 * 28 * 127.
      __m256i exact[kTokens][kPanelVectors];
      for (int half = 0; half < 2; ++half) {
        __m256i pairs[kTokens][kPanelVectors];
        for (int j = 0; j < 4; ++j) {
          const __m256i* const quads = chunk.codes[block][4 * half + j];
          for (int t = 0; t < kTokens; ++t) {
            int32_t quad;
            std::memcpy(&quad, rows[t].codes + 32 * block + 16 * half + 4 * j, sizeof quad);
            const __m256i x = _mm256_set1_epi32(quad);
            for (int v = 0; v < kPanelVectors; ++v) {
              const __m256i products = _mm256_maddubs_epi16(quads[v], x);
              __m256i& sum = pairs[t][v];
              sum = added_up(j == 0 ? products : _mm256_add_epi16(sum, products));
            }
          }
        }
        for (int t = 0; t < kTokens; ++t) {
          for (int v = 0; v < kPanelVectors; ++v) {
            const __m256i fours = _mm256_madd_epi16(pairs[t][v], ones);
            exact[t][v] = added_up(half == 0 ? fours : _mm256_add_epi32(exact[t][v], fours));
          }
        }
      }
      for (int t = 0; t < kTokens; ++t) {
        const __m256i correction = _mm256_set1_epi32(rows[t].corrections[block]);
        const __m256 x_scale = _mm256_set1_ps(rows[t].scales[block]);
        for (int v = 0; v < kPanelVectors; ++v) {
          const __m256i sum = _mm256_add_epi32(exact[t][v], correction);
          const __m256 dot = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), chunk.scales[block][v]);
          totals[t][v] = _mm256_fmadd_ps(dot, x_scale, totals[t][v]);
        }
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      for (int v = 0; v < kPanelVectors; ++v) {
        _mm256_store_ps(sums[t][chain] + v * kLanes, totals[t][v]);
      }
    }
  }
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE

// The loops over panels, chunks and tokens are written in what is above.
#include "cpu/kernels/q8_panels.inl.h"
