// MXFP4 x int8 for many tokens, AVX-512 VNNI.
//
// A panel is 16 rows, one per lane. A chunk of K is unpacked once into bytes that lie as VNNI reads
// them (4 elements of each of the 16 rows), then all tokens pass over it. Per block, 16 rows and
// token: 8 products of 64, one conversion, one multiplication by the weights' scale, one FMA. The
// sums have the same order as q8_tile's.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "core/mxfp4.h"
#include "cpu/kernels.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

inline constexpr int kPanelLanes = 16;

// Blocks in an unpacked chunk: 32 * 16 rows * 32 bytes = 16 kB, half of the first-level cache.
inline constexpr int kChunkBlocks = 32;

// Tokens that pass together: 4 chains each, so 16 of the 32 registers hold sums.
inline constexpr int kPanelTokens = 4;

// Unpacking a panel costs about as much as 5 tokens' products [bench/bench_mxfp4_matmul.py].
inline constexpr int kFewestPanelTokens = 8;

struct UnpackedChunk {
  __m512i codes[kChunkBlocks][8];  // doubled weights + 12: 4 quads of even elements, 4 of odd ones
  __m512 scales[kChunkBlocks];
};

// Four blocks' worth of 16-byte rows r, r+4, r+8, r+12.
inline __m512i load_four_rows(const uint8_t* block, int64_t row_bytes) {
  const auto load = [&](int lane) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 4 * lane * row_bytes));
  };
  const __m512i first = _mm512_castsi128_si512(load(0));
  return _mm512_inserti32x4(_mm512_inserti32x4(_mm512_inserti32x4(first, load(1), 1), load(2), 2),
                            load(3), 3);
}

// Block `block` of rows [row, row + 16) of the task's weights.
inline void unpack_block(const MatmulTask& task, int row, int64_t block, __m512i* codes,
                         __m512* scales) {
  const int64_t blocks_per_row = task.k / kMxfp4BlockSize;
  const int64_t row_bytes = blocks_per_row * kMxfp4BlockBytes;
  const auto* const bytes =
      static_cast<const uint8_t*>(task.weights) + row * row_bytes + block * kMxfp4BlockBytes;
  // Lane l of rows[q] holds the 16 bytes of row 4l + q; a 4 x 4 transpose of 32-bit words within
  // each lane gives word j of rows 4l .. 4l + 3.
  __m512i rows[4];
  for (int q = 0; q < 4; ++q) rows[q] = load_four_rows(bytes + q * row_bytes, row_bytes);
  const __m512i low01 = _mm512_unpacklo_epi32(rows[0], rows[1]);
  const __m512i high01 = _mm512_unpackhi_epi32(rows[0], rows[1]);
  const __m512i low23 = _mm512_unpacklo_epi32(rows[2], rows[3]);
  const __m512i high23 = _mm512_unpackhi_epi32(rows[2], rows[3]);
  const __m512i words[4] = {
      _mm512_unpacklo_epi64(low01, low23), _mm512_unpackhi_epi64(low01, low23),
      _mm512_unpacklo_epi64(high01, high23), _mm512_unpackhi_epi64(high01, high23)};
  const __m512i table = _mm512_broadcast_i32x4(
      _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  const __m512i low_nibbles = _mm512_set1_epi8(15);
  for (int j = 0; j < 4; ++j) {
    codes[j] = _mm512_shuffle_epi8(table, _mm512_and_si512(words[j], low_nibbles));
    codes[4 + j] =
        _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(words[j], 4), low_nibbles));
  }
  alignas(64) uint32_t exponents[kPanelLanes];
  const uint8_t* const scale_bytes = task.scales + row * blocks_per_row + block;
  for (int r = 0; r < kPanelLanes; ++r) exponents[r] = scale_bytes[r * blocks_per_row];
  *scales = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_load_si512(exponents), 23));
}

// sums (4 chains, 16 rows) of kTokens tokens += blocks [begin, begin + count) of the chunk.
template <int kTokens>
void add_chunk(const MatmulTask& task, const UnpackedChunk& chunk, int begin, int count, int token,
               float (*sums)[4][kPanelLanes]) {
  const int8_t* codes[kTokens];
  const float* scales[kTokens];
  const int32_t* corrections[kTokens];
  __m512 chains[kTokens][4];
  for (int t = 0; t < kTokens; ++t) {
    const auto* const x = static_cast<const uint8_t*>(task.x) + (token + t) * task.x_stride_bytes;
    codes[t] = reinterpret_cast<const int8_t*>(x) + begin / 4 * 128;
    scales[t] = reinterpret_cast<const float*>(x + q8_scales_offset(task.k)) + begin;
    corrections[t] = reinterpret_cast<const int32_t*>(x + q8_corrections_offset(task.k)) + begin;
    for (int c = 0; c < 4; ++c) chains[t][c] = _mm512_load_ps(sums[t][c]);
  }
  const auto add_block = [&](int group, int c) {
    const int block = 4 * group + c;
    for (int t = 0; t < kTokens; ++t) {
      const int8_t* const x = codes[t] + group * 128 + c * 16;
      __m512i exact = _mm512_set1_epi32(corrections[t][block]);
      for (int j = 0; j < 8; ++j) {
        int32_t quad;
        std::memcpy(&quad, x + (j < 4 ? 4 * j : 64 + 4 * (j - 4)), sizeof quad);
        exact = _mm512_dpbusd_epi32(exact, chunk.codes[block][j], _mm512_set1_epi32(quad));
      }
      const __m512 weighted = _mm512_mul_ps(_mm512_cvtepi32_ps(exact), chunk.scales[block]);
      chains[t][c] = _mm512_fmadd_ps(weighted, _mm512_set1_ps(scales[t][block]), chains[t][c]);
    }
  };
  const int groups = count / 4;
  for (int group = 0; group < groups; ++group) {
    add_block(group, 0);
    add_block(group, 1);
    add_block(group, 2);
    add_block(group, 3);
  }
  if (count % 4 > 0) add_block(groups, 0);
  if (count % 4 > 1) add_block(groups, 1);
  if (count % 4 > 2) add_block(groups, 2);
  for (int t = 0; t < kTokens; ++t) {
    for (int c = 0; c < 4; ++c) _mm512_store_ps(sums[t][c], chains[t][c]);
  }
}

bool q8_panels_pay(const MatmulTask& task) {
  return task.tokens >= kFewestPanelTokens && (task.row_end - task.row_begin) % kPanelLanes == 0;
}

void matmul_mxfp4_q8_panels(const MatmulTask& task) {
  constexpr int kTokensAtOnce = 64;  // 16 kB of sums, in the second-level cache
  alignas(64) float sums[kTokensAtOnce][4][kPanelLanes];
  UnpackedChunk chunk;
  const int blocks = task.k / kMxfp4BlockSize;
  for (int row = task.row_begin; row < task.row_end; row += kPanelLanes) {
    for (int token_begin = 0; token_begin < task.tokens; token_begin += kTokensAtOnce) {
      const int tokens =
          task.tokens - token_begin < kTokensAtOnce ? task.tokens - token_begin : kTokensAtOnce;
      std::memset(sums, 0, sizeof sums[0] * static_cast<size_t>(tokens));
      for (int begin = 0; begin < blocks; begin += kChunkBlocks) {
        const int count = blocks - begin < kChunkBlocks ? blocks - begin : kChunkBlocks;
        for (int b = 0; b < count; ++b) {
          unpack_block(task, row, begin + b, chunk.codes[b], &chunk.scales[b]);
        }
        int t = 0;
        for (; t + kPanelTokens <= tokens; t += kPanelTokens) {
          add_chunk<kPanelTokens>(task, chunk, begin, count, token_begin + t, sums + t);
        }
        for (; t < tokens; ++t) add_chunk<1>(task, chunk, begin, count, token_begin + t, sums + t);
      }
      for (int t = 0; t < tokens; ++t) {
        const __m512 even = _mm512_add_ps(_mm512_load_ps(sums[t][0]), _mm512_load_ps(sums[t][2]));
        const __m512 odd = _mm512_add_ps(_mm512_load_ps(sums[t][1]), _mm512_load_ps(sums[t][3]));
        __m512 value = _mm512_add_ps(even, odd);
        if (task.bias != nullptr) value = _mm512_add_ps(value, _mm512_loadu_ps(task.bias + row));
        float* const y = task.y + (token_begin + t) * task.y_stride + (row - task.row_begin);
        if (task.accumulate) value = _mm512_add_ps(_mm512_loadu_ps(y), value);
        _mm512_storeu_ps(y, value);
      }
    }
  }
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
