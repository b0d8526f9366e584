// Q8 rows times many tokens, AVX-512 VNNI.
//
// A panel is 32 rows, one per lane of two registers (q8_panels.inl.h). Per block, 16 rows and
// token: 8 products of 64, one conversion, the product of the scales, one FMA. Scales of MXFP4 are
// powers of two, so that their products are integer sums, which do not compete with the rest for
// execution units: on Zen 4, in cache, 379 Gop/s instead of 340.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/q8_row.inl.h"
#include "cpu/kernels/q8_unpack_avx512.inl.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

inline constexpr int kPanelVectors = 2;
inline constexpr int kPanelSize = kPanelVectors * kLanes;

// Blocks in an unpacked chunk: 16 * 32 rows * 32 bytes = 16 kB, half of the first-level cache.
inline constexpr int kChunkBlocks = 16;

// Tokens that pass together: 8 sums, 8 running products, 2 weights and 4 activations fit into 32
// registers, and 6 loads feed 8 products.
template <class Group>
inline constexpr int kPanelTokens = 4;

// With fewer, unpacking a panel costs more than its faster products save: the tiles of few tokens
// unpack MXFP4 as well, but take int8 as it is.
template <class Group>
inline constexpr int kFewestPanelTokens = 12;
template <>
inline constexpr int kFewestPanelTokens<Mxfp4Group> = 9;

template <class Group>
inline constexpr bool kHasPanels = true;

struct UnpackedChunk {
  __m512i codes[kChunkBlocks][kBlockQuads][kPanelVectors];  // offset, so that they are unsigned
  __m512 scales[kChunkBlocks][kPanelVectors];               // or exponents, see take_exponents
};

// bf16 scales of int8 weights are no powers of two.
template <class Group>
inline constexpr bool kAddsExponents = std::is_same_v<Group, Mxfp4Group>;

inline constexpr int kExponentBias = 127 << 23;

// Scales from 2^-62 to 2^62: products of two of them have no exponent out of range.
inline constexpr float kSmallScale = 0x1p-62f;
inline constexpr float kLargeScale = 0x1p62f;

inline __mmask16 in_exponent_range(__m512 scales) {
  return _mm512_cmp_ps_mask(scales, _mm512_set1_ps(kSmallScale), _CMP_GE_OQ) &
         _mm512_cmp_ps_mask(scales, _mm512_set1_ps(kLargeScale), _CMP_LE_OQ);
}

// Whether exponents can be added to all scales of the activations: none is zero, huge or NaN.
bool exponents_can_be_added(const MatmulTask& task) {
  const int blocks = task.w.k / kQ8Block;
  const auto* row = static_cast<const uint8_t*>(task.x) + q8_scales_offset(task.w.k);
  for (int t = 0; t < task.tokens; ++t, row += q8_row_bytes(task.w.k)) {
    const auto* const scales = reinterpret_cast<const float*>(row);
    for (int b = 0; b < blocks; b += kLanes) {
      const int count = blocks - b < kLanes ? blocks - b : kLanes;
      const auto lanes = static_cast<__mmask16>((1u << count) - 1);
      const __m512 some = _mm512_maskz_loadu_ps(lanes, scales + b);
      if ((in_exponent_range(some) & lanes) != lanes) return false;
    }
  }
  return true;
}

// Makes numbers that multiply by a scale when they are added to the bits of a float, if all scales
// of the chunk are powers of two in range; else leaves it as it is.
bool take_exponents(UnpackedChunk& chunk, int count) {
  __mmask16 in_range = 0xffff;
  for (int b = 0; b < count; ++b) {
    for (const __m512& scales : chunk.scales[b]) in_range &= in_exponent_range(scales);
  }
  if (in_range != 0xffff) return false;
  for (int b = 0; b < count; ++b) {
    for (__m512& scales : chunk.scales[b]) {
      scales = _mm512_castsi512_ps(
          _mm512_sub_epi32(_mm512_castps_si512(scales), _mm512_set1_epi32(kExponentBias)));
    }
  }
  return true;
}

// Added to codes, which makes them unsigned; as a byte, 128 is -128.
template <class Group>
inline constexpr int kOffset = 128;
template <>
inline constexpr int kOffset<Mxfp4Group> = 16;

// Blocks [begin, begin + count) of the panel that starts at `row`.
template <class Group>
void unpack_chunk(const MatmulTask& task, int row, int begin, int count, UnpackedChunk& chunk) {
  const int64_t row_blocks = task.w.k / kQ8Block;
  for (int v = 0; v < kPanelVectors; ++v) {
    const int64_t first = row + v * kLanes;
    for (int b = 0; b < count; ++b) {
      unpack_block<kOffset<Group>, kPanelVectors>(static_cast<const Group*>(nullptr), task, first,
                                                  begin + b, &chunk.codes[b][0][v]);
    }
    unpack_scales<kPanelVectors>(
        static_cast<const typename Group::Scale*>(task.w.scales) + first * row_blocks + begin,
        row_blocks, count, &chunk.scales[0][v]);
  }
}

using TokenSums = float[4][kPanelSize];  // a token's four chains

// total + exact * w_scale * x_scale, w_scale a power of two if kExponents: the same bits then.
template <bool kExponents>
__m512 add_scaled_dot(__m512i exact, __m512 w_scale, __m512 x_scale, __m512 total) {
  const __m512 dot = _mm512_cvtepi32_ps(exact);
  if constexpr (kExponents) {
    const __m512i scale =
        _mm512_add_epi32(_mm512_castps_si512(w_scale), _mm512_castps_si512(x_scale));
    return _mm512_fmadd_ps(dot, _mm512_castsi512_ps(scale), total);
  } else {
    return _mm512_fmadd_ps(_mm512_mul_ps(dot, w_scale), x_scale, total);
  }
}

// sums of kTokens tokens += the chunk's blocks, which are [begin, begin + count) of K.
template <class Group, bool kExponents, int kTokens>
void add_chunk(const MatmulTask& task, const UnpackedChunk& chunk, int begin, int count, int token,
               TokenSums* sums) {
  constexpr int kCorrectionFactor = kOffset<Group> / 16;
  Q8Row rows[kTokens];
  for (int t = 0; t < kTokens; ++t) rows[t] = Q8Row(task, token + t, begin);
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
        const __m512i correction =
            _mm512_set1_epi32(rows[t].corrections[block] * kCorrectionFactor);
        for (int v = 0; v < kPanelVectors; ++v) exact[t][v] = correction;
      }
      const int offset = 32 * block;
      for (int j = 0; j < 8; ++j) {
        for (int t = 0; t < kTokens; ++t) {
          int32_t quad;
          std::memcpy(&quad, rows[t].codes + offset + 4 * j, sizeof quad);
          const __m512i x = _mm512_set1_epi32(quad);
          for (int v = 0; v < kPanelVectors; ++v) {
            exact[t][v] = _mm512_dpbusd_epi32(exact[t][v], chunk.codes[block][j][v], x);
          }
        }
      }
      for (int t = 0; t < kTokens; ++t) {
        const __m512 x_scale = _mm512_set1_ps(rows[t].scales[block]);
        for (int v = 0; v < kPanelVectors; ++v) {
          totals[t][v] = add_scaled_dot<kExponents>(exact[t][v], chunk.scales[block][v], x_scale,
                                                    totals[t][v]);
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

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE

// The loops over panels, chunks and tokens are written in what is above.
#include "cpu/kernels/q8_panels.inl.h"
