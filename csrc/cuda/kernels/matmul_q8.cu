// Dense products in int8 on tensor cores. As in matmul_bf16.cu bits depend on neither the number of
// rows nor on the variant: within a segment blocks of 32 columns are added in order, each an exact
// integer times w's scale, rounded, times x's.
//
//   *_8, *_32  stream: as those in bf16.
//   *_128      tiled: a block makes 128 rows of w for up to 128 rows of x, a warp 32 for 64, over
//              all of k. Both come to shared memory by cp.async.
//
// What limits the tiled one, by its machine code for sm_80 and sm_90a: for 64 columns a warp has 32
// mma of 4,096 products, 256 fused multiply-adds, two for each number that an mma leaves a thread,
// and some 170 others; 96 more where a segment ends. These 460 instructions limit an H200, to
// 2.6e14 products/s; on A100, whose f32 has half the rate, it is the multiply-adds (512 clocks), on
// RTX 30 and 40 the mma (16 clocks each). A block reads 17.9 KB of L2 for 2^20 products: 4.5 TB/s
// at an H200's speed.
#include "cuda/kernels/shared.cuh"
#include "cuda/kernels/stream.cuh"

namespace gptoss::cuda {
namespace {

constexpr int kQuantizeThreads = 256;  // 8 warps, a block of 32 numbers each

// Twice a weight's scale, of an even row and of the odd one after it.
struct Bf16Scales {
  static __device__ __forceinline__ float even(uint32_t both) {
    return __uint_as_float(both << 16);
  }
  static __device__ __forceinline__ float odd(uint32_t both) {
    return __uint_as_float(both & 0xffff0000u);
  }
};
struct F16Scales {
  static __device__ __forceinline__ float even(uint32_t both) {
    return 2.0f * from_f16(static_cast<uint16_t>(both));
  }
  static __device__ __forceinline__ float odd(uint32_t both) {
    return 2.0f * from_f16(static_cast<uint16_t>(both >> 16));
  }
};

// Of a block, of rows 2g and 2g + 1: the scale, and what it makes of -kInt8Start, exactly: a scale
// has 11 bits at most. Weights above 2^110 would overflow it.
struct RowScales {
  float scales[2], starts[2];

  template <class Scales>
  static __device__ __forceinline__ RowScales of(uint32_t both) {
    const float even = Scales::even(both), odd = Scales::odd(both);
    return {{even, odd}, {-kInt8Start * even, -kInt8Start * odd}};
  }
};

// sums += a block's codes of w @ those of x, times their scales: x's of tokens 2t and 2t + 1.
__device__ __forceinline__ void add_block(Sums& sums, const uint4& w, const RowScales& w_scales,
                                          uint32_t b0, uint32_t b1, float x_scale0,
                                          float x_scale1) {
  Sums products;
  mma_int8(products, w, b0, b1);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float scaled = __fmaf_rn(products[i], w_scales.scales[i / 2], w_scales.starts[i / 2]);
    sums[i] = __fmaf_rn(scaled, i % 2 == 0 ? x_scale0 : x_scale1, sums[i]);
  }
}

// ---- stream ------------------------------------------------------------------------------------

template <class Scales>
struct Q8Input {
  struct Columns {
    uint32_t words[4];   // columns 16 i + 4t to 4t + 3 of token g
    float scales[2][2];  // of each block, of tokens 2t and 2t + 1
  };
  const int8_t* x;         // of token g, from column 4t on
  const float* scales[2];  // of tokens 2t and 2t + 1

  __device__ __forceinline__ void advance(int groups) {
    x += groups * kGroupColumns;
    scales[0] += groups * 2;
    scales[1] += groups * 2;
  }

  __device__ __forceinline__ void load(Columns& to, int ahead, int) const {
    const auto* const words = reinterpret_cast<const uint32_t*>(x + ahead * kGroupColumns);
#pragma unroll
    for (int i = 0; i < 4; ++i) to.words[i] = words[4 * i];
#pragma unroll
    for (int token = 0; token < 2; ++token) {
      const float2 both = *reinterpret_cast<const float2*>(scales[token] + ahead * 2);
      to.scales[0][token] = both.x;
      to.scales[1][token] = both.y;
    }
  }

  template <int kTokenTiles>
  static __device__ __forceinline__ void multiply(Sums (&sums)[kTokenTiles], const Q8Tile::Group& w,
                                                  const Columns (&x)[kTokenTiles]) {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const auto w_scales = RowScales::of<Scales>(b == 0 ? w.scales.x : w.scales.y);
#pragma unroll
      for (int j = 0; j < kTokenTiles; ++j) {
        add_block(sums[j], w.codes[b], w_scales, x[j].words[2 * b], x[j].words[2 * b + 1],
                  x[j].scales[b][0], x[j].scales[b][1]);
      }
    }
  }
};

template <class S, class Scales>
__device__ __forceinline__ void q8_stream(const Q8MatmulArgs& a) {
  const int first_tile = static_cast<int>(blockIdx.x) * S::kTiles;
  const int begin = static_cast<int>(blockIdx.y) * S::kTokens;
  if (first_tile * kTileRows >= a.n || begin >= a.rows) return take_turn();
  const int groups = groups_of(a.k);
  const int end = min(begin + S::kTokens, a.rows);
  const int g = lane_id() / 4, t = lane_id() % 4;
  __shared__ float factors[S::kTokens];
  stream<S>(
      Q8Weights{a.codes, a.scales, groups}, first_tile, tiles_of(a.n), begin, end, a.k,
      [&] {
        take_turn();
        load_factors<S::kThreads>(a.norm, a.k, begin, end, factors);
      },
      [&](int row) {  // lanes without a token take the last one's
        const auto at = [&](int r) { return static_cast<int64_t>(min(row + r, end - 1)) * groups; };
        return Q8Input<Scales>{a.x + at(g) * kGroupColumns + 4 * t,
                               {a.x_scales + at(2 * t) * 2, a.x_scales + at(2 * t + 1) * 2}};
      },
      [&](int tile, int row, int pair, float even, float odd) {
        emit_dense<true>(a, row, tile * kTileRows + 2 * pair, even, odd, factors[row - begin]);
      });
}

using Q8Rows8 = Streaming<1, 1, 8, 3>;
using Q8Rows32 = Streaming<4, 1, 8, 1>;

// ---- tiled -------------------------------------------------------------------------------------

constexpr int kTiledThreads = 256;
constexpr int kTiledRows = 128;  // of x
constexpr int kWarpRows = 64;    // of them, per warp
constexpr int kWarpTiles = 2;    // of w, per warp
constexpr int kRowWarps = 4;     // that have the same rows of x
constexpr int kBlockTiles = kWarpTiles * kRowWarps;
constexpr int kStages = 3;                    // two on their way while one is used
constexpr int kXChunks = kGroupColumns / 16;  // of 16 bytes, in a row of x
constexpr int kTileChunks = kTileRows * kGroupColumns / 16;
constexpr int kScaleChunks = kTileRows * 4 / 16;  // of a tile of w
static_assert(kRowWarps * kTiledRows / kWarpRows == kTiledThreads / 32);

// 64 columns. w's as they lie in memory; chunk c of a row r of x is in place c ^ (r / 2 % 4):
// neither the copies nor ldmatrix meet in banks.
struct Stage {
  uint4 w[kBlockTiles][kTileChunks];
  uint4 w_scales[kBlockTiles][kScaleChunks];
  uint4 x[kTiledRows][kXChunks];
  float x_scales[2][kTiledRows];  // of either block
};
static_assert(kStages * sizeof(Stage) == kQ8TiledShared);

// What a thread copies of each group. Tiles and rows beyond the last are the last one's: their
// results go nowhere.
class Copies {
 public:
  __device__ __forceinline__ Copies(const Q8MatmulArgs& a, int first_tile, int begin, int end,
                                    Stage* stages)
      : a_(a), stages_(stages), groups_(groups_of(a.k)) {
    const auto tile = [&](int i) { return min(first_tile + i, tiles_of(a.n) - 1) * groups_; };
    const auto row = [&](int i) { return min(begin + i, end - 1) * groups_; };
#pragma unroll
    for (int i = 0; i < kTileCopies; ++i) {
      tiles_[i] = tile(at(i) / kTileChunks) * kTileChunks + at(i) % kTileChunks;
    }
    if (copies_scales()) {
      scales_ = tile(at(0) / kScaleChunks) * kScaleChunks + at(0) % kScaleChunks;
    }
#pragma unroll
    for (int i = 0; i < kXCopies; ++i) {
      x_[i] = row(at(i) / kXChunks) * kXChunks + at(i) % kXChunks;
    }
    x_scale_ = row(at(0) / 2) * 2 + at(0) % 2;
  }

  // Begins with the next group, if there is one.
  __device__ __forceinline__ void begin() {
    if (next_ < groups_) {
      Stage& to = stages_[next_ % kStages];
#pragma unroll
      for (int i = 0; i < kTileCopies; ++i) {
        copy_async<16>(shared_address(&to.w[0][at(i)]),
                       chunk(a_.codes, tiles_[i] + next_ * kTileChunks), true);
      }
      if (copies_scales()) {
        copy_async<16>(shared_address(&to.w_scales[0][at(0)]),
                       chunk(a_.scales, scales_ + next_ * kScaleChunks), true);
      }
#pragma unroll
      for (int i = 0; i < kXCopies; ++i) {
        const int row = at(i) / kXChunks, place = at(i) % kXChunks ^ row / 2 % 4;
        copy_async<16>(shared_address(&to.x[row][place]), chunk(a_.x, x_[i] + next_ * kXChunks),
                       true);
      }
      copy_async<4>(shared_address(&to.x_scales[at(0) % 2][at(0) / 2]),
                    a_.x_scales + x_scale_ + next_ * 2, true);
    }
    commit_copies();  // an empty one keeps the count
    ++next_;
  }

 private:
  static constexpr int kTileCopies = kBlockTiles * kTileChunks / kTiledThreads;
  static constexpr int kXCopies = kTiledRows * kXChunks / kTiledThreads;
  static_assert(kTiledRows * 2 == kTiledThreads);  // one scale of x each

  // The thread's copy `i` of all of the block's.
  static __device__ __forceinline__ int at(int i) {
    return static_cast<int>(threadIdx.x) + i * kTiledThreads;
  }
  static __device__ __forceinline__ bool copies_scales() {
    return threadIdx.x < kBlockTiles * kScaleChunks;
  }
  static __device__ __forceinline__ const void* chunk(const void* from, int index) {
    return static_cast<const uint4*>(from) + index;
  }

  const Q8MatmulArgs& a_;
  Stage* stages_;
  int groups_;
  int next_ = 0;
  int tiles_[kTileCopies], scales_ = 0, x_[kXCopies];  // chunks: 32 bits are enough for 32 GB
  int x_scale_;
};

// sums += block `b` of tiles from `tile` on @ that of 64 rows of x from `row` on, in the stage.
template <class Scales>
__device__ __forceinline__ void multiply_stage(Sums (&sums)[kWarpTiles][kWarpRows / 8],
                                               const Stage& stage, int tile, int row, int b) {
  const int lane = lane_id();
  uint4 codes[kWarpTiles];
  RowScales w_scales[kWarpTiles];
#pragma unroll
  for (int i = 0; i < kWarpTiles; ++i) {
    codes[i] = stage.w[tile + i][b * 32 + lane];
    w_scales[i] = RowScales::of<Scales>(
        reinterpret_cast<const uint32_t*>(stage.w_scales[tile + i])[lane / 4 * 2 + b]);
  }
  // A pair of 8 rows: of the first the block's first 16 columns and the others, then of the second.
  const int of_pair = lane / 16 * 8 + lane % 8;
  const int place = (2 * b + lane / 8 % 2) ^ lane % 8 / 2;
#pragma unroll
  for (int j = 0; j < kWarpRows / 8; j += 2) {
    uint32_t x[4];
    load_matrices(x, shared_address(&stage.x[row + 8 * j + of_pair][place]));
#pragma unroll
    for (int next = 0; next < 2; ++next) {
      const float2 x_scales = *reinterpret_cast<const float2*>(
          &stage.x_scales[b][row + 8 * (j + next) + 2 * (lane % 4)]);
#pragma unroll
      for (int i = 0; i < kWarpTiles; ++i) {
        add_block(sums[i][j + next], codes[i], w_scales[i], x[2 * next], x[2 * next + 1],
                  x_scales.x, x_scales.y);
      }
    }
  }
}

template <class Scales>
__device__ __forceinline__ void q8_tiled(const Q8MatmulArgs& a) {
  constexpr int kTokenTiles = kWarpRows / 8;
  take_turn();
  extern __shared__ __align__(128) uint4 shared[];
  Stage* const stages = reinterpret_cast<Stage*>(shared);
  const int first_tile = static_cast<int>(blockIdx.x) * kBlockTiles;
  const int begin = static_cast<int>(blockIdx.y) * kTiledRows;
  if (first_tile * kTileRows >= a.n || begin >= a.rows) return;
  const int groups = groups_of(a.k);
  const int end = min(begin + kTiledRows, a.rows);
  // From one lane, so that the compiler knows that all have the same.
  const int warp = __shfl_sync(kAllLanes, warp_id(), 0);
  const int tile = warp % kRowWarps * kWarpTiles;  // of the block's
  const int row = warp / kRowWarps * kWarpRows;
  const bool has_rows = begin + row < end;  // a warp without helps to copy

  __shared__ float factors[kTiledRows];
  load_factors<kTiledThreads>(a.norm, a.k, begin, end, factors);
  Copies copies(a, first_tile, begin, end, stages);
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) copies.begin();

  Sums totals[kWarpTiles][kTokenTiles] = {};
  Sums sums[kWarpTiles][kTokenTiles] = {};
  int segment = 0;
  for (int group = 0; group < groups; ++group) {
    wait_for_copies<kStages - 2>();
    __syncthreads();
    copies.begin();
    if (!has_rows) continue;
#pragma unroll 1  // both at once would need more registers than there are
    for (int b = 0; b < 2; ++b) {
      multiply_stage<Scales>(sums, stages[group % kStages], tile, row, b);
    }
    close_segment(totals, sums, groups, group, segment);
  }

  const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
  for (int i = 0; i < kWarpTiles; ++i) {
    const int n = (first_tile + tile + i) * kTileRows + 2 * g;
#pragma unroll
    for (int j = 0; j < kTokenTiles; ++j) {
      const int at = begin + row + 8 * j + 2 * t;
#pragma unroll
      for (int token = 0; token < 2; ++token) {
        if (at + token >= end) break;
        emit_dense<false>(a, at + token, n, totals[i][j][token], totals[i][j][2 + token],
                          factors[at + token - begin]);
      }
    }
  }
}

// ---- inputs ------------------------------------------------------------------------------------

template <class T>
__device__ __forceinline__ void quantize(const QuantizeArgs& a) {
  take_turn();
  const int row = static_cast<int>(blockIdx.x);
  const int columns = groups_of(a.k) * kGroupColumns;
  const int column =
      static_cast<int>(blockIdx.y) * kQuantizeThreads + static_cast<int>(threadIdx.x);
  if (row >= a.rows || column >= columns) return;
  float x = 0.0f;
  if (column < a.k) {
    x = Stored<T>::load(static_cast<const typename Stored<T>::Element*>(a.x) +
                        static_cast<int64_t>(row) * a.x_stride + column);
  }
  const Int8Scale scale(__reduce_max_sync(kAllLanes, magnitude_bits(x)));
  a.codes[static_cast<int64_t>(row) * columns + column] = scale.code(x);
  if (lane_id() == 0) {
    a.scales[static_cast<int64_t>(row) * (columns / 32) + column / 32] = scale.scale;
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(Q8Rows8::kThreads, 3)
    gptoss_q8_matmul_8(const __grid_constant__ Q8MatmulArgs a) {
  q8_stream<Q8Rows8, Bf16Scales>(a);
}
extern "C" __global__ void __launch_bounds__(Q8Rows32::kThreads, 2)
    gptoss_q8_matmul_32(const __grid_constant__ Q8MatmulArgs a) {
  q8_stream<Q8Rows32, Bf16Scales>(a);
}
extern "C" __global__ void __launch_bounds__(kTiledThreads, 1)
    gptoss_q8_matmul_128(const __grid_constant__ Q8MatmulArgs a) {
  q8_tiled<Bf16Scales>(a);
}
extern "C" __global__ void __launch_bounds__(Q8Rows8::kThreads, 3)
    gptoss_q8_0_matmul_8(const __grid_constant__ Q8MatmulArgs a) {
  q8_stream<Q8Rows8, F16Scales>(a);
}
extern "C" __global__ void __launch_bounds__(Q8Rows32::kThreads, 2)
    gptoss_q8_0_matmul_32(const __grid_constant__ Q8MatmulArgs a) {
  q8_stream<Q8Rows32, F16Scales>(a);
}
extern "C" __global__ void __launch_bounds__(kTiledThreads, 1)
    gptoss_q8_0_matmul_128(const __grid_constant__ Q8MatmulArgs a) {
  q8_tiled<F16Scales>(a);
}

extern "C" __global__ void __launch_bounds__(kQuantizeThreads)
    gptoss_quantize_f32(const __grid_constant__ QuantizeArgs a) {
  quantize<float>(a);
}
extern "C" __global__ void __launch_bounds__(kQuantizeThreads)
    gptoss_quantize_bf16(const __grid_constant__ QuantizeArgs a) {
  quantize<Bf16>(a);
}

}  // namespace gptoss::cuda
