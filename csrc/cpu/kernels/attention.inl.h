// Attention over pages of the KV cache: storing into them, and the online softmax.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/kv_page.h"
#include "cpu/kernels/elementwise.inl.h"
#include "cpu/kernels/kernels.h"
#include GPTOSS_ISA_SIMD

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

// The element types of the KV cache. Where kScaled, codes are whole numbers, and every token's key
// and value has a scale. Where kIsStaged, a page is a copy in the first-level cache.
struct F32Cache {
  using Element = float;
  static constexpr bool kScaled = false;
  static constexpr bool kIsStaged = false;
  static F32x16 load(const float* p) { return cpu::GPTOSS_ISA_NAMESPACE::load(p); }
  static void store(float* p, F32x16 a) { cpu::GPTOSS_ISA_NAMESPACE::store(p, a); }
};
struct F16Cache {
  using Element = uint16_t;
  static constexpr bool kScaled = false;
  static constexpr bool kIsStaged = false;
  static F32x16 load(const uint16_t* p) { return load_half(p); }
  static void store(uint16_t* p, F32x16 a) { store_half(p, a); }
};
struct Int8Cache {
  using Element = int8_t;
  static constexpr bool kScaled = true;
  static constexpr bool kIsStaged = false;
  static F32x16 load(const int8_t* p) { return load_int8(p); }
  static void store(int8_t* p, F32x16 a) { store_int8(p, round(a)); }
};

// Elements of a cache as f32.
template <class Cache>
struct Staged {
  using Element = float;
  static constexpr bool kScaled = Cache::kScaled;
  static constexpr bool kIsStaged = true;
  static F32x16 load(const float* p) { return cpu::GPTOSS_ISA_NAMESPACE::load(p); }
};

// One head's keys and values in one page.
template <class Cache>
struct CachedHead {
  typename Cache::Element* keys;    // (head_dim, 64)
  typename Cache::Element* values;  // (64, head_dim)
  float* key_scales;                // (64); null unless kScaled
  float* value_scales;              // (64)

  CachedHead() = default;
  CachedHead(const KvPages& kv, int page, int kv_head)
      : key_scales(nullptr), value_scales(nullptr) {
    uint8_t* const base = kv.base + kv.table[page % kv.table_size] * kv.page_bytes;
    const int64_t head_size = static_cast<int64_t>(kv.head_dim) * kPageTokens;
    keys = reinterpret_cast<typename Cache::Element*>(base) + kv_head * head_size;
    values = keys + kv.kv_heads * head_size;
    if constexpr (Cache::kScaled) {
      auto* const scales = reinterpret_cast<float*>(base + 2 * kv.kv_heads * head_size);
      key_scales = scales + kv_head * kPageTokens;
      value_scales = key_scales + kv.kv_heads * kPageTokens;
    }
  }
};

// The scale of a token's key or value, and the factor that makes codes of it.
struct RowScale {
  float scale, inverse;

  RowScale(const float* x, int head_dim) {
    const F32x16 zero = set1(0.0f);
    F32x16 top = zero;
    F32x16 poison = zero;
    for (int d = 0; d < head_dim; d += 16) {
      const F32x16 part = load(x + d);
      top = max(top, max(part, sub(zero, part)));
      poison = fma(part, zero, poison);
    }
    // NaN and infinity make the scale NaN, and the codes 0.
    const float not_finite = reduce_add(poison);
    const float largest = reduce_max(top);
    scale = largest / 127.0f + not_finite;
    inverse = not_finite == 0.0f ? int8_factor(largest) : 0.0f;
  }
};

template <class Cache>
void store_kv_as(const KvPages& kv, int position, const float* k, const float* v) {
  const int slot = position % kPageTokens;
  for (int g = 0; g < kv.kv_heads; ++g, k += kv.head_dim, v += kv.head_dim) {
    const CachedHead<Cache> head(kv, position / kPageTokens, g);
    auto* const keys = head.keys + slot;
    auto* const values = head.values + static_cast<int64_t>(slot) * kv.head_dim;
    F32x16 k_factor = set1(1.0f);
    F32x16 v_factor = set1(1.0f);
    if constexpr (Cache::kScaled) {
      const RowScale k_scale(k, kv.head_dim);
      const RowScale v_scale(v, kv.head_dim);
      head.key_scales[slot] = k_scale.scale;
      head.value_scales[slot] = v_scale.scale;
      k_factor = set1(k_scale.inverse);
      v_factor = set1(v_scale.inverse);
    }
    for (int d = 0; d < kv.head_dim; d += 16) {
      typename Cache::Element column[16];
      Cache::store(column, mul(load(k + d), k_factor));
      for (int i = 0; i < 16; ++i) keys[static_cast<int64_t>(d + i) * kPageTokens] = column[i];
      Cache::store(values + d, mul(load(v + d), v_factor));
    }
  }
}

void store_kv(const KvPages& kv, int position, const float* k, const float* v) {
  switch (kv.type) {
    case KvType::f32:
      return store_kv_as<F32Cache>(kv, position, k, v);
    case KvType::f16:
      return store_kv_as<F16Cache>(kv, position, k, v);
    case KvType::int8:
      return store_kv_as<Int8Cache>(kv, position, k, v);
  }
}

// No score is below this, and exp(kNoScore - m) is 0 for every m that a score has set.
inline constexpr float kNoScore = -1e30f;
inline constexpr int kPageVectors = kPageTokens / 16;

struct QueryRow {
  const float* q;
  float* state;
  int key_begin, key_end;  // keys of this page that the row sees
};

template <class T>
void prefetch(const T* row, int n) {
  for (int i = 0; i < n; i += 64 / static_cast<int>(sizeof(T))) __builtin_prefetch(row + i);
}

// kRows query rows that see the same keys, against the 64 keys of one page: online softmax, then
// o += p V. Keys prefetch the values, values `next_keys`, the next page's: the pages of a
// sequence may be anywhere. Scores and sums of values are computed in slices that fit into
// registers.
template <int kRows, class Cache>
void attend_page(const AttentionTask& task, const CachedHead<Cache>& head,
                 const typename Cache::Element* next_keys, const QueryRow* rows) {
  const int head_dim = task.kv.head_dim;
  // Vectors of 16 keys that the rows see some of, in whole slices.
  constexpr int kSliceKeys = 16 * kTileKeyVectors;
  const int seen_begin = rows[0].key_begin / kSliceKeys * kTileKeyVectors;
  const int seen_end = (rows[0].key_end + kSliceKeys - 1) / kSliceKeys * kTileKeyVectors;
  F32x16 scores[kRows][kPageVectors];
  for (int first = seen_begin; first < seen_end; first += kTileKeyVectors) {
    F32x16 slice[kRows][kTileKeyVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kTileKeyVectors; ++v) slice[r][v] = set1(0.0f);
    }
    for (int d = 0; d < head_dim; ++d) {
      if constexpr (!Cache::kIsStaged) {
        prefetch(head.values + int64_t{d} * kPageTokens, kPageTokens);
      }
      F32x16 k[kTileKeyVectors];
      for (int v = 0; v < kTileKeyVectors; ++v) {
        k[v] = Cache::load(head.keys + static_cast<int64_t>(d) * kPageTokens + 16 * (first + v));
      }
      for (int r = 0; r < kRows; ++r) {
        const F32x16 q = set1(rows[r].q[d]);
        for (int v = 0; v < kTileKeyVectors; ++v) slice[r][v] = fma(q, k[v], slice[r][v]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kTileKeyVectors; ++v) scores[r][first + v] = slice[r][v];
    }
  }

  F32x16 scales[kPageVectors];
  for (int v = 0; v < kPageVectors; ++v) {
    scales[v] = set1(task.scale);
    if constexpr (Cache::kScaled) scales[v] = mul(scales[v], load(head.key_scales + 16 * v));
  }
  float p[kRows][kPageTokens];
  F32x16 decay[kRows];
  for (int r = 0; r < kRows; ++r) {
    const QueryRow& row = rows[r];
    // Slots outside the row's band may hold anything: they are replaced, not multiplied.
    F32x16 top = set1(kNoScore);
    for (int v = seen_begin; v < seen_end; ++v) {
      scores[r][v] = keep_lanes(mul(scores[r][v], scales[v]), row.key_begin - 16 * v,
                                row.key_end - 16 * v, -__builtin_inff());
      top = max(top, scores[r][v]);
    }
    const float m_old = row.state[0];
    const float top_score = reduce_max(top);
    const float m = top_score > m_old ? top_score : m_old;
    const F32x16 shift = set1(m);
    F32x16 sum = set1(0.0f);
    for (int v = seen_begin; v < seen_end; ++v) {
      F32x16 weights = exp(sub(scores[r][v], shift));
      sum = add(sum, weights);
      if constexpr (Cache::kScaled) weights = mul(weights, load(head.value_scales + 16 * v));
      store(p[r] + 16 * v, weights);
    }
    const float factor = exp_one(m_old - m);
    row.state[0] = m;
    row.state[1] = row.state[1] * factor + reduce_add(sum);
    decay[r] = set1(factor);
  }

  const auto add_values = [&]<int kVectors>(int d) {
    F32x16 sums[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = mul(load(rows[r].state + 16 + d + 16 * v), decay[r]);
      }
    }
    for (int key = rows[0].key_begin; key < rows[0].key_end; ++key) {
      if constexpr (!Cache::kIsStaged) {
        prefetch(next_keys + static_cast<int64_t>(key) * head_dim + d, 16 * kVectors);
      }
      F32x16 value[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        value[v] = Cache::load(head.values + static_cast<int64_t>(key) * head_dim + d + 16 * v);
      }
      for (int r = 0; r < kRows; ++r) {
        const F32x16 weight = set1(p[r][key]);
        for (int v = 0; v < kVectors; ++v) sums[r][v] = fma(weight, value[v], sums[r][v]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) store(rows[r].state + 16 + d + 16 * v, sums[r][v]);
    }
  };
  int d = 0;
  for (; d + kSliceKeys <= head_dim; d += kSliceKeys)
    add_values.template operator()<kTileKeyVectors>(d);
  for (; d < head_dim; d += 16) add_values.template operator()<1>(d);
}

// Every row of a task against one page.
template <class Cache>
void attend_rows(const AttentionTask& task, int page, const CachedHead<Cache>& head,
                 const typename Cache::Element* next_keys, float* state) {
  const int page_start = page * kPageTokens;
  const int64_t stride = state_stride(task.kv.head_dim);
  QueryRow tile[kTileQueries];
  int filled = 0;
  const auto attend_singly = [&] {
    for (int i = 0; i < filled; ++i) attend_page<1, Cache>(task, head, next_keys, tile + i);
    filled = 0;
  };
  for (int r = 0; r < task.tokens * task.heads; ++r) {
    const int token = r / task.heads;
    const int position = task.first_position + token;
    int begin = task.window > 0 ? position - task.window + 1 - page_start : 0;
    int end = position + 1 - page_start;
    begin = begin < 0 ? 0 : begin;
    end = end > kPageTokens ? kPageTokens : end;
    if (begin >= end) continue;
    // Values that a row does not see must not reach it, not even as 0 * NaN.
    if (filled > 0 && (begin != tile[0].key_begin || end != tile[0].key_end)) attend_singly();
    tile[filled++] = {
        task.q + token * task.q_stride + static_cast<int64_t>(r % task.heads) * task.kv.head_dim,
        state + r * stride, begin, end};
    if (filled == kTileQueries) {
      attend_page<kTileQueries, Cache>(task, head, next_keys, tile);
      filled = 0;
    }
  }
  attend_singly();
}

// A page's keys and values of one head as f32.
template <class Cache>
CachedHead<Staged<Cache>> stage(const CachedHead<Cache>& head, int head_dim, float* room) {
  const int64_t size = int64_t{head_dim} * kPageTokens;
  for (int64_t i = 0; i < size; i += 16) {
    store(room + i, Cache::load(head.keys + i));
    store(room + size + i, Cache::load(head.values + i));
  }
  CachedHead<Staged<Cache>> staged;
  staged.keys = room;
  staged.values = room + size;
  staged.key_scales = head.key_scales;
  staged.value_scales = head.value_scales;
  return staged;
}

template <class Cache>
void attention_partial_as(const AttentionTask& task, int page_begin, int page_end, float* state) {
  const int n_rows = task.tokens * task.heads;
  const int64_t stride = state_stride(task.kv.head_dim);
  for (int r = 0; r < n_rows; ++r) {
    std::memset(state + r * stride, 0, static_cast<size_t>(stride) * sizeof(float));
    state[r * stride] = kNoScore;
  }
  for (int page = page_begin; page < page_end; ++page) {
    const CachedHead<Cache> head(task.kv, page, task.kv_head);
    const int next_page = page + 1 < page_end ? page + 1 : page;
    const auto* const next_keys = CachedHead<Cache>(task.kv, next_page, task.kv_head).keys;
    if constexpr (kStagesPages && !std::is_same_v<Cache, F32Cache>) {
      if (n_rows > kTileQueries) {
        const int64_t floats = int64_t{2} * task.kv.head_dim * kPageTokens;
        auto* const room = reinterpret_cast<float*>(
            thread_scratch(floats * int64_t{sizeof(float)}, Scratch::panel));
        const CachedHead<Staged<Cache>> staged = stage(head, task.kv.head_dim, room);
        attend_rows<Staged<Cache>>(task, page, staged, staged.keys, state);
        continue;
      }
    }
    attend_rows<Cache>(task, page, head, next_keys, state);
  }
}

void attention_partial(const AttentionTask& task, int page_begin, int page_end, float* state) {
  switch (task.kv.type) {
    case KvType::f32:
      return attention_partial_as<F32Cache>(task, page_begin, page_end, state);
    case KvType::f16:
      return attention_partial_as<F16Cache>(task, page_begin, page_end, state);
    case KvType::int8:
      return attention_partial_as<Int8Cache>(task, page_begin, page_end, state);
  }
}

void attention_merge(int rows, int head_dim, const float* partial, float* state) {
  const int64_t stride = state_stride(head_dim);
  for (int r = 0; r < rows; ++r, partial += stride, state += stride) {
    const float m = partial[0] > state[0] ? partial[0] : state[0];
    const float old_factor = exp_one(state[0] - m);
    const float new_factor = exp_one(partial[0] - m);
    state[0] = m;
    state[1] = state[1] * old_factor + partial[1] * new_factor;
    for (int d = 0; d < head_dim; d += 16) {
      const F32x16 kept = mul(load(state + 16 + d), set1(old_factor));
      store(state + 16 + d, fma(load(partial + 16 + d), set1(new_factor), kept));
    }
  }
}

void attention_finish(int rows, int head_dim, const float* state, float* out, int64_t out_stride) {
  const int64_t stride = state_stride(head_dim);
  for (int r = 0; r < rows; ++r) {
    const F32x16 total = set1(state[r * stride + 1]);
    for (int d = 0; d < head_dim; d += 16) {
      store(out + r * out_stride + d, div(load(state + r * stride + 16 + d), total));
    }
  }
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
