// Banded attention on tensor cores, with f16 pages, or int8 pages whose numbers become f16.
//
// The query heads that share a KV head are rows of one matrix: 16 rows of a warp are those heads of
// one or more tokens. A row's arithmetic depends on its position and its keys alone: pages of 64
// keys in order, a running softmax within a split, splits joined in order behind the sink. Pages
// that a row does not see change none of its bits. So a token has the same result in a tile of a
// prompt, alone, and with its splits computed by different blocks, the last of which joins them.
#include <type_traits>

#include "cuda/kernels/rope.cuh"
#include "cuda/kernels/shared.cuh"

namespace gptoss::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kPage = kKernelPageTokens;
constexpr int kPagesAhead = 2;  // that are prefetched: a short split
constexpr float kLog2E = 0x1.715476p+0f;
constexpr float kNoMaximum = -1e30f;  // finite: its difference from itself is 0

__device__ __forceinline__ void load_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
// c (16, 8) += a (16, 16) b (16, 8)
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Consecutive tokens of one sequence.
struct Tile {
  int first, tokens;  // of the batch; no tokens: no tile
};

// Of the tiles of all sequences, one after the other; a warp looks together.
__device__ __forceinline__ Tile find_tile(const Step& step, int index, int tile_tokens) {
  const int lane = lane_id();
  for (int base = 0; base < step.n_sequences; base += 32) {
    const int s = base + lane;
    int begin = 0;
    int end = 0;
    if (s < step.n_sequences) {
      begin = step.sequence_offsets[s];
      end = step.sequence_offsets[s + 1];
    }
    const int tiles = (end - begin + tile_tokens - 1) / tile_tokens;
    int sum = tiles;
#pragma unroll
    for (int i = 1; i < 32; i *= 2) {
      const int other = __shfl_up_sync(kAllLanes, sum, i);
      if (lane >= i) sum += other;
    }
    const unsigned behind = __ballot_sync(kAllLanes, index < sum);
    if (behind != 0) {
      const int owner = __ffs(static_cast<int>(behind)) - 1;
      const int first = begin + (index - (sum - tiles)) * tile_tokens;
      const int tokens = min(tile_tokens, end - first);
      return {__shfl_sync(kAllLanes, first, owner), __shfl_sync(kAllLanes, tokens, owner)};
    }
    index -= __shfl_sync(kAllLanes, sum, 31);
  }
  return {0, 0};
}

// The softmax of one row over some keys: to base 2, values not yet divided. A thread has every
// fourth pair of dimensions of two rows.
template <int kDim>
struct Softmax {
  float highest[2], sum[2];
  float values[kDim / 8][4];

  __device__ __forceinline__ void clear() {
    for (int i = 0; i < 2; ++i) {
      highest[i] = kNoMaximum;
      sum[i] = 0.0f;
    }
#pragma unroll
    for (auto& value : values) value[0] = value[1] = value[2] = value[3] = 0.0f;
  }
};

// What all kernels do to join the softmax of a split to that of the keys before it.
struct Join {
  float highest, old_factor, new_factor;

  __device__ __forceinline__ Join(float old_highest, float new_highest)
      : highest(fmaxf(old_highest, new_highest)),
        old_factor(exp2_approx(__fsub_rn(old_highest, highest))),
        new_factor(exp2_approx(__fsub_rn(new_highest, highest))) {}
  __device__ __forceinline__ float operator()(float old_value, float new_value) const {
    return __fmaf_rn(old_value, old_factor, __fmul_rn(new_value, new_factor));
  }
};

// Rows of keys or values of a page in shared memory: 16-byte chunks, shuffled so that eight rows
// of a matrix lie in different banks.
template <int kDim>
__device__ __forceinline__ int place_in_page(int row, int chunk) {
  constexpr int kChunks = kDim / 8;
  return row * kDim + (chunk ^ (row * kChunks / 8 % kChunks)) * 8;
}

template <int kDim>
struct Page {
  uint16_t keys[kPage * kDim], values[kPage * kDim];
};
// As it comes from the cache.
template <int kDim>
struct CodedPage {
  int8_t keys[kPage * kDim], values[kPage * kDim];
  float key_scales[kPage], value_scales[kPage];
};

// Pages come one ahead of what is computed. With f16 they lie in shared memory as they are used;
// codes are turned into numbers first.
template <int kDim, bool kInt8>
struct Stages {
  Page<kDim> pages[2];
};
template <int kDim>
struct Stages<kDim, true> {
  CodedPage<kDim> coded[2];
  Page<kDim> pages[1];
};

template <int kDim, bool kInt8>
class TileAttention {
  static constexpr int kWarps = kThreads / 32;
  using Cached = std::conditional_t<kInt8, Int8, F16>;

 public:
  __device__ __forceinline__ TileAttention(const AttentionArgs& a, Stages<kDim, kInt8>& stages)
      : a_(a), stages_(stages) {
    group_ = a.heads / a.kv.kv_heads;
    warp_tokens_ = 16 / group_;
    tile_ = find_tile(a.step, static_cast<int>(blockIdx.x), warp_tokens_ * kWarps);
    if (tile_.tokens == 0) return;
    first_position_ = a.step.positions[tile_.first];
    slot_ = a.step.token_slots[tile_.first];
    const int first_token = warp_id() * warp_tokens_;
    is_idle_ = first_token >= tile_.tokens;
    warp_first_ = first_position_ + first_token;
    warp_last_ = first_position_ + min(first_token + warp_tokens_, tile_.tokens) - 1;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = lane_id() / 4 + 8 * i;
      token_[i] = first_token + row / group_;
      head_[i] = static_cast<int>(blockIdx.y) * group_ + row % group_;
      is_row_[i] = row < warp_tokens_ * group_ && token_[i] < tile_.tokens;
    }
  }

  // Brings keys and values of pages [begin, end) to L2: those that earlier steps have written, but
  // for the tile's own.
  __device__ __forceinline__ void prefetch_pages(int begin, int end) const {
    using Element = typename Stored<Cached>::Element;
    constexpr int kSector = 32;
    constexpr int kSectors = kPage * kDim * static_cast<int>(sizeof(Element)) / kSector;
    const int head = blockIdx.y;
    for (int page = begin; page < end; ++page) {
      const PageOf<Element> from(a_.kv, slot_, page * kPage);
      const auto* const keys = reinterpret_cast<const uint8_t*>(from.keys(head));
      const auto* const values = reinterpret_cast<const uint8_t*>(from.values(head));
#pragma unroll
      for (int i = threadIdx.x; i < kSectors; i += kThreads) {
        prefetch(keys + i * kSector);
        prefetch(values + i * kSector);
      }
    }
  }

  __device__ __forceinline__ bool is_empty() const { return tile_.tokens == 0; }
  __device__ __forceinline__ int page_begin() const { return first_key(first_position_) / kPage; }
  __device__ __forceinline__ int page_end() const {
    return (first_position_ + tile_.tokens - 1) / kPage + 1;
  }
  __device__ __forceinline__ bool is_row(int i) const { return is_row_[i]; }
  __device__ __forceinline__ int token(int i) const { return tile_.first + token_[i]; }
  __device__ __forceinline__ int head(int i) const { return head_[i]; }
  __device__ __forceinline__ int first_token() const { return tile_.first; }
  __device__ __forceinline__ int tokens() const { return tile_.tokens; }

  // Goes through pages [begin, end); f(softmax) at the end of every split.
  template <class F>
  __device__ __forceinline__ void run(int begin, int end, F&& f) {
    load_queries();
    Softmax<kDim> softmax;
    softmax.clear();
    load_page(begin);
    commit_copies();
    int split_end = split_begin(split_of(begin * kPage) + 1) / kPage;
    for (int page = begin; page < end; ++page) {
      if (page + 1 < end) load_page(page + 1);
      commit_copies();
      wait_for_copies<1>();
      __syncthreads();
      if constexpr (kInt8) {
        decode_page(page);
        __syncthreads();
      }
      if (!is_idle_ && page * kPage <= warp_last_ && (page + 1) * kPage > first_key(warp_first_)) {
        add_page(page, softmax);
      }
      __syncthreads();
      if (page + 1 == split_end || page + 1 == end) {
        split_end = split_begin(split_of(split_end * kPage) + 1) / kPage;
#pragma unroll
        for (float& sum : softmax.sum) {
          sum += __shfl_xor_sync(kAllLanes, sum, 1);
          sum += __shfl_xor_sync(kAllLanes, sum, 2);
        }
        f(softmax);
        softmax.clear();
      }
    }
    wait_for_copies<0>();
  }

 private:
  __device__ __forceinline__ int first_key(int position) const {
    return a_.window > 0 ? max(0, position - a_.window + 1) : 0;
  }

  __device__ __forceinline__ void load_queries() {
    const int pair = lane_id() % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float* const q = a_.qkv + static_cast<int64_t>(token(i)) * a_.qkv_stride +
                             static_cast<int64_t>(head_[i]) * kDim + pair;
#pragma unroll
      for (int k = 0; k < kDim / 16; ++k) {
        float2 x[2] = {};
        if (is_row_[i]) {
          x[0] = *reinterpret_cast<const float2*>(q + 8 * k);
          x[1] = *reinterpret_cast<const float2*>(q + 8 * k + kDim / 2);
          if (a_.rotations != nullptr) {
            const float* const rotation = rotation_of(token_[i]) + 8 * k + pair;
            const float2 cos = *reinterpret_cast<const float2*>(rotation);
            const float2 sin = *reinterpret_cast<const float2*>(rotation + kDim / 2);
            const Pair first = rotate(x[0].x, x[1].x, cos.x, sin.x);
            const Pair second = rotate(x[0].y, x[1].y, cos.y, sin.y);
            x[0] = {first.first, second.first};
            x[1] = {first.second, second.second};
          }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int at = k + half * (kDim / 16);
          queries_[at / 2][i + at % 2 * 2] = to_f16_pair(x[half].x, x[half].y);
        }
      }
    }
  }

  // Of a token of the tile.
  __device__ __forceinline__ const float* rotation_of(int token) const {
    return a_.rotations + static_cast<int64_t>(first_position_ + token) * kDim;
  }

  // The tile's one token goes into its page, which then is read like others.
  __device__ __forceinline__ void store_token() {
    if (warp_id() == 0) {
      const auto head = static_cast<int>(blockIdx.y);
      const float* const k = a_.qkv + static_cast<int64_t>(tile_.first) * a_.qkv_stride +
                             static_cast<int64_t>(a_.heads + head) * kDim;
      const float* const v = k + a_.kv.kv_heads * kDim;
      using Element = typename Stored<Cached>::Element;
      const PageOf<Element> page(a_.kv, slot_, first_position_);
      store_head<Cached>(page, head, first_position_ % kPage, kDim, k, v, rotation_of(0));
    }
    __syncthreads();
  }

  // Keys behind the tile's last token are zeros: nothing was written there, or something else.
  __device__ __forceinline__ void load_page(int page) {
    if (a_.rotations != nullptr && page == first_position_ / kPage) store_token();
    const int rows = first_position_ + tile_.tokens - page * kPage;
    const int head = blockIdx.y;
    if constexpr (kInt8) {
      CodedPage<kDim>& to = stages_.coded[page % 2];
      const PageOf<int8_t> from(a_.kv, slot_, page * kPage);
      constexpr int kChunks = kDim / 16;
      for (int c = threadIdx.x; c < kPage * kChunks; c += 32 * kWarps) {
        const bool is_there = c / kChunks < rows;
        copy_async<16>(shared_address(to.keys + 16 * c), from.keys(head) + 16 * c, is_there);
        copy_async<16>(shared_address(to.values + 16 * c), from.values(head) + 16 * c, is_there);
      }
      for (int r = threadIdx.x; r < kPage; r += 32 * kWarps) {
        copy_async<4>(shared_address(to.key_scales + r), from.key_scales(head) + r, r < rows);
        copy_async<4>(shared_address(to.value_scales + r), from.value_scales(head) + r, r < rows);
      }
    } else {
      Page<kDim>& to = stages_.pages[page % 2];
      const PageOf<uint16_t> from(a_.kv, slot_, page * kPage);
      constexpr int kChunks = kDim / 8;
#pragma unroll
      for (int i = 0; i < kPage * kChunks / (32 * kWarps); ++i) {
        const int c = i * 32 * kWarps + static_cast<int>(threadIdx.x);
        const int place = place_in_page<kDim>(c / kChunks, c % kChunks);
        const bool is_there = c / kChunks < rows;
        copy_async<16>(shared_address(to.keys + place), from.keys(head) + 8 * c, is_there);
        copy_async<16>(shared_address(to.values + place), from.values(head) + 8 * c, is_there);
      }
    }
  }

  __device__ __forceinline__ void decode_page(int page) {
    const CodedPage<kDim>& from = stages_.coded[page % 2];
    constexpr int kChunks = kDim / 8;
    for (int c = threadIdx.x; c < kPage * kChunks; c += 32 * kWarps) {
      const int row = c / kChunks;
      const int place = place_in_page<kDim>(row, c % kChunks);
      decode(from.keys + 8 * c, from.key_scales[row], stages_.pages[0].keys + place);
      decode(from.values + 8 * c, from.value_scales[row], stages_.pages[0].values + place);
    }
  }
  // Eight of them.
  static __device__ __forceinline__ void decode(const int8_t* codes, float scale, uint16_t* to) {
    const uint2 words = *reinterpret_cast<const uint2*>(codes);
    const auto number = [&](uint32_t word, int i) {
      return __fmul_rn(static_cast<float>(static_cast<int8_t>(word >> (8 * i))), scale);
    };
    uint4 out;
    out.x = to_f16_pair(number(words.x, 0), number(words.x, 1));
    out.y = to_f16_pair(number(words.x, 2), number(words.x, 3));
    out.z = to_f16_pair(number(words.y, 0), number(words.y, 1));
    out.w = to_f16_pair(number(words.y, 2), number(words.y, 3));
    *reinterpret_cast<uint4*>(to) = out;
  }

  __device__ __forceinline__ void add_page(int page, Softmax<kDim>& softmax) {
    const Page<kDim>& stage = stages_.pages[kInt8 ? 0 : page % 2];
    const int matrix = lane_id() / 8;
    const int matrix_row = lane_id() % 8;
    float scores[kPage / 8][4] = {};
#pragma unroll
    for (int j = 0; j < kPage / 16; ++j) {
      const int row = 16 * j + matrix / 2 * 8 + matrix_row;
#pragma unroll
      for (int k = 0; k < kDim / 16; ++k) {
        uint32_t b[4];
        load_matrices(b, shared_address(stage.keys + place_in_page<kDim>(row, 2 * k + matrix % 2)));
        multiply(scores[2 * j], queries_[k], b[0], b[1]);
        multiply(scores[2 * j + 1], queries_[k], b[2], b[3]);
      }
    }

    const int key = page * kPage + lane_id() % 4 * 2;
    if ((page + 1) * kPage > warp_first_ + 1 || page * kPage < first_key(warp_last_)) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int position = first_position_ + token_[i];
        const int lowest = first_key(position);
#pragma unroll
        for (int n = 0; n < kPage / 8; ++n) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const int k = key + 8 * n + c;
            if (k > position || k < lowest) scores[n][2 * i + c] = -INFINITY;
          }
        }
      }
    }

    const float scale = __fmul_rn(a_.scale, kLog2E);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float highest = fmaxf(scores[0][2 * i], scores[0][2 * i + 1]);
#pragma unroll
      for (int n = 1; n < kPage / 8; ++n) {
        highest = fmaxf(highest, fmaxf(scores[n][2 * i], scores[n][2 * i + 1]));
      }
      highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, 2));
      highest = fmaxf(softmax.highest[i], __fmul_rn(highest, scale));
      const float factor = exp2_approx(__fsub_rn(softmax.highest[i], highest));
      softmax.highest[i] = highest;
      float sum = __fmul_rn(softmax.sum[i], factor);
#pragma unroll
      for (int n = 0; n < kPage / 8; ++n) {
#pragma unroll
        for (int c = 2 * i; c < 2 * i + 2; ++c) {
          scores[n][c] = exp2_approx(__fmaf_rn(scores[n][c], scale, -highest));
          sum = __fadd_rn(sum, scores[n][c]);
        }
      }
      softmax.sum[i] = sum;
#pragma unroll
      for (auto& value : softmax.values) {
        value[2 * i] = __fmul_rn(value[2 * i], factor);
        value[2 * i + 1] = __fmul_rn(value[2 * i + 1], factor);
      }
    }

#pragma unroll
    for (int j = 0; j < kPage / 16; ++j) {
      uint32_t weights[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const float (&from)[4] = scores[2 * j + r / 2];
        weights[r] = to_f16_pair(from[r % 2 * 2], from[r % 2 * 2 + 1]);
      }
      const int row = 16 * j + matrix % 2 * 8 + matrix_row;
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
        uint32_t b[4];
        load_transposed(
            b, shared_address(stage.values + place_in_page<kDim>(row, 2 * d + matrix / 2)));
        multiply(softmax.values[2 * d], weights, b[0], b[1]);
        multiply(softmax.values[2 * d + 1], weights, b[2], b[3]);
      }
    }
  }

  const AttentionArgs& a_;
  Stages<kDim, kInt8>& stages_;
  int group_, warp_tokens_;
  Tile tile_;
  int first_position_, slot_;
  bool is_idle_;
  int warp_first_, warp_last_;  // positions
  int token_[2], head_[2];      // of this thread's two rows; tokens of the tile
  bool is_row_[2];
  uint32_t queries_[kDim / 16][4];
};

template <int kDim, bool kInt8>
__device__ __forceinline__ void attention_tile(const AttentionArgs& a) {
  __shared__ __align__(128) Stages<kDim, kInt8> stages;
  TileAttention<kDim, kInt8> attention(a, stages);
  if (kOverlapsGrids && !attention.is_empty()) {
    const int begin = attention.page_begin();
    attention.prefetch_pages(begin, min(begin + kPagesAhead, attention.page_end()));
  }
  take_turn();
  if (attention.is_empty()) return;
  // The sink has weight 1 at its own maximum and no value.
  Softmax<kDim> total;
  total.clear();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    total.highest[i] = attention.is_row(i) ? __fmul_rn(a.sinks[attention.head(i)], kLog2E) : 0.0f;
    total.sum[i] = 1.0f;
  }
  attention.run(attention.page_begin(), attention.page_end(), [&](const Softmax<kDim>& part) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Join join(total.highest[i], part.highest[i]);
      total.highest[i] = join.highest;
      total.sum[i] = join(total.sum[i], part.sum[i]);
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
        for (int c = 2 * i; c < 2 * i + 2; ++c) {
          total.values[n][c] = join(total.values[n][c], part.values[n][c]);
        }
      }
    }
  });
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    uint32_t pairs[kDim / 8];
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      pairs[n] = to_bf16_pair(__fdiv_rn(total.values[n][2 * i], total.sum[i]),
                              __fdiv_rn(total.values[n][2 * i + 1], total.sum[i]));
    }
    const int64_t row = static_cast<int64_t>(attention.token(i)) * a.heads + attention.head(i);
    const int pair = lane_id() % 4 * 2;
    if (kDim % 32 == 0 && a.codes != nullptr) {
#pragma unroll
      for (int block = 0; block < kDim / 32; ++block) {
        uint32_t largest = 0;
#pragma unroll
        for (int n = 4 * block; n < 4 * block + 4; ++n) {
          largest = max(largest, max(pairs[n] << 16 & 0x7fff0000u, pairs[n] & 0x7fff0000u));
        }
        largest = max(largest, __shfl_xor_sync(kAllLanes, largest, 1));
        largest = max(largest, __shfl_xor_sync(kAllLanes, largest, 2));
        if (!attention.is_row(i)) continue;
        const Int8Scale scale(largest);
#pragma unroll
        for (int n = 4 * block; n < 4 * block + 4; ++n) {
          char2 codes;
          codes.x = scale.code(__uint_as_float(pairs[n] << 16));
          codes.y = scale.code(__uint_as_float(pairs[n] & 0xffff0000u));
          *reinterpret_cast<char2*>(a.codes + row * kDim + 8 * n + pair) = codes;
        }
        if (pair == 0) a.code_scales[row * (kDim / 32) + block] = scale.scale;
      }
    } else if (attention.is_row(i)) {
      auto* const out = static_cast<uint16_t*>(a.out) + row * kDim + pair;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) *reinterpret_cast<uint32_t*>(out + 8 * n) = pairs[n];
    }
  }
}

__device__ __forceinline__ float* partial_of(const AttentionArgs& a, int token, int split,
                                             int head) {
  return a.partials + ((static_cast<int64_t>(token) * a.n_splits + split) * a.heads + head) *
                          (a.kv.head_dim + 2);
}

// Joins the splits of a tile's tokens for this block's heads, in order behind the sink. A thread
// has four dimensions at a time.
template <int kDim>
__device__ __forceinline__ void combine_splits(const AttentionArgs& a, int first_token,
                                               int tokens) {
  constexpr int kQuads = kDim / 4;
  const int group = a.heads / a.kv.kv_heads;
  const int64_t stride = static_cast<int64_t>(a.heads) * (kDim + 2);
  for (int i = threadIdx.x; i < tokens * group * kQuads; i += kThreads) {
    const int token = first_token + i / (group * kQuads);
    const int head = static_cast<int>(blockIdx.y) * group + i / kQuads % group;
    const int dim = i % kQuads * 4;
    const int position = a.step.positions[token];
    const int first = split_of(a.window > 0 ? max(0, position - a.window + 1) : 0);
    const int last = split_of(position);
    const float* part = partial_of(a, token, first, head);
    float highest = __fmul_rn(a.sinks[head], kLog2E);
    float sum = 1.0f;
    float values[4] = {};
#pragma unroll 4
    for (int split = first; split <= last; ++split) {
      const float2 low = *reinterpret_cast<const float2*>(part + dim);
      const float2 high = *reinterpret_cast<const float2*>(part + dim + 2);
      const float2 end = *reinterpret_cast<const float2*>(part + kDim);
      const Join join(highest, end.x);
      highest = join.highest;
      sum = join(sum, end.y);
      values[0] = join(values[0], low.x);
      values[1] = join(values[1], low.y);
      values[2] = join(values[2], high.x);
      values[3] = join(values[3], high.y);
      part += stride;
    }
    const uint32_t pairs[2] = {to_bf16_pair(__fdiv_rn(values[0], sum), __fdiv_rn(values[1], sum)),
                               to_bf16_pair(__fdiv_rn(values[2], sum), __fdiv_rn(values[3], sum))};
    const int64_t place = (static_cast<int64_t>(token) * a.heads + head) * kDim + dim;
    if (kDim % 32 == 0 && a.codes != nullptr) {
      const unsigned lanes = 0xffu << (lane_id() & 24);  // of 32 dimensions
      uint32_t largest = 0;
#pragma unroll
      for (const uint32_t pair : pairs) {
        largest = max(largest, max(pair << 16 & 0x7fff0000u, pair & 0x7fff0000u));
      }
#pragma unroll
      for (int step = 1; step < 8; step *= 2) {
        largest = max(largest, __shfl_xor_sync(lanes, largest, step));
      }
      const Int8Scale scale(largest);
      char4 codes;
      codes.x = scale.code(__uint_as_float(pairs[0] << 16));
      codes.y = scale.code(__uint_as_float(pairs[0] & 0xffff0000u));
      codes.z = scale.code(__uint_as_float(pairs[1] << 16));
      codes.w = scale.code(__uint_as_float(pairs[1] & 0xffff0000u));
      *reinterpret_cast<char4*>(a.codes + place) = codes;
      if (dim % 32 == 0) a.code_scales[place / 32] = scale.scale;
    } else {
      *reinterpret_cast<uint2*>(static_cast<uint16_t*>(a.out) + place) = {pairs[0], pairs[1]};
    }
  }
}

template <int kDim, bool kInt8>
__device__ __forceinline__ void attention_split(const AttentionArgs& a) {
  __shared__ __align__(128) Stages<kDim, kInt8> stages;
  TileAttention<kDim, kInt8> attention(a, stages);
  if (attention.is_empty()) return take_turn();
  const int split = blockIdx.z;
  const int begin = max(attention.page_begin(), split_begin(split) / kPage);
  const int end = min(attention.page_end(), split_begin(split + 1) / kPage);
  if (kOverlapsGrids) attention.prefetch_pages(begin, min(begin + kPagesAhead, end));
  take_turn();
  if (begin >= end) return;
  attention.run(begin, end, [&](const Softmax<kDim>& part) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (!attention.is_row(i)) continue;
      float* const to = partial_of(a, attention.token(i), split, attention.head(i));
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        *reinterpret_cast<float2*>(to + 8 * n + lane_id() % 4 * 2) = {part.values[n][2 * i],
                                                                      part.values[n][2 * i + 1]};
      }
      if (lane_id() % 4 == 0) {
        *reinterpret_cast<float2*>(to + kDim) = {part.highest[i], part.sum[i]};
      }
    }
  });
  const int splits =
      split_of((attention.page_end() - 1) * kPage) - split_of(attention.page_begin() * kPage) + 1;
  int32_t* const arrived = a.arrived + blockIdx.x * gridDim.y + blockIdx.y;
  if (is_last_of(arrived, splits)) {
    combine_splits<kDim>(a, attention.first_token(), attention.tokens());
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads, 2)
    gptoss_attention_tile_64(const __grid_constant__ AttentionArgs a) {
  attention_tile<64, false>(a);
}
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    gptoss_attention_tile_64_int8(const __grid_constant__ AttentionArgs a) {
  attention_tile<64, true>(a);
}
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    gptoss_attention_tile_32(const __grid_constant__ AttentionArgs a) {
  attention_tile<32, false>(a);
}
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    gptoss_attention_tile_32_int8(const __grid_constant__ AttentionArgs a) {
  attention_tile<32, true>(a);
}
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    gptoss_attention_tile_16(const __grid_constant__ AttentionArgs a) {
  attention_tile<16, false>(a);
}
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    gptoss_attention_tile_16_int8(const __grid_constant__ AttentionArgs a) {
  attention_tile<16, true>(a);
}

extern "C" __global__ void __launch_bounds__(kThreads, 2)
    gptoss_attention_split_64(const __grid_constant__ AttentionSplitArgs a) {
  attention_split<64, false>(a.attention);
}
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    gptoss_attention_split_64_int8(const __grid_constant__ AttentionSplitArgs a) {
  attention_split<64, true>(a.attention);
}
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    gptoss_attention_split_32(const __grid_constant__ AttentionSplitArgs a) {
  attention_split<32, false>(a.attention);
}
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    gptoss_attention_split_32_int8(const __grid_constant__ AttentionSplitArgs a) {
  attention_split<32, true>(a.attention);
}
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    gptoss_attention_split_16(const __grid_constant__ AttentionSplitArgs a) {
  attention_split<16, false>(a.attention);
}
extern "C" __global__ void __launch_bounds__(kThreads, 2)
    gptoss_attention_split_16_int8(const __grid_constant__ AttentionSplitArgs a) {
  attention_split<16, true>(a.attention);
}

}  // namespace gptoss::cuda
