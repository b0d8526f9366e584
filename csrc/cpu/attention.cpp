#include "cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/float16.h"

namespace gptoss::cpu {
namespace {

// Keys whose softmax is carried alone, then merged: a fixed grain, so that the same sums are made
// whether the splits of a long context go to one thread or to many.
constexpr int kSplitPages = 512 / kPageTokens;

// Query rows (tokens x heads of a group) of a tile: their state, 128 * 80 floats, fits into the
// first-level cache beside a page of keys and values.
constexpr int kTileQueryRows = 128;

// A tile of one sequence's queries against one kv head.
struct Tile {
  AttentionTask task;
  int first_head, token;     // of the batch: where the rows of `task` come from
  int page_begin, page_end;  // that its band touches
  int64_t partial_offset;    // of its first split in the shared partial states

  int rows() const { return task.tokens * task.heads; }
  int split_begin() const { return page_begin / kSplitPages; }
  int split_end() const { return (page_end + kSplitPages - 1) / kSplitPages; }
};

std::vector<Tile> make_tiles(const AttentionBatch& batch) {
  const int group = batch.heads / batch.kv_heads;
  const int tile_tokens = std::max(1, kTileQueryRows / group);
  std::vector<Tile> tiles;
  for (const AttentionSequence& sequence : batch.sequences) {
    for (int begin = 0; begin < sequence.tokens; begin += tile_tokens) {
      const int tokens = std::min(tile_tokens, sequence.tokens - begin);
      const int first_position = sequence.first_position + begin;
      const int first_key = batch.window > 0 ? std::max(0, first_position - batch.window + 1) : 0;
      const int token = sequence.token_begin + begin;
      for (int g = 0; g < batch.kv_heads; ++g) {
        Tile tile{};
        tile.task = {.q = batch.q + token * batch.q_stride +
                          static_cast<int64_t>(g) * group * batch.head_dim,
                     .q_stride = batch.q_stride,
                     .tokens = tokens,
                     .heads = group,
                     .first_position = first_position,
                     .kv_head = g,
                     .window = batch.window,
                     .scale = batch.scale,
                     .kv = sequence.kv};
        tile.first_head = g * group;
        tile.token = token;
        tile.page_begin = first_key / kPageTokens;
        tile.page_end = (first_position + tokens - 1) / kPageTokens + 1;
        tiles.push_back(tile);
      }
    }
  }
  return tiles;
}

void compute_split(const Kernels& kernels, const Tile& tile, int split, float* partial) {
  kernels.attention_partial(tile.task, std::max(tile.page_begin, split * kSplitPages),
                            std::min(tile.page_end, (split + 1) * kSplitPages), partial);
}

// The softmax before any key: the sink, which has weight 1 at its own maximum and no value.
void start_state(const AttentionBatch& batch, const Tile& tile, float* state) {
  const int64_t stride = state_stride(batch.head_dim);
  std::memset(state, 0, static_cast<size_t>(tile.rows() * stride) * sizeof(float));
  for (int r = 0; r < tile.rows(); ++r) {
    const bool has_sink = batch.sinks != nullptr;
    state[r * stride] = has_sink ? batch.sinks[tile.first_head + r % tile.task.heads] : -1e30f;
    state[r * stride + 1] = has_sink ? 1.0f : 0.0f;
  }
}

void finish(const Kernels& kernels, const AttentionBatch& batch, const Tile& tile,
            const float* state) {
  const int heads = tile.task.heads;
  for (int t = 0; t < tile.task.tokens; ++t) {
    float* const out =
        batch.out +
        (static_cast<int64_t>(tile.token + t) * batch.heads + tile.first_head) * batch.head_dim;
    kernels.attention_finish(heads, batch.head_dim,
                             state + t * heads * state_stride(batch.head_dim), out, batch.head_dim);
  }
}

}  // namespace

void banded_attention(const Kernels& kernels, ThreadPool& pool, const AttentionBatch& batch) {
  std::vector<Tile> tiles = make_tiles(batch);
  const int64_t stride = state_stride(batch.head_dim);
  const auto n_tiles = static_cast<int64_t>(tiles.size());

  // Few tiles (decoding): their splits go to threads of their own, the states are kept and merged
  // after. Many tiles: each carries its splits through. The sums are the same.
  struct Unit {
    int tile, split;
    int64_t partial;
  };
  std::vector<Unit> units;
  int64_t partial_floats = 0;
  const bool any_split = std::any_of(tiles.begin(), tiles.end(), [](const Tile& tile) {
    return tile.split_end() - tile.split_begin() > 1;
  });
  if (any_split && n_tiles < 4 * pool.size()) {
    for (int i = 0; i < n_tiles; ++i) {
      Tile& tile = tiles[static_cast<size_t>(i)];
      tile.partial_offset = partial_floats;
      for (int split = tile.split_begin(); split < tile.split_end(); ++split) {
        units.push_back({i, split, partial_floats});
        partial_floats += tile.rows() * stride;
      }
    }
  }
  static thread_local std::vector<float> shared;
  if (shared.size() < static_cast<size_t>(partial_floats)) {
    shared.resize(static_cast<size_t>(partial_floats));
  }
  float* const partials = shared.data();
  pool.run(static_cast<int64_t>(units.size()), [&](int64_t u) {
    const Unit& unit = units[static_cast<size_t>(u)];
    compute_split(kernels, tiles[static_cast<size_t>(unit.tile)], unit.split,
                  partials + unit.partial);
  });

  pool.run(n_tiles, [&](int64_t i) {
    const Tile& tile = tiles[static_cast<size_t>(i)];
    const int64_t floats = tile.rows() * stride;
    static thread_local std::vector<float> scratch;
    if (scratch.size() < static_cast<size_t>(2 * floats)) {
      scratch.resize(static_cast<size_t>(2 * floats));
    }
    float* const state = scratch.data();
    start_state(batch, tile, state);
    for (int split = tile.split_begin(); split < tile.split_end(); ++split) {
      float* partial = state + floats;
      if (units.empty()) {
        compute_split(kernels, tile, split, partial);
      } else {
        partial = partials + tile.partial_offset + (split - tile.split_begin()) * floats;
      }
      kernels.attention_merge(tile.rows(), batch.head_dim, partial, state);
    }
    finish(kernels, batch, tile, state);
  });
}

namespace {

// One head's keys of a page (head_dim, kPageTokens), as numbers.
void read_keys(const KvPages& kv, int page, int kv_head, double* keys) {
  const uint8_t* const base = kv.base + kv.table[page % kv.table_size] * kv.page_bytes;
  const int64_t size = int64_t{kv.head_dim} * kPageTokens;
  const int64_t first = kv_head * size;
  switch (kv.type) {
    case KvType::f32: {
      const auto* const from = reinterpret_cast<const float*>(base) + first;
      std::copy_n(from, size, keys);
      return;
    }
    case KvType::f16: {
      const auto* const from = reinterpret_cast<const uint16_t*>(base) + first;
      std::transform(from, from + size, keys, [](uint16_t half) { return half_to_float(half); });
      return;
    }
    case KvType::int8: {
      const auto* const from = reinterpret_cast<const int8_t*>(base) + first;
      const auto* const scales =
          reinterpret_cast<const float*>(base + 2 * kv.kv_heads * size) + kv_head * kPageTokens;
      for (int64_t i = 0; i < size; ++i) keys[i] = double{scales[i % kPageTokens]} * from[i];
      return;
    }
  }
}

// Of one row and the heads that share a key/value head.
void shares_of(const AttentionShares& s, size_t row, int kv_head) {
  const int group = s.heads / s.kv.kv_heads;
  const int head_dim = s.kv.head_dim;
  const int32_t token = s.rows[row];
  const int position = s.positions[static_cast<size_t>(token)];
  const int begin = s.window > 0 ? std::max(0, position - s.window + 1) : 0;
  const int first_key = s.window > 0 ? position - s.keys + 1 : 0;  // of the first column
  const float* const q = s.q + token * s.q_stride + int64_t{kv_head} * group * head_dim;
  const auto count = static_cast<size_t>(position + 1 - begin);
  std::vector<double> scores(static_cast<size_t>(group) * count, 0.0);
  std::vector<double> keys(static_cast<size_t>(head_dim) * kPageTokens);
  for (int page = begin / kPageTokens; page <= position / kPageTokens; ++page) {
    read_keys(s.kv, page, kv_head, keys.data());
    const int from = std::max(begin, page * kPageTokens);
    const int to = std::min(position + 1, (page + 1) * kPageTokens);
    for (int h = 0; h < group; ++h) {
      double* const score = scores.data() + static_cast<size_t>(h) * count + (from - begin);
      for (int d = 0; d < head_dim; ++d) {
        const double factor = double{s.scale} * q[h * head_dim + d];
        const double* const key = keys.data() + d * kPageTokens + from % kPageTokens;
        for (int k = 0; k < to - from; ++k) score[k] += factor * key[k];
      }
    }
  }
  for (int h = 0; h < group; ++h) {
    const int head = kv_head * group + h;
    const double* const score = scores.data() + static_cast<size_t>(h) * count;
    const double sink = s.sinks[head];
    const double highest = std::max(sink, *std::max_element(score, score + count));
    double total = std::exp(sink - highest);
    for (size_t k = 0; k < count; ++k) total += std::exp(score[k] - highest);
    float* const out = s.out + (static_cast<int64_t>(row) * s.heads + head) * (int64_t{s.keys} + 1);
    std::fill_n(out, s.keys, 0.0f);
    for (size_t k = 0; k < count; ++k) {
      out[begin + static_cast<int>(k) - first_key] =
          static_cast<float>(std::exp(score[k] - highest) / total);
    }
    out[s.keys] = static_cast<float>(std::exp(sink - highest) / total);
  }
}

}  // namespace

void attention_shares(ThreadPool& pool, const AttentionShares& shares) {
  const int kv_heads = shares.kv.kv_heads;
  pool.run(static_cast<int64_t>(shares.rows.size()) * kv_heads, [&](int64_t unit) {
    shares_of(shares, static_cast<size_t>(unit / kv_heads), static_cast<int>(unit % kv_heads));
  });
}

}  // namespace gptoss::cpu
