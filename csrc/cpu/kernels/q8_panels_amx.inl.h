// Q8 rows times many tokens, AMX int8.
//
// A panel is 16 rows, unpacked once for all tokens. A tile product is one block of 32 of 16 tokens
// and 16 rows, exact; the vector units scale it and add it to the chain that it belongs to (see
// Kernels::mxfp4.fast), 16 registers of sums, while the next products run.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/q8_unpack_avx512.inl.h"
#include "cpu/simd/amx.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

// With fewer, unpacking a panel costs more than its faster products save.
inline constexpr int kFewestPanelTokens = 8;

inline constexpr int kTileTokensAmx = 16;

template <class Group>
inline constexpr bool kHasPanels = true;

template <class Group>
bool q8_panels_pay(const MatmulTask& task) {
  return task.tokens >= kFewestPanelTokens && (task.row_end - task.row_begin) % kLanes == 0;
}

struct UnpackedPanel {
  __m512i* codes;  // (blocks, 8)
  __m512* scales;  // (blocks)
};

template <class Group>
void unpack_panel(const MatmulTask& task, int row, const UnpackedPanel& panel) {
  const int blocks = task.w.k / kQ8Block;
  for (int b = 0; b < blocks; ++b) {
    unpack_block<0, 1>(static_cast<const Group*>(nullptr), task, row, b,
                       panel.codes + kBlockQuads * b);
  }
  const auto* const scales =
      static_cast<const typename Group::Scale*>(task.w.scales) + static_cast<int64_t>(row) * blocks;
  for (int b = 0; b < blocks; b += kLanes) {
    const int count = blocks - b < kLanes ? blocks - b : kLanes;
    unpack_scales<1>(scales + b, blocks, count, panel.scales + b);
  }
  finish_stores();
}

// Products that are under way before the first is used: they take some 50 cycles each, but one can
// begin every 16.
inline constexpr int kTilesAhead = 4;

#define GPTOSS_MULTIPLY(product, activations, weights, block)    \
  _tile_zero(product);                                           \
  _tile_loadd(activations, x + kQ8Block * (block), x_stride);    \
  _tile_loadd(weights, panel.codes + kBlockQuads * (block), 64); \
  _tile_dpbssd(product, activations, weights);

// The products of four blocks b, b + 4, ... of n tokens into `exact` (4, 16, 16).
inline void multiply_four(const uint8_t* x, int64_t x_stride, const UnpackedPanel& panel, int b,
                          __m512i (*exact)[kTileTokensAmx]) {
  GPTOSS_MULTIPLY(0, 4, 6, b)
  GPTOSS_MULTIPLY(1, 5, 7, b + 4)
  GPTOSS_MULTIPLY(2, 4, 6, b + 8)
  GPTOSS_MULTIPLY(3, 5, 7, b + 12)
  _tile_stored(0, exact[0], 64);
  _tile_stored(1, exact[1], 64);
  _tile_stored(2, exact[2], 64);
  _tile_stored(3, exact[3], 64);
}
inline void multiply_one(const uint8_t* x, int64_t x_stride, const UnpackedPanel& panel, int b,
                         __m512i* exact) {
  GPTOSS_MULTIPLY(0, 4, 6, b)
  _tile_stored(0, exact, 64);
}
#undef GPTOSS_MULTIPLY

// sums[t] += products of one block, scaled.
template <int kTokens>
inline void add_products(const __m512i* products, __m512 scales, const float* x_scales, int n,
                         __m512* sums) {
#pragma GCC unroll 16
  for (int t = 0; t < (kTokens > 0 ? kTokens : n); ++t) {
    const __m512 weighted = _mm512_mul_ps(_mm512_cvtepi32_ps(products[t]), scales);
    sums[t] = _mm512_fmadd_ps(weighted, _mm512_set1_ps(x_scales[t]), sums[t]);
  }
}

// 16 rows of kTokens tokens, or of n if that is fewer than a tile (kTokens = 0). `x_scales`
// (blocks, 16) are the tokens'.
template <int kTokens>
void multiply_panel(const MatmulTask& task, const UnpackedPanel& panel, const float* x_scales,
                    int row, int token, int n) {
  const int blocks = task.w.k / kQ8Block;
  const int64_t x_stride = q8_row_bytes(task.w.k);
  const auto* const x = static_cast<const uint8_t*>(task.x) + token * x_stride;
  alignas(64) __m512i exact[2][kTilesAhead][kTileTokensAmx];
  __m512 chains[4][kTileTokensAmx];
  for (int chain = 0; chain < 4; ++chain) {
    __m512 sums[kTileTokensAmx];
#pragma GCC unroll 16
    for (int t = 0; t < kTileTokensAmx; ++t) sums[t] = _mm512_setzero_ps();
    const int length = (blocks - chain + 3) / 4;  // blocks of the chain
    const int whole = length / kTilesAhead;
    if (whole > 0) multiply_four(x, x_stride, panel, chain, exact[0]);
    for (int i = 0; i < whole; ++i) {
      const int b = chain + 16 * i;
      if (i + 1 < whole) multiply_four(x, x_stride, panel, b + 16, exact[(i + 1) & 1]);
      const __m512i(*const products)[kTileTokensAmx] = exact[i & 1];
      for (int j = 0; j < kTilesAhead; ++j) {
        add_products<kTokens>(products[j], panel.scales[b + 4 * j], x_scales + 16 * (b + 4 * j), n,
                              sums);
      }
    }
    for (int b = chain + 16 * whole; b < blocks; b += 4) {
      multiply_one(x, x_stride, panel, b, exact[0][0]);
      add_products<kTokens>(exact[0][0], panel.scales[b], x_scales + 16 * b, n, sums);
    }
#pragma GCC unroll 16
    for (int t = 0; t < kTileTokensAmx; ++t) chains[chain][t] = sums[t];
  }
  const __m512 bias = task.bias == nullptr ? _mm512_setzero_ps() : _mm512_loadu_ps(task.bias + row);
  for (int t = 0; t < n; ++t) {
    __m512 value = _mm512_add_ps(_mm512_add_ps(chains[0][t], chains[2][t]),
                                 _mm512_add_ps(chains[1][t], chains[3][t]));
    if (task.bias != nullptr) value = _mm512_add_ps(value, bias);
    float* const y = task.y + (token + t) * task.y_stride + (row - task.row_begin);
    if (task.accumulate) value = _mm512_add_ps(_mm512_loadu_ps(y), value);
    _mm512_storeu_ps(y, value);
  }
}

// Tiles: 0-3 products, 4-5 activations, 6-7 weights.
void configure_q8_tiles(int tokens) {
  TileConfig config;
  for (int i = 0; i < kTilesAhead; ++i) config.set(i, tokens, 64);
  for (int i = 4; i < 6; ++i) config.set(i, tokens, kQ8Block);
  for (int i = 6; i < 8; ++i) config.set(i, kBlockQuads, 64);
  config.load();
}

template <class Group>
void matmul_q8_panels(const MatmulTask& task) {
  const TilesInUse in_use;
  const int blocks = task.w.k / kQ8Block;
  const int tiles = (task.tokens + kTileTokensAmx - 1) / kTileTokensAmx;
  // In lines of 64 bytes, for each block: the panel's codes, its scales, those of the tokens.
  uint8_t* const lines = thread_scratch(int64_t{64} * blocks * (kBlockQuads + 1 + tiles));
  const UnpackedPanel panel = {
      reinterpret_cast<__m512i*>(lines),
      reinterpret_cast<__m512*>(lines + int64_t{64} * blocks * kBlockQuads)};
  auto* const x_scales = reinterpret_cast<float*>(lines + int64_t{64} * blocks * (kBlockQuads + 1));
  for (int t = 0; t < task.tokens; ++t) {
    const auto* const row = static_cast<const uint8_t*>(task.x) + t * q8_row_bytes(task.w.k);
    float* const to = x_scales + t / kTileTokensAmx * int64_t{16} * blocks + t % kTileTokensAmx;
    for (int b = 0; b < blocks; ++b) {
      std::memcpy(to + 16 * b, row + q8_scales_offset(task.w.k) + 4 * b, sizeof(float));
    }
  }
  int configured = 0;
  for (int row = task.row_begin; row < task.row_end; row += kLanes) {
    unpack_panel<Group>(task, row, panel);
    for (int token = 0; token < task.tokens; token += kTileTokensAmx) {
      const int n = task.tokens - token < kTileTokensAmx ? task.tokens - token : kTileTokensAmx;
      if (n != configured) configure_q8_tiles(configured = n);
      const float* const tile_scales = x_scales + int64_t{token} * blocks;
      if (n == kTileTokensAmx) {
        multiply_panel<kTileTokensAmx>(task, panel, tile_scales, row, token, n);
      } else {
        multiply_panel<0>(task, panel, tile_scales, row, token, n);
      }
    }
  }
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
