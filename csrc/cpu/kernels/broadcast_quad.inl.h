// Four activations in every lane, for panels of 256 bits.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

inline __m256i broadcast_quad(const int8_t* x) {
  int32_t quad;
  std::memcpy(&quad, x, sizeof quad);
  return _mm256_set1_epi32(quad);
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
