// Columns of 8 rows, for panels of AVX2.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/kernels/transpose_words.inl.h"
#include "cpu/simd/avx2.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

// words[j] = the j-th 32-bit word of 8 rows, from 16 bytes of each.
inline void transpose_rows(const uint8_t* bytes, int64_t row_bytes, __m256i (&words)[4]) {
  __m256i rows[4];  // rows q and q + 4
  for (int q = 0; q < 4; ++q) {
    const auto load = [&](int row) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + row * row_bytes));
    };
    rows[q] = _mm256_inserti128_si256(_mm256_castsi128_si256(load(q)), load(q + 4), 1);
  }
  transpose_words(rows, words);
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
