// Q8 rows times many tokens, AVX-VNNI (q8_panels_ymm.inl.h): one instruction adds four products to
// 32 bits. For a block of 32 of K, 8 rows and a token, MXFP4 takes 8 and three that follow, int8 8
// more for the sign of w (UnpackedChunk), as only one side of a product is signed.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/kernels/broadcast_quad.inl.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

// sum + the products of four bytes each.
inline __m256i add_quads(__m256i sum, __m256i unsigned_bytes, __m256i signed_bytes) {
#ifdef __AVXVNNI__
  return _mm256_dpbusd_avx_epi32(sum, unsigned_bytes, signed_bytes);
#else
  // For tests on machines without: pairs of these products fit into 16 bits.
  const __m256i pairs = _mm256_maddubs_epi16(unsigned_bytes, signed_bytes);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}

// Blocks in an unpacked chunk: 32 * 512 bytes, a third of the first-level cache.
inline constexpr int kChunkBlocks = 32;

// 8 sums, 4 of weights or their magnitudes, an input and a product in 16 registers.
struct Mxfp4Products {
  static constexpr int kTokens = 4;
  static constexpr int kFewestTokens = 4;
  __m256i low, high;

  Mxfp4Products(const int32_t* correction, const __m256i (& /*starts*/)[2])
      : low(_mm256_madd_epi16(_mm256_set1_epi32(*correction), _mm256_set1_epi16(1))), high(low) {}
  // The quads of 16 rows, times four activations.
  void add(const __m256i (&quads)[2], const int8_t* x) {
    const __m256i input = broadcast_quad(x);
    low = add_quads(low, quads[0], input);
    high = add_quads(high, quads[1], input);
  }
  __m256i sum(int v) const { return v == 0 ? low : high; }
};

struct Int8Products {
  static constexpr int kTokens = 4;
  static constexpr int kFewestTokens = 8;
  __m256i low, high;

  Int8Products(const int32_t* /*correction*/, const __m256i (&starts)[2])
      : low(starts[0]), high(starts[1]) {}
  void add(const __m256i (&quads)[2], const int8_t* x) {
    const __m256i input = broadcast_quad(x);
    const auto signed_input = [&](__m256i weights) {
      return _mm256_xor_si256(input, _mm256_cmpgt_epi8(_mm256_setzero_si256(), weights));
    };
    low = add_quads(low, _mm256_abs_epi8(quads[0]), signed_input(quads[0]));
    high = add_quads(high, _mm256_abs_epi8(quads[1]), signed_input(quads[1]));
  }
  __m256i sum(int v) const { return v == 0 ? low : high; }
};

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE

#include "cpu/kernels/q8_panels_ymm.inl.h"
