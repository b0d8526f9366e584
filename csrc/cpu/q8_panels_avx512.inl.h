// MXFP4 x int8 for many tokens, AVX-512 VNNI.
//
// A panel is 32 rows, one per lane of two registers. A chunk of K is unpacked once into bytes that
// lie as VNNI reads them (4 elements of each row), then all tokens pass over it, once for each of
// the four chains of blocks (see matmul_mxfp4_q8), so that a sum is one register. Per block, 16
// rows and token: 8 products of 64, one conversion, one multiplication by the weights' scale, one
// FMA.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "core/mxfp4.h"
#include "cpu/kernels.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

inline constexpr int kLanes = 16;
inline constexpr int kPanelVectors = 2;
inline constexpr int kVnniPanelRows = kPanelVectors * kLanes;

// Blocks in an unpacked chunk: 16 * 32 rows * 32 bytes = 16 kB, half of the first-level cache.
inline constexpr int kChunkBlocks = 16;

// Tokens that pass together: 8 sums, 8 running products, 2 weights and 4 activations fit into 32
// registers, and 6 loads feed 8 products.
inline constexpr int kPanelTokens = 4;

// With fewer, unpacking a panel costs more than its faster products save.
inline constexpr int kFewestPanelTokens = 12;

struct UnpackedChunk {
  // Doubled weights + 12: 4 quads of even elements, then 4 of odd ones.
  __m512i codes[kChunkBlocks][8][kPanelVectors];
  __m512 scales[kChunkBlocks][kPanelVectors];
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

// codes[0..7][0] = one block of 16 rows, `row_bytes` apart.
inline void unpack_codes(const uint8_t* block, int64_t row_bytes, __m512i (*codes)[kPanelVectors]) {
  // Lane l of rows[q] holds the 16 bytes of row 4l + q; a 4 x 4 transpose of 32-bit words within
  // each lane gives word j of rows 4l .. 4l + 3.
  __m512i rows[4];
  for (int q = 0; q < 4; ++q) rows[q] = load_four_rows(block + q * row_bytes, row_bytes);
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
    codes[j][0] = _mm512_shuffle_epi8(table, _mm512_and_si512(words[j], low_nibbles));
    codes[4 + j][0] =
        _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(words[j], 4), low_nibbles));
  }
}

// scales[0..count-1][0] = 2^(byte - 127) of `count` <= 16 blocks of 16 rows, `row_blocks` apart.
inline void unpack_scales(const uint8_t* bytes, int64_t row_blocks, int count,
                          __m512 (*scales)[kPanelVectors]) {
  const auto mask = static_cast<__mmask16>((1u << count) - 1);
  __m128i a[kLanes];
  for (int r = 0; r < kLanes; ++r) a[r] = _mm_maskz_loadu_epi8(mask, bytes + r * row_blocks);
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
    scales[b][0] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu8_epi32(a[b]), 23));
  }
}

// Blocks [begin, begin + count) of the panel that starts at `row`.
inline void unpack_chunk(const MatmulTask& task, int row, int begin, int count,
                         UnpackedChunk& chunk) {
  const int64_t row_blocks = task.k / kMxfp4BlockSize;
  const int64_t row_bytes = row_blocks * kMxfp4BlockBytes;
  for (int v = 0; v < kPanelVectors; ++v) {
    const int64_t first = (row + v * kLanes) * row_blocks + begin;
    const auto* const blocks = static_cast<const uint8_t*>(task.weights) + first * kMxfp4BlockBytes;
    for (int b = 0; b < count; ++b) {
      unpack_codes(blocks + b * kMxfp4BlockBytes, row_bytes,
                   reinterpret_cast<__m512i(*)[kPanelVectors]>(&chunk.codes[b][0][v]));
    }
    unpack_scales(task.scales + first, row_blocks, count,
                  reinterpret_cast<__m512(*)[kPanelVectors]>(&chunk.scales[0][v]));
  }
}

using TokenSums = float[4][kVnniPanelRows];  // a token's four chains

// sums of kTokens tokens += the chunk's blocks, which are [begin, begin + count) of K.
template <int kTokens>
void add_chunk(const MatmulTask& task, const UnpackedChunk& chunk, int begin, int count, int token,
               TokenSums* sums) {
  const int8_t* codes[kTokens];
  const float* scales[kTokens];
  const int32_t* corrections[kTokens];
  for (int t = 0; t < kTokens; ++t) {
    const auto* const x = static_cast<const uint8_t*>(task.x) + (token + t) * task.x_stride_bytes;
    codes[t] = reinterpret_cast<const int8_t*>(x) + begin / 4 * 128;
    scales[t] = reinterpret_cast<const float*>(x + q8_scales_offset(task.k)) + begin;
    corrections[t] = reinterpret_cast<const int32_t*>(x + q8_corrections_offset(task.k)) + begin;
  }
  for (int chain = 0; chain < 4; ++chain) {
    __m512 totals[kTokens][kPanelVectors];
    for (int t = 0; t < kTokens; ++t) {
      for (int v = 0; v < kPanelVectors; ++v) {
        totals[t][v] = _mm512_load_ps(sums[t][chain] + v * kLanes);
      }
    }
    for (int block = chain; block < count; block += 4) {
      __m512i exact[kTokens][kPanelVectors];
      for (int t = 0; t < kTokens; ++t) {
        const __m512i correction = _mm512_set1_epi32(corrections[t][block]);
        for (int v = 0; v < kPanelVectors; ++v) exact[t][v] = correction;
      }
      const int offset = block / 4 * 128 + chain * 16;
      for (int j = 0; j < 8; ++j) {
        for (int t = 0; t < kTokens; ++t) {
          int32_t quad;
          std::memcpy(&quad, codes[t] + offset + (j < 4 ? 4 * j : 48 + 4 * j), sizeof quad);
          const __m512i x = _mm512_set1_epi32(quad);
          for (int v = 0; v < kPanelVectors; ++v) {
            exact[t][v] = _mm512_dpbusd_epi32(exact[t][v], chunk.codes[block][j][v], x);
          }
        }
      }
      for (int t = 0; t < kTokens; ++t) {
        const __m512 x_scale = _mm512_set1_ps(scales[t][block]);
        for (int v = 0; v < kPanelVectors; ++v) {
          const __m512 weighted =
              _mm512_mul_ps(_mm512_cvtepi32_ps(exact[t][v]), chunk.scales[block][v]);
          totals[t][v] = _mm512_fmadd_ps(weighted, x_scale, totals[t][v]);
        }
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      for (int v = 0; v < kPanelVectors; ++v) {
        _mm512_store_ps(sums[t][chain] + v * kLanes, totals[t][v]);
      }
    }
  }
}

bool q8_panels_pay(const MatmulTask& task) {
  return task.tokens >= kFewestPanelTokens && (task.row_end - task.row_begin) % kVnniPanelRows == 0;
}

void store_panel(const MatmulTask& task, int row, int token, const TokenSums& sums) {
  for (int v = 0; v < kPanelVectors; ++v) {
    const int lane = v * kLanes;
    const auto chain = [&](int c) { return _mm512_load_ps(sums[c] + lane); };
    __m512 value =
        _mm512_add_ps(_mm512_add_ps(chain(0), chain(2)), _mm512_add_ps(chain(1), chain(3)));
    if (task.bias != nullptr) {
      value = _mm512_add_ps(value, _mm512_loadu_ps(task.bias + row + lane));
    }
    float* const y = task.y + token * task.y_stride + (row + lane - task.row_begin);
    if (task.accumulate) value = _mm512_add_ps(_mm512_loadu_ps(y), value);
    _mm512_storeu_ps(y, value);
  }
}

void matmul_mxfp4_q8_panels(const MatmulTask& task) {
  constexpr int kTokensAtOnce = 64;  // 32 kB of sums, in the second-level cache
  alignas(64) TokenSums sums[kTokensAtOnce];
  UnpackedChunk chunk;
  const int blocks = task.k / kMxfp4BlockSize;
  for (int row = task.row_begin; row < task.row_end; row += kVnniPanelRows) {
    for (int first = 0; first < task.tokens; first += kTokensAtOnce) {
      const int tokens = task.tokens - first < kTokensAtOnce ? task.tokens - first : kTokensAtOnce;
      std::memset(sums, 0, sizeof sums[0] * static_cast<size_t>(tokens));
      for (int begin = 0; begin < blocks; begin += kChunkBlocks) {
        const int count = blocks - begin < kChunkBlocks ? blocks - begin : kChunkBlocks;
        unpack_chunk(task, row, begin, count, chunk);
        int t = 0;
        for (; t + kPanelTokens <= tokens; t += kPanelTokens) {
          add_chunk<kPanelTokens>(task, chunk, begin, count, first + t, sums + t);
        }
        switch (tokens - t) {
          case 3:
            add_chunk<3>(task, chunk, begin, count, first + t, sums + t);
            break;
          case 2:
            add_chunk<2>(task, chunk, begin, count, first + t, sums + t);
            break;
          case 1:
            add_chunk<1>(task, chunk, begin, count, first + t, sums + t);
            break;
          default:
            break;
        }
      }
      for (int t = 0; t < tokens; ++t) store_panel(task, row, first + t, sums[t]);
    }
  }
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
