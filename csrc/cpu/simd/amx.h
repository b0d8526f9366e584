// Tiles of AMX: 8 registers of up to 16 rows of 64 bytes.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {

// Before tiles are loaded from memory that was just written: GCC does not know that they read it.
inline void finish_stores() { asm volatile("" ::: "memory"); }

// What _tile_loadconfig reads.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int n_rows, int n_bytes) {
    rows[tile] = static_cast<uint8_t>(n_rows);
    row_bytes[tile] = static_cast<uint16_t>(n_bytes);
  }
  // Clears all tiles.
  void load() const {
    finish_stores();
    _tile_loadconfig(this);
  }
};
static_assert(sizeof(TileConfig) == 64);

// Lets the system stop saving tiles when threads are switched.
struct TilesInUse {
  TilesInUse() = default;
  TilesInUse(const TilesInUse&) = delete;
  TilesInUse& operator=(const TilesInUse&) = delete;
  ~TilesInUse() { _tile_release(); }
};

// rows[i] lane j <-> rows[j] lane i.
inline void transpose16(__m512i (&rows)[16]) {
  __m512i pairs[16];
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  // quads[4q + c]: rows 4q .. 4q+3 of columns c, c+4, c+8, c+12.
  __m512i quads[16];
  for (int q = 0; q < 16; q += 4) {
    quads[q] = _mm512_unpacklo_epi64(pairs[q], pairs[q + 2]);
    quads[q + 1] = _mm512_unpackhi_epi64(pairs[q], pairs[q + 2]);
    quads[q + 2] = _mm512_unpacklo_epi64(pairs[q + 1], pairs[q + 3]);
    quads[q + 3] = _mm512_unpackhi_epi64(pairs[q + 1], pairs[q + 3]);
  }
  for (int c = 0; c < 4; ++c) {
    const __m512i low01 = _mm512_shuffle_i32x4(quads[c], quads[4 + c], 0x44);
    const __m512i high01 = _mm512_shuffle_i32x4(quads[c], quads[4 + c], 0xee);
    const __m512i low23 = _mm512_shuffle_i32x4(quads[8 + c], quads[12 + c], 0x44);
    const __m512i high23 = _mm512_shuffle_i32x4(quads[8 + c], quads[12 + c], 0xee);
    rows[c] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    rows[4 + c] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
    rows[8 + c] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    rows[12 + c] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
  }
}

}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
