// Q8 rows times many tokens, AMX int8.
//
// A panel is 16 rows, unpacked once for all tokens. A tile product is one block of 32 of 16 tokens
// and 16 rows, exact; the vector units scale it and add it to the chain that it belongs to (see
// Kernels::mxfp4.fast), 16 registers of sums, while the next products run.
//
// What bounds it is the way of the products through memory, the only one out of a tile. On a Xeon
// at 3.6 GHz, in the first-level cache, a block takes 5.2 ns to multiply and 6.4 to scale and add;
// with the store in between it is 13.4 without products and 17 with them, however they are ordered:
// the instruction that stores a tile does not overlap with others.
//
// A group of n tokens, and a panel likewise, is held in the order in which chains meet blocks,
// block b at place b / 4 of chain b % 4, so that the numbers of a chain are contiguous and stay in
// the first-level cache: codes (4 chains, places, n, 32) i8, scales (4, places, n) f32, corrections
// (4, places, n) i32.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/q8_unpack_avx512.inl.h"
#include "cpu/simd/amx.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

// Places of a chain; the last may be padding.
constexpr int64_t chain_places(int64_t k) { return q8_padded(k) / (4 * kQ8Block); }
constexpr int64_t place_of(int64_t k, int64_t block) {
  return block % 4 * chain_places(k) + block / 4;
}

// Where a group of n tokens holds a block of one of them.
Q8BlockPlace q8_block_place(int64_t k, int n, int token, int64_t block) {
  const int64_t place = place_of(k, block) * n + token;
  return {.codes = kQ8Block * place,
          .scale = n * q8_scales_offset(k) + 4 * place,
          .correction = n * q8_corrections_offset(k) + 4 * place};
}

// With fewer, unpacking a panel costs more than its faster products save.
inline constexpr int kFewestPanelTokens = 8;

template <class Group>
inline constexpr bool kHasPanels = true;

template <class Group>
bool q8_panels_pay(const MatmulTask& task) {
  return task.tokens >= kFewestPanelTokens && (task.row_end - task.row_begin) % kLanes == 0;
}

struct UnpackedPanel {
  __m512i* codes;  // (4 chains, places, 8)
  __m512* scales;  // (4, places)
};

template <class Group>
void unpack_panel(const MatmulTask& task, int row, const UnpackedPanel& panel) {
  const int blocks = task.w.k / kQ8Block;
  for (int b = 0; b < blocks; ++b) {
    unpack_block<0, 1>(static_cast<const Group*>(nullptr), task, row, b,
                       panel.codes + kBlockQuads * place_of(task.w.k, b));
  }
  const auto* const scales =
      static_cast<const typename Group::Scale*>(task.w.scales) + static_cast<int64_t>(row) * blocks;
  for (int first = 0; first < blocks; first += kLanes) {
    const int count = blocks - first < kLanes ? blocks - first : kLanes;
    __m512 in_order[kLanes];
    unpack_scales<1>(scales + first, blocks, count, in_order);
    for (int b = 0; b < count; ++b) panel.scales[place_of(task.w.k, first + b)] = in_order[b];
  }
  finish_stores();
}

// Prefetches the weights of the next panel, which are contiguous, some lines at a time.
struct NextPanel {
  const uint8_t *at, *end;
  int64_t bytes_at_once;

  void prefetch() {
    for (int64_t byte = 0; byte < bytes_at_once && at < end; byte += 64, at += 64) {
      __builtin_prefetch(at, 0, 2);
    }
  }
};

template <class Group>
NextPanel next_panel(const MatmulTask& task, int row, int64_t calls) {
  const int64_t bytes = kLanes * (task.w.k / kQ8Block) * int64_t{Group::kBlockBytes};
  const auto* const at =
      static_cast<const uint8_t*>(task.w.data) + int64_t{row + kLanes} * (bytes / kLanes);
  return {at, at + bytes, (bytes + 64 * calls - 1) / (64 * calls) * 64};
}

inline constexpr int kTileTokensAmx = 16;
// Token tiles that pass a chain of a panel while it is in the first-level cache: 32 kB of sums.
inline constexpr int kTilesAtOnce = 8;

using TileSums = __m512[kTileTokensAmx];

// A chain's blocks of a tile of n tokens and of a panel.
struct Chain {
  const uint8_t* x;       // (places, n, 32)
  const float* x_scales;  // (places, n)
  const __m512i* codes;   // (places, 8)
  const __m512* scales;   // (places)
  int n, length;          // tokens, blocks
};

// The product of one block into a tile, which a literal names; activations and weights likewise.
#define GPTOSS_MULTIPLY(product, activations, weights, block)                          \
  _tile_zero(product);                                                                 \
  _tile_loadd(activations, chain.x + int64_t{kQ8Block} * chain.n * (block), kQ8Block); \
  _tile_loadd(weights, chain.codes + kBlockQuads * (block), 64);                       \
  _tile_dpbssd(product, activations, weights);

// sums[t] += the products of a block and kTokens tokens, scaled.
template <int kTokens>
[[gnu::always_inline]] inline void add_products(const __m512i* products, __m512 scales,
                                                const float* x_scales, __m512 (&sums)[kTokens]) {
#pragma GCC unroll 16
  for (int t = 0; t < kTokens; ++t) {
    const __m512 weighted = _mm512_mul_ps(_mm512_cvtepi32_ps(products[t]), scales);
    sums[t] = _mm512_fmadd_ps(weighted, _mm512_set1_ps(x_scales[t]), sums[t]);
  }
}

// The sum of a chain: of 16 rows and chain.n <= kTokens tokens. Up to 3 more are computed from
// zeros and whatever follows the scales, and not used.
template <int kTokens>
void add_chain(const Chain& chain, NextPanel& next, TileSums& out) {
  alignas(64) __m512i exact[2][kTokens];
  if (chain.n < kTokens) std::memset(exact, 0, sizeof exact);
  const int last = chain.length - 1;
  __m512 sums[kTokens];
#pragma GCC unroll 16
  for (int t = 0; t < kTokens; ++t) sums[t] = _mm512_setzero_ps();
  // A product is begun one block before it is stored, and used one block after: what waits for it
  // would keep what follows from beginning. Beyond the last block they are not used.
  const auto at = [last](int block) { return block < last ? block : last; };
  if (last >= 0) {
    GPTOSS_MULTIPLY(0, 4, 6, 0)
    GPTOSS_MULTIPLY(1, 5, 7, at(1))
    _tile_stored(0, exact[0], 64);
  }
  for (int block = 0; block <= last; block += 2) {
    GPTOSS_MULTIPLY(0, 4, 6, at(block + 2))
    _tile_stored(1, exact[1], 64);
    add_products<kTokens>(exact[0], chain.scales[block], chain.x_scales + int64_t{chain.n} * block,
                          sums);
    next.prefetch();
    if (block == last) break;
    GPTOSS_MULTIPLY(1, 5, 7, at(block + 3))
    _tile_stored(0, exact[0], 64);
    add_products<kTokens>(exact[1], chain.scales[block + 1],
                          chain.x_scales + int64_t{chain.n} * (block + 1), sums);
    next.prefetch();
  }
#pragma GCC unroll 16
  for (int t = 0; t < kTokens; ++t) out[t] = sums[t];
}
#undef GPTOSS_MULTIPLY

// Tiles: 0-1 products, 4-5 activations, 6-7 weights.
void configure_q8_tiles(int tokens) {
  TileConfig config;
  for (int i = 0; i < 2; ++i) config.set(i, tokens, 64);
  for (int i = 4; i < 6; ++i) config.set(i, tokens, kQ8Block);
  for (int i = 6; i < 8; ++i) config.set(i, kBlockQuads, 64);
  config.load();
}

// Writes 16 rows of n tokens.
void store_tile(const MatmulTask& task, int row, int token, int n, const TileSums (&chains)[4]) {
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

template <class Group>
void matmul_q8_panels(const MatmulTask& task) {
  const TilesInUse in_use;
  const int64_t k = task.w.k;
  const int64_t places = chain_places(k);
  const int blocks = task.w.k / kQ8Block;
  uint8_t* const lines = thread_scratch(int64_t{64} * 4 * places * (kBlockQuads + 1));
  const UnpackedPanel panel = {
      reinterpret_cast<__m512i*>(lines),
      reinterpret_cast<__m512*>(lines + int64_t{64} * 4 * places * kBlockQuads)};
  alignas(64) TileSums sums[kTilesAtOnce][4];
  int configured = 0;
  constexpr int kTokensAtOnce = kTilesAtOnce * kTileTokensAmx;
  for (int row = task.row_begin; row < task.row_end; row += kLanes) {
    unpack_panel<Group>(task, row, panel);
    const int tiles = (task.tokens + kTileTokensAmx - 1) / kTileTokensAmx;
    NextPanel next = next_panel<Group>(task, row, tiles * blocks);
    for (int begin = 0; begin < task.tokens; begin += kTokensAtOnce) {
      const int end = task.tokens - begin < kTokensAtOnce ? task.tokens : begin + kTokensAtOnce;
      for (int chain = 0; chain < 4; ++chain) {
        for (int token = begin; token < end; token += kTileTokensAmx) {
          const int n = end - token < kTileTokensAmx ? end - token : kTileTokensAmx;
          if (n != configured) configure_q8_tiles(configured = n);
          const auto* const group = static_cast<const uint8_t*>(task.x) + token * q8_row_bytes(k);
          const int64_t first = chain * places;
          const Chain of_tile = {
              .x = group + kQ8Block * n * first,
              .x_scales =
                  reinterpret_cast<const float*>(group + n * q8_scales_offset(k)) + n * first,
              .codes = panel.codes + kBlockQuads * first,
              .scales = panel.scales + first,
              .n = n,
              .length = (blocks - chain + 3) / 4};
          TileSums& out = sums[(token - begin) / kTileTokensAmx][chain];
          switch ((n + 3) / 4) {
            case 4:
              add_chain<16>(of_tile, next, out);
              break;
            case 3:
              add_chain<12>(of_tile, next, out);
              break;
            case 2:
              add_chain<8>(of_tile, next, out);
              break;
            default:
              add_chain<4>(of_tile, next, out);
          }
        }
      }
      for (int token = begin; token < end; token += kTileTokensAmx) {
        const int n = end - token < kTileTokensAmx ? end - token : kTileTokensAmx;
        store_tile(task, row, token, n, sums[(token - begin) / kTileTokensAmx]);
      }
    }
  }
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
