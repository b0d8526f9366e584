// Weights in the order of mma.m16n8k16's A operand: how they lie, how a warp loads and unpacks
// them.
//
// A tile is 16 rows of a matrix (n, k), a group 64 columns, a step 16. Matrices are padded with
// zeros to whole tiles and groups, and stored tile by tile, group by group. Row r of a fragment is
// the tile's row 2 r, row r + 8 its row 2 r + 1: a lane's results are neighbours, and gate and up
// of one output meet in one lane. With lane = 4 g + t, a lane has columns 16 t to 16 t + 15 of a
// group, so that it reads as many of x in one piece, and of MXFP4 one block's; word r of step s is
//   r0: row 2g, columns 16 t + 4 s and the next;  r1: row 2g + 1, the same;
//   r2, r3: the same rows, 2 columns on;          the lower column in the lower half
//   dense: for each step, for each lane, r0..r3 of bf16: 16 bytes a lane and step
//   mxfp4: for each lane, for each step one word of r0..r3's codes: 16 bytes a lane and group.
//     In either half, by code s e e m: r0 in bits 15 and 8..6, r1 in 12 and 5..3, r2 in 9 and 2..0,
//     r3's s in 14, m in 13, e e in 11 and 10: three of the four come to where bf16 has them with
//     one shift and one mask.
//   mxfp4's scales: for each g a word: row 2g, row 2g + 1 of the first 32 columns, then of the
//     others; byte = E8M0 byte + 126, the exponent of the bf16 that makes bits into weights.
// In int8 it is m16n8k32's A, with two blocks of 32 columns to a group; word r of block b is
//   r0: row 2g, columns 32 b + 4t to 4t + 3;  r1: row 2g + 1;  r2, r3: 16 columns on
//   codes: for each block, for each lane, r0..r3: 16 bytes
//   scales: for each g, for each block a word: bf16 of row 2g, of row 2g + 1
#pragma once

#include "cuda/kernels/block.cuh"

namespace gptoss::cuda {

inline constexpr int kTileRows = 16;
inline constexpr int kGroupColumns = 64;
inline constexpr int kSteps = 4;  // of 16 columns

// One number for each of 8 tokens and 16 rows; lane's: rows 2g, 2g, 2g + 1, 2g + 1 at tokens 2t,
// 2t + 1, 2t, 2t + 1.
using Sums = float[4];

// sums += a (16 rows, 16 columns) @ b (16 columns, 8 tokens), in bf16.
__device__ __forceinline__ void mma(Sums& sums, const uint4& a, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

// kInt8Start + a (16 rows, 32 columns) @ b (32 columns, 8 tokens) of int8, exactly: a sum of 32
// products is below 2^20, and what is added to the bits of 2^23 + 2^22 is added to the number.
inline constexpr float kInt8Start = 12582912.0f;
__device__ __forceinline__ void mma_int8(Sums& products, const uint4& a, uint32_t b0, uint32_t b1) {
  uint32_t out[4];
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%10, %10, %10, %10};"
      : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1), "r"(__float_as_uint(kInt8Start)));
#pragma unroll
  for (int i = 0; i < 4; ++i) products[i] = __uint_as_float(out[i]);
}

// Weights are read once by a warp and not again: they stay out of L1. Volatile keeps loads where
// they are issued, ahead of their use.
__device__ __forceinline__ uint4 load_weights(const uint4* from) {
  uint4 x;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(from));
  return x;
}
__device__ __forceinline__ uint2 load_weights(const uint2* from) {
  uint2 x;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];"
               : "=r"(x.x), "=r"(x.y)
               : "l"(from));
  return x;
}
__device__ __forceinline__ uint32_t load_weights(const uint32_t* from) {
  uint32_t x;
  asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(x) : "l"(from));
  return x;
}

// (a & b) | c
__device__ __forceinline__ uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// d = a * c in both halves. An addend of -0 leaves the sign of zero; sm_80 has no mul.bf16x2.
__device__ __forceinline__ uint32_t multiply_bf16_pair(uint32_t a, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(c), "r"(0x80008000u));
  return d;
}

// One tile of a matrix of either format; Group is what a lane has of 64 of its columns.
struct DenseTile {
  struct Group {
    uint4 words[kSteps];
    __device__ __forceinline__ uint4 step(int s) const { return words[s]; }
  };
  static constexpr bool kLoadsSteps = true;  // load_step exists

  const uint4* words;  // of this lane, in the group where `advance` has come to

  __device__ __forceinline__ void advance(int groups) { words += groups * (kSteps * 32); }
  __device__ __forceinline__ void load_step(Group& to, int ahead, int s) const {
    to.words[s] = load_weights(words + ahead * (kSteps * 32) + s * 32);
  }
  __device__ __forceinline__ void load(Group& to, int ahead) const {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) load_step(to, ahead, s);
  }
};

struct DenseWeights {
  using Tile = DenseTile;
  const void* data;
  int groups;

  __device__ __forceinline__ Tile tile(int index) const {
    const int64_t before = static_cast<int64_t>(index) * (groups * kSteps * 32);
    return {static_cast<const uint4*>(data) + before + lane_id()};
  }
};

struct Mxfp4Tile {
  struct Group {
    uint4 codes;
    uint32_t scales;

    __device__ __forceinline__ uint4 step(int s) const {
      constexpr uint32_t kMask = 0x81c081c0u;
      const uint32_t x = s == 0 ? codes.x : s == 1 ? codes.y : s == 2 ? codes.z : codes.w;
      // A byte of the scales in both halves, where bf16 has its exponent: of this lane's block.
      const uint32_t pick = 0x4040u + lane_id() % 4 / 2 * 0x0202u;
      const uint32_t even = __byte_perm(scales, 0, pick) << 7;
      const uint32_t odd = __byte_perm(scales, 0, pick + 0x0101u) << 7;
      const uint32_t last =
          and_or(x >> 7, 0x00400040u, and_or(x >> 3, 0x01800180u, (x << 1) & 0x80008000u));
      return {multiply_bf16_pair(x & kMask, even), multiply_bf16_pair((x << 3) & kMask, odd),
              multiply_bf16_pair((x << 6) & kMask, even), multiply_bf16_pair(last, odd)};
    }
  };
  static constexpr bool kLoadsSteps = false;

  const uint4* codes;  // of this lane, in the group where `advance` has come to
  const uint32_t* scales;

  __device__ __forceinline__ void advance(int groups) {
    codes += groups * 32;
    scales += groups * 8;
  }
  __device__ __forceinline__ void load(Group& to, int ahead) const {
    to.codes = load_weights(codes + ahead * 32);
    to.scales = load_weights(scales + ahead * 8);
  }
};

// Matrix `expert` of those of all experts.
struct Mxfp4Weights {
  using Tile = Mxfp4Tile;
  const uint8_t* blocks;
  const uint8_t* scales;
  int groups;
  int expert;
  int n_tiles;

  __device__ __forceinline__ Tile tile(int index) const {
    const int64_t before = static_cast<int64_t>(expert * n_tiles + index) * groups;
    return {reinterpret_cast<const uint4*>(blocks) + before * 32 + lane_id(),
            reinterpret_cast<const uint32_t*>(scales) + before * 8 + lane_id() / 4};
  }
};

struct Q8Tile {
  struct Group {
    uint4 codes[2];
    uint2 scales;
  };

  const uint4* codes;  // of this lane, in the group where `advance` has come to
  const uint2* scales;

  __device__ __forceinline__ void advance(int groups) {
    codes += groups * 64;
    scales += groups * 8;
  }
  __device__ __forceinline__ void load(Group& to, int ahead) const {
    to.codes[0] = load_weights(codes + ahead * 64);
    to.codes[1] = load_weights(codes + ahead * 64 + 32);
    to.scales = load_weights(scales + ahead * 8);
  }
};

struct Q8Weights {
  using Tile = Q8Tile;
  const void* codes;
  const void* scales;
  int groups;

  __device__ __forceinline__ Tile tile(int index) const {
    const int64_t before = static_cast<int64_t>(index) * groups;
    return {static_cast<const uint4*>(codes) + before * 64 + lane_id(),
            static_cast<const uint2*>(scales) + before * 8 + lane_id() / 4};
  }
};

__device__ __forceinline__ int tiles_of(int n) {
  return static_cast<int>((static_cast<unsigned>(n) + kTileRows - 1) / kTileRows);
}
__device__ __forceinline__ int groups_of(int k) {
  return static_cast<int>((static_cast<unsigned>(k) + kGroupColumns - 1) / kGroupColumns);
}

}  // namespace gptoss::cuda
