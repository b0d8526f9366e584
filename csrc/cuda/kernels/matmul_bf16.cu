// Matrix products on tensor cores: weights in fragments (fragments.cuh) as A, bf16 activations as
// B, sums in f32.
//
// The order of every sum is the same in all variants, so that bits depend on neither the number of
// rows nor on which variant runs: k is cut into kSegments runs of groups, each summed by mma in
// the order of k from zero, then added in order; then the norm's factor, the bias, what y held.
//
//   *_8, *_32  stream: a block makes 16 or 32 rows of w for up to 8 or 32 rows of x, a warp one or
//              two segments: weights go from memory to registers, nothing waits but for the last
//              sum.
//   *_64       tiled: a block makes 128 rows of w for up to 64 rows of x, which come to shared
//              memory by cp.async, a warp 32 rows over all of k.
#include "cuda/kernels/expert_tile.cuh"
#include "cuda/kernels/shared.cuh"
#include "cuda/kernels/stream.cuh"

namespace gptoss::cuda {
namespace {

// ---- stream ------------------------------------------------------------------------------------

struct Bf16Input {
  struct Columns {
    uint4 words[2];  // of two steps each
  };
  const uint16_t* x;  // of the lane's token g, from column 16 t on

  __device__ __forceinline__ void advance(int groups) { x += groups * kGroupColumns; }

  __device__ __forceinline__ void load(Columns& to, int ahead, int left) const {
    const auto words = [&](int i) {
      return *reinterpret_cast<const uint4*>(x + ahead * kGroupColumns + 8 * i);
    };
    if (left >= kGroupColumns) {
      to.words[0] = words(0);
      to.words[1] = words(1);
    } else {  // weights beyond k are zero, but what lies behind x need not be a number
      const int column = lane_id() % 4 * 16;
      to.words[0] = column < left ? words(0) : uint4{};
      to.words[1] = column + 8 < left ? words(1) : uint4{};
    }
  }

  template <int kTokenTiles, class Group>
  static __device__ __forceinline__ void multiply(Sums (&sums)[kTokenTiles], const Group& w,
                                                  const Columns (&x)[kTokenTiles]) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const uint4 a = w.step(s);
#pragma unroll
      for (int j = 0; j < kTokenTiles; ++j) {
        const uint4& b = x[j].words[s / 2];
        mma(sums[j], a, s % 2 == 0 ? b.x : b.z, s % 2 == 0 ? b.y : b.w);
      }
    }
  }
};

// x_of(row) is where a row of x begins. Lanes without a token take the last one's: their results go
// nowhere.
template <class XOf>
__device__ __forceinline__ auto bf16_input(XOf x_of, int end) {
  return [=](int row) {
    return Bf16Input{x_of(min(row + lane_id() / 4, end - 1)) + 16 * (lane_id() % 4)};
  };
}

// Dense weights are many bytes for few instructions: small blocks fill the card better. MXFP4 is
// instructions first: what a warp does once is spread over more weights.
using Dense8 = Streaming<1, 1, 8, 2>;
using Dense32 = Streaming<4, 1, 8, 2>;
using Expert8 = Streaming<1, 4, 4, 2>;
using Expert32 = Streaming<4, 1, 8, 3>;

// ---- tiled -------------------------------------------------------------------------------------

constexpr int kTiledThreads = 128;
constexpr int kTiledRows = 64;  // of x
constexpr int kWarpTiles = 2;   // of w, per warp
constexpr int kBlockTiles = kWarpTiles * kTiledThreads / 32;
constexpr int kStages = 3;  // two on their way while one is used
constexpr int kChunk = 8;   // numbers that one copy of 16 bytes brings
constexpr int kChunks = kGroupColumns / kChunk;

// Chunk c of row r is in place c ^ (r % 8): neither the copies nor what reads them meet in banks.
struct Stage {
  uint4 chunks[kTiledRows][kChunks];
};

// B of this step and the next for 8 tokens.
__device__ __forceinline__ uint4 load_columns(const Stage& stage, int token_tile, int step) {
  const int token = token_tile * 8 + lane_id() / 4;
  const int chunk = lane_id() % 4 * 2 + step / 2;
  return stage.chunks[token][chunk ^ (token % 8)];
}

// As stream(), for kBlockTiles tiles and up to kTiledRows rows.
template <class Weights, class Behind, class XOf, class Emit>
__device__ __forceinline__ void tiled(const Weights& w, int first_tile, int n_tiles, int begin,
                                      int end, int k, Behind behind_weights, XOf x_of, Emit emit) {
  constexpr int kTokenTiles = kTiledRows / 8;
  constexpr int kCopies = kTiledRows * kChunks / kTiledThreads;  // per thread and stage
  constexpr int kRowsApart = kTiledThreads / kChunks;
  __shared__ __align__(128) Stage stages[kStages];

  const int chunk = static_cast<int>(threadIdx.x) % kChunks;
  const int copy_row = static_cast<int>(threadIdx.x) / kChunks;
  const uint16_t* x[kCopies];
#pragma unroll
  for (int i = 0; i < kCopies; ++i) {
    x[i] = x_of(min(begin + copy_row + i * kRowsApart, end - 1)) + chunk * kChunk;
  }
  const auto copy_group = [&](int group) {
    if (group < w.groups) {
      const int column = group * kGroupColumns;
      const bool inside = column + chunk * kChunk < k;
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        const int row = copy_row + i * kRowsApart;
        copy_async<16>(shared_address(&stages[group % kStages].chunks[row][chunk ^ (row % 8)]),
                       inside ? x[i] + column : x[i] - chunk * kChunk, inside);
      }
    }
    commit_copies();  // an empty one keeps the count
  };

  // Tiles beyond the last compute it again and emit nothing.
  using Tile = typename Weights::Tile;
  Tile tiles[kWarpTiles];
  typename Tile::Group now[kWarpTiles], next[kWarpTiles];
#pragma unroll
  for (int i = 0; i < kWarpTiles; ++i) {
    tiles[i] = w.tile(min(first_tile + warp_id() * kWarpTiles + i, n_tiles - 1));
    tiles[i].load(now[i], 0);
  }
  behind_weights();
#pragma unroll
  for (int group = 0; group < kStages - 1; ++group) copy_group(group);

  Sums totals[kWarpTiles][kTokenTiles] = {};
  Sums sums[kWarpTiles][kTokenTiles] = {};
  int segment = 0;
  for (int group = 0; group < w.groups; ++group) {
    wait_for_copies<kStages - 2>();
    __syncthreads();
    copy_group(group + kStages - 1);
    const bool is_last = group + 1 == w.groups;
    if constexpr (!Tile::kLoadsSteps) {
      if (!is_last) {
#pragma unroll
        for (int i = 0; i < kWarpTiles; ++i) tiles[i].load(next[i], 1);
      }
    }
    const Stage& stage = stages[group % kStages];
#pragma unroll
    for (int s = 0; s < kSteps; s += 2) {
      uint4 a[kWarpTiles][2];
#pragma unroll
      for (int i = 0; i < kWarpTiles; ++i) {
        a[i][0] = now[i].step(s);
        a[i][1] = now[i].step(s + 1);
      }
#pragma unroll
      for (int j = 0; j < kTokenTiles; ++j) {
        const uint4 b = load_columns(stage, j, s);
#pragma unroll
        for (int i = 0; i < kWarpTiles; ++i) mma(sums[i][j], a[i][0], b.x, b.y);
#pragma unroll
        for (int i = 0; i < kWarpTiles; ++i) mma(sums[i][j], a[i][1], b.z, b.w);
      }
      if constexpr (Tile::kLoadsSteps) {  // into registers that are free now: there are no
                                          // others
        if (!is_last) {
#pragma unroll
          for (int i = 0; i < kWarpTiles; ++i) {
            tiles[i].load_step(now[i], 1, s);
            tiles[i].load_step(now[i], 1, s + 1);
          }
        }
      }
    }
    if constexpr (!Tile::kLoadsSteps) {
#pragma unroll
      for (int i = 0; i < kWarpTiles; ++i) now[i] = next[i];
    }
#pragma unroll
    for (int i = 0; i < kWarpTiles; ++i) tiles[i].advance(1);
    close_segment(totals, sums, w.groups, group, segment);
  }

  const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
  for (int i = 0; i < kWarpTiles; ++i) {
    const int tile = first_tile + warp_id() * kWarpTiles + i;
    if (tile >= n_tiles) break;
#pragma unroll
    for (int j = 0; j < kTokenTiles; ++j) {
      const int row = begin + 8 * j + 2 * t;
      if (row < end) emit(tile, row, g, totals[i][j][0], totals[i][j][2]);
      if (row + 1 < end) emit(tile, row + 1, g, totals[i][j][1], totals[i][j][3]);
    }
  }
}

// ---- dense -------------------------------------------------------------------------------------

__device__ __forceinline__ const uint16_t* dense_x(const DenseMatmulArgs& a, int row) {
  return static_cast<const uint16_t*>(a.x) + static_cast<int64_t>(row) * a.x_stride;
}

template <class S>
__device__ __forceinline__ void dense_stream(const DenseMatmulArgs& a) {
  const int first_tile = static_cast<int>(blockIdx.x) * S::kTiles;
  const int begin = static_cast<int>(blockIdx.y) * S::kTokens;
  if (first_tile * kTileRows >= a.n || begin >= a.rows) return take_turn();
  const int end = min(begin + S::kTokens, a.rows);
  __shared__ float factors[S::kTokens];
  const auto begin_inputs = [&] {
    take_turn();
    load_factors<S::kThreads>(a.norm, a.k, begin, end, factors);
  };
  stream<S>(DenseWeights{a.w, groups_of(a.k)}, first_tile, tiles_of(a.n), begin, end, a.k,
            begin_inputs, bf16_input([&](int row) { return dense_x(a, row); }, end),
            [&](int tile, int row, int pair, float even, float odd) {
              emit_dense<true>(a, row, tile * kTileRows + 2 * pair, even, odd,
                               factors[row - begin]);
            });
}

__device__ __forceinline__ void dense_tiled(const DenseMatmulArgs& a) {
  const int first_tile = static_cast<int>(blockIdx.x) * kBlockTiles;
  const int begin = static_cast<int>(blockIdx.y) * kTiledRows;
  if (first_tile * kTileRows >= a.n || begin >= a.rows) return take_turn();
  const int end = min(begin + kTiledRows, a.rows);
  __shared__ float factors[kTiledRows];
  const auto begin_inputs = [&] {
    take_turn();
    load_factors<kTiledThreads>(a.norm, a.k, begin, end, factors);
  };
  tiled(
      DenseWeights{a.w, groups_of(a.k)}, first_tile, tiles_of(a.n), begin, end, a.k, begin_inputs,
      [&](int row) { return dense_x(a, row); },
      [&](int tile, int row, int pair, float even, float odd) {
        emit_dense<false>(a, row, tile * kTileRows + 2 * pair, even, odd, factors[row - begin]);
      });
}

// ---- experts -----------------------------------------------------------------------------------

// x of a sorted row, and where its results go.
__device__ __forceinline__ const uint16_t* expert_x(const GateUpArgs& a, int row) {
  return static_cast<const uint16_t*>(a.x) + static_cast<int64_t>(a.pairs[row] / a.n_active) * a.k;
}
__device__ __forceinline__ const uint16_t* expert_x(const DownArgs& a, int row) {
  return static_cast<const uint16_t*>(a.h) + static_cast<int64_t>(row) * a.k;
}

__device__ __forceinline__ void emit_expert(const GateUpArgs& a, int expert, int row, int n,
                                            float gate, float up) {
  if (n >= a.n) return;
  const float* const bias = a.w.bias + static_cast<int64_t>(expert) * a.n + n;
  static_cast<uint16_t*>(a.h)[static_cast<int64_t>(row) * (a.n / 2) + n / 2] =
      to_bf16(swiglu(gate + bias[0], up + bias[1], a.limit));
}
__device__ __forceinline__ void emit_expert(const DownArgs& a, int expert, int row, int n,
                                            float even, float odd) {
  if (n >= a.n) return;
  const float* const bias = a.w.bias + static_cast<int64_t>(expert) * a.n + n;
  float* const out = a.out + static_cast<int64_t>(a.pairs[row]) * a.n + n;
  out[0] = even + bias[0];
  if (n + 1 < a.n) out[1] = odd + bias[1];
}

template <class Args>
__device__ __forceinline__ Mxfp4Weights expert_weights(const Args& a, int expert) {
  return {a.w.blocks, a.w.scales, groups_of(a.k), expert, tiles_of(a.n)};
}

template <class S, class Args>
__device__ __forceinline__ void expert_stream(const Args& a) {
  take_turn();  // which experts there are is known then
  const int first_tile = static_cast<int>(blockIdx.x) * S::kTiles;
  if (first_tile * kTileRows >= a.n) return;
  const ExpertTile rows =
      expert_tile<S::kTokens>(a.offsets, a.n_experts, static_cast<int>(blockIdx.y));
  if (rows.expert < 0) return;
  stream<S>(
      expert_weights(a, rows.expert), first_tile, tiles_of(a.n), rows.begin, rows.end, a.k, [] {},
      bf16_input([&](int row) { return expert_x(a, row); }, rows.end),
      [&](int tile, int row, int pair, float even, float odd) {
        emit_expert(a, rows.expert, row, tile * kTileRows + 2 * pair, even, odd);
      });
}

// Of kRows columns from `first` on; a warp has 32 of a token.
template <class S>
__device__ __forceinline__ void finish_experts(const FinishArgs& f, int first) {
  constexpr int kPieces = S::kRows / 32;
  const int n = f.combine.n;
  const int n_parts = static_cast<int>(ceil_div(n, kNormColumns));
  const auto columns = static_cast<int>(q8_columns(n));
  for (int piece = warp_id(); piece < f.combine.tokens * kPieces; piece += S::kWarps) {
    const int64_t t = piece / kPieces;
    const int column = first + piece % kPieces * 32 + lane_id();
    const bool inside = column < n;
    float x = 0.0f;
    if (inside) f.combine.x[t * n + column] = x = combined(f.combine, t, column);
    if (f.weight == nullptr) continue;
    const float sum = sum_of_squares(x);
    if (inside && column % kNormColumns == 0) f.squares[t * n_parts + column / kNormColumns] = sum;
    const uint16_t y = to_bf16(inside ? x * f.weight[column] : 0.0f);
    if (f.codes != nullptr) {
      const Int8Scale scale(__reduce_max_sync(kAllLanes, magnitude_bits(from_bf16(y))));
      f.codes[t * columns + column] = scale.code(from_bf16(y));
      if (lane_id() == 0) f.code_scales[(t * columns + column) / 32] = scale.scale;
    } else if (inside) {
      static_cast<uint16_t*>(f.y)[t * n + column] = y;
    }
  }
}

template <class Args>
__device__ __forceinline__ void expert_tiled(const Args& a) {
  take_turn();
  const int first_tile = static_cast<int>(blockIdx.x) * kBlockTiles;
  if (first_tile * kTileRows >= a.n) return;
  const ExpertTile rows =
      expert_tile<kTiledRows>(a.offsets, a.n_experts, static_cast<int>(blockIdx.y));
  if (rows.expert < 0) return;
  tiled(
      expert_weights(a, rows.expert), first_tile, tiles_of(a.n), rows.begin, rows.end, a.k, [] {},
      [&](int row) { return expert_x(a, row); },
      [&](int tile, int row, int pair, float even, float odd) {
        emit_expert(a, rows.expert, row, tile * kTileRows + 2 * pair, even, odd);
      });
}

}  // namespace

// Four blocks to a multiprocessor: 64 registers, of which none is spilled on sm_80 and later.
extern "C" __global__ void __launch_bounds__(Dense8::kThreads, 4)
    gptoss_dense_matmul_bf16_8(const __grid_constant__ DenseMatmulArgs a) {
  dense_stream<Dense8>(a);
}
extern "C" __global__ void __launch_bounds__(Dense32::kThreads, 2)
    gptoss_dense_matmul_bf16_32(const __grid_constant__ DenseMatmulArgs a) {
  dense_stream<Dense32>(a);
}
extern "C" __global__ void __launch_bounds__(kTiledThreads, 2)
    gptoss_dense_matmul_bf16_64(const __grid_constant__ DenseMatmulArgs a) {
  dense_tiled(a);
}

extern "C" __global__ void __launch_bounds__(Expert8::kThreads, 4)
    gptoss_gate_up_bf16_8(const __grid_constant__ GateUpArgs a) {
  expert_stream<Expert8>(a);
}
extern "C" __global__ void __launch_bounds__(Expert32::kThreads, 2)
    gptoss_gate_up_bf16_32(const __grid_constant__ GateUpArgs a) {
  expert_stream<Expert32>(a);
}
extern "C" __global__ void __launch_bounds__(kTiledThreads, 2)
    gptoss_gate_up_bf16_64(const __grid_constant__ GateUpArgs a) {
  expert_tiled(a);
}

extern "C" __global__ void __launch_bounds__(Expert8::kThreads, 4)
    gptoss_down_bf16_8(const __grid_constant__ DownArgs a) {
  expert_stream<Expert8>(a);
  const int first = static_cast<int>(blockIdx.x) * Expert8::kRows;
  if (a.finish.combine.x == nullptr || first >= a.n) return;
  if (is_last_of(a.finish.arrived + blockIdx.x, static_cast<int>(gridDim.y))) {
    finish_experts<Expert8>(a.finish, first);
  }
}
extern "C" __global__ void __launch_bounds__(Expert32::kThreads, 2)
    gptoss_down_bf16_32(const __grid_constant__ DownArgs a) {
  expert_stream<Expert32>(a);
}
extern "C" __global__ void __launch_bounds__(kTiledThreads, 2)
    gptoss_down_bf16_64(const __grid_constant__ DownArgs a) {
  expert_tiled(a);
}

}  // namespace gptoss::cuda
