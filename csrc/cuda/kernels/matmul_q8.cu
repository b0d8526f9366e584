// Dense products in int8 on tensor cores. As in matmul_bf16.cu bits depend on neither the number of
// rows nor on the variant: within a segment blocks of 32 columns are added in order, each an exact
// integer times the product of its two scales.
#include "cuda/kernels/stream.cuh"

namespace gptoss::cuda {
namespace {

constexpr int kQuantizeThreads = 256;  // 8 warps, a block of 32 numbers each

// Twice a weight's scale, of an even row and of the odd one after it.
struct Bf16Scales {
  static __device__ __forceinline__ float even(uint32_t both) { return __uint_as_float(both << 16); }
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
    for (int i = 0; i < 4; ++i) to.words[i] = __ldg(words + 4 * i);
#pragma unroll
    for (int token = 0; token < 2; ++token) {
      const float2 both = __ldg(reinterpret_cast<const float2*>(scales[token] + ahead * 2));
      to.scales[0][token] = both.x;
      to.scales[1][token] = both.y;
    }
  }

  template <int kTokenTiles>
  static __device__ __forceinline__ void multiply(Sums (&sums)[kTokenTiles], const Q8Tile::Group& w,
                                                  const Columns (&x)[kTokenTiles]) {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const uint32_t both = b == 0 ? w.scales.x : w.scales.y;
      const float even = Scales::even(both), odd = Scales::odd(both);
#pragma unroll
      for (int j = 0; j < kTokenTiles; ++j) {
        Sums products;
        mma_int8(products, w.codes[b], x[j].words[2 * b], x[j].words[2 * b + 1]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float scale = __fmul_rn(i < 2 ? even : odd, x[j].scales[b][i % 2]);
          sums[j][i] = __fmaf_rn(products[i], scale, sums[j][i]);
        }
      }
    }
  }
};

template <class S, class Scales>
__device__ __forceinline__ void q8_stream(const Q8MatmulArgs& a) {
  const int first_tile = static_cast<int>(blockIdx.x) * S::kTiles;
  const int begin = static_cast<int>(blockIdx.y) * S::kTokens;
  if (first_tile * kTileRows >= a.n || begin >= a.rows) return;
  const int groups = groups_of(a.k);
  const int end = min(begin + S::kTokens, a.rows);
  const int g = lane_id() / 4, t = lane_id() % 4;
  __shared__ float factors[S::kTokens];
  load_factors<S::kThreads>(a.norm, a.k, begin, end, factors);
  stream<S>(
      Q8Weights{a.codes, a.scales, groups}, first_tile, tiles_of(a.n), begin, end, a.k,
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

template <class T>
__device__ __forceinline__ void quantize(const QuantizeArgs& a) {
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
extern "C" __global__ void __launch_bounds__(Q8Rows8::kThreads, 3)
    gptoss_q8_0_matmul_8(const __grid_constant__ Q8MatmulArgs a) {
  q8_stream<Q8Rows8, F16Scales>(a);
}
extern "C" __global__ void __launch_bounds__(Q8Rows32::kThreads, 2)
    gptoss_q8_0_matmul_32(const __grid_constant__ Q8MatmulArgs a) {
  q8_stream<Q8Rows32, F16Scales>(a);
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
