// Q8 rows times many tokens, AVX2 (q8_panels_ymm.inl.h). For a block of 32 of K, 8 rows and a
// token:
//   MXFP4   8 products of pairs, added up in 16 bits. Weights, doubled, carry an offset of 12, so
//           that they are unsigned, and the sums start at what undoes it: -12 * the sum of the
//           activations that the 16 bits meet. On the way they may wrap around, but the end is at
//           most 16 * 12 * 127. Then one instruction to 32 bits, one to f32, two for the scales:
//           20, of which 16 are products and sums
//   int8    products of pairs of |w| and x, its bits inverted where w is negative, fill 16 bits: 8
//           times inversion, product, widening, sum, then the three that follow: 35. Inverting
//           takes any of four ports, `vpsignb` one of the two that products and widening need: with
//           it all took 1.18 times as long on Zen 4
// Both are limited by the four ports of vectors rather than by loads.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/kernels/broadcast_quad.inl.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

// Blocks in an unpacked chunk: 16 * 512 bytes, a quarter of the first-level cache, which inputs and
// sums pass through as well.
inline constexpr int kChunkBlocks = 16;

// Products are instructions, because compilers that order them anew run out of registers.
struct Mxfp4Products {
  // 12 sums, 2 of weights, an input and a product fill 16 registers. On Zen 4 experts take 0.96 of
  // the time that they take with 4 tokens.
  static constexpr int kTokens = 6;
  static constexpr int kFewestTokens = 3;
  __m256i low, high;  // 16 bits

  Mxfp4Products(const int32_t* correction, const __m256i (& /*starts*/)[2])
      : low(_mm256_set1_epi32(*correction)), high(low) {}
  // The quads of 16 rows, times four activations.
  void add(const __m256i (&quads)[2], const int8_t* x) {
    const __m256i input = broadcast_quad(x);
    low = add(low, quads[0], input);
    high = add(high, quads[1], input);
  }
  __m256i sum(int v) const { return _mm256_madd_epi16(v == 0 ? low : high, _mm256_set1_epi16(1)); }

 private:
  static __m256i add(__m256i sum, __m256i weights, __m256i input) {
    __m256i products;
    asm("vpmaddubsw %[input], %[weights], %[products]\n\t"
        "vpaddw %[products], %[sum], %[sum]"
        : [sum] "+x"(sum), [products] "=&x"(products)
        : [weights] "x"(weights), [input] "x"(input));
    return sum;
  }
};
struct Int8Products {
  // 8 sums, 4 of magnitudes and signs, an input, a product and the ones fill 15 registers.
  static constexpr int kTokens = 4;
  static constexpr int kFewestTokens = 4;
  __m256i low, high;  // 32 bits

  Int8Products(const int32_t* /*correction*/, const __m256i (&starts)[2])
      : low(starts[0]), high(starts[1]) {}
  void add(const __m256i (&quads)[2], const int8_t* x) {
    const __m256i input = broadcast_quad(x);
    low = add(low, quads[0], input);
    high = add(high, quads[1], input);
  }
  __m256i sum(int v) const { return v == 0 ? low : high; }

 private:
  static __m256i add(__m256i sum, __m256i weights, __m256i input) {
    __m256i products;
    const __m256i magnitudes = _mm256_abs_epi8(weights);
    const __m256i negative = _mm256_cmpgt_epi8(_mm256_setzero_si256(), weights);
    const __m256i ones = _mm256_set1_epi16(1);
    asm("vpxor %[negative], %[input], %[products]\n\t"
        "vpmaddubsw %[products], %[magnitudes], %[products]\n\t"
        "vpmaddwd %[ones], %[products], %[products]\n\t"
        "vpaddd %[products], %[sum], %[sum]"
        : [sum] "+x"(sum), [products] "=&x"(products)
        : [negative] "x"(negative), [magnitudes] "x"(magnitudes), [input] "x"(input),
          [ones] "x"(ones));
    return sum;
  }
};

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE

#include "cpu/kernels/q8_panels_ymm.inl.h"
