// Attention over paged keys and values: rings, shuffled tables, ragged batches, garbage in every
// slot that no query may see.
#include <algorithm>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "core/float16.h"
#include "cpu/attention.h"
#include "harness.h"

namespace gptoss::test {
namespace {

using cpu::AttentionBatch;
using cpu::AttentionSequence;
using cpu::Kernels;
using cpu::KvPages;
using cpu::KvType;

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Shape {
  int heads, kv_heads, head_dim, window;
  KvType type;
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }
  int64_t page_bytes() const { return kv_layer_bytes(type, kv_heads, head_dim); }
};

// One sequence's q (T, H, D), k and v (T, G, D), and a page table of its own.
struct Sequence {
  std::vector<float> q, k, v;
  std::vector<int32_t> table;
  int length = 0;
};

// The memory of all pages, NaN wherever nothing has been stored.
struct Cache {
  std::vector<uint8_t> memory;
  int64_t page_bytes;

  Cache(int n_pages, const Shape& shape)
      : memory(static_cast<size_t>(n_pages * shape.page_bytes()), 0xff),
        page_bytes(shape.page_bytes()) {}

  KvPages view(const Shape& shape, const Sequence& sequence) {
    return {.base = memory.data(),
            .page_bytes = page_bytes,
            .table = sequence.table.data(),
            .table_size = static_cast<int>(sequence.table.size()),
            .type = shape.type,
            .kv_heads = shape.kv_heads,
            .head_dim = shape.head_dim};
  }
};

Sequence make_sequence(Random& random, const Shape& shape, int length) {
  Sequence s;
  s.length = length;
  s.q = random.floats(static_cast<size_t>(length * shape.heads * shape.head_dim), 2.0f);
  s.k = random.floats(static_cast<size_t>(length * shape.kv_heads * shape.head_dim), 2.0f);
  s.v = random.floats(s.k.size());
  return s;
}

// Pages for all sequences in random order. `ring_pages` 0: a page for every 64 tokens.
int hand_out_pages(Random& random, std::vector<Sequence>& sequences, int ring_pages) {
  std::vector<int32_t> pages;
  std::vector<size_t> counts;
  for (const Sequence& s : sequences) {
    const int needed = (s.length + kPageTokens - 1) / kPageTokens;
    counts.push_back(static_cast<size_t>(ring_pages == 0 ? needed : std::min(needed, ring_pages)));
    for (size_t i = 0; i < counts.back(); ++i) pages.push_back(static_cast<int32_t>(pages.size()));
  }
  const auto total = static_cast<int>(pages.size());
  for (int i = total - 1; i > 0; --i) std::swap(pages[i], pages[random.below(i + 1)]);
  auto next = pages.begin();
  for (size_t s = 0; s < sequences.size(); ++s) {
    sequences[s].table.assign(next, next + static_cast<std::ptrdiff_t>(counts[s]));
    next += static_cast<std::ptrdiff_t>(counts[s]);
  }
  return total;
}

// What the cache keeps of keys or values (T, G, D).
std::vector<double> stored(const Shape& shape, const std::vector<float>& x) {
  std::vector<double> kept(x.begin(), x.end());
  if (shape.type == KvType::f16) {
    for (double& value : kept) value = half_to_float(float_to_half(static_cast<float>(value)));
  }
  if (shape.type != KvType::int8) return kept;
  const auto d_size = static_cast<size_t>(shape.head_dim);
  for (size_t row = 0; row < x.size(); row += d_size) {
    float largest = 0.0f;
    for (size_t d = 0; d < d_size; ++d) largest = std::max(largest, std::fabs(x[row + d]));
    // Codes in float, so that a value between two of them goes the same way.
    const float factor = largest > 1e-30f ? 127.0f / largest : 0.0f;
    for (size_t d = 0; d < d_size; ++d) {
      kept[row + d] = std::nearbyint(x[row + d] * factor) * (static_cast<double>(largest) / 127.0);
    }
  }
  return kept;
}

// out (H, D) of the query at `position`, and the bound of its error.
double attend_in_double(const Shape& shape, const Sequence& s, const float* sinks, int position,
                        std::vector<double>& out) {
  const int d_size = shape.head_dim;
  const int group = shape.heads / shape.kv_heads;
  const int first = shape.window > 0 ? std::max(0, position - shape.window + 1) : 0;
  double largest_score = 0;
  double largest_value = 0;
  out.assign(static_cast<size_t>(shape.heads * d_size), 0.0);
  const std::vector<double> keys_kept = stored(shape, s.k);
  const std::vector<double> values_kept = stored(shape, s.v);
  const auto index = [&](int key, int h, int d) {
    return static_cast<size_t>((key * shape.kv_heads + h / group) * d_size + d);
  };
  for (int h = 0; h < shape.heads; ++h) {
    std::vector<double> scores;
    double top = sinks ? sinks[h] : -1e300;
    const float* const q = s.q.data() + (position * shape.heads + h) * d_size;
    for (int key = first; key <= position; ++key) {
      double score = 0;
      double magnitude = 0;
      for (int d = 0; d < d_size; ++d) {
        const double product = q[d] * keys_kept[index(key, h, d)] * shape.scale();
        score += product;
        magnitude += std::fabs(product);
      }
      scores.push_back(score);
      top = std::max(top, score);
      largest_score = std::max(largest_score, magnitude);
    }
    double total = sinks ? std::exp(sinks[h] - top) : 0.0;
    for (double& score : scores) total += score = std::exp(score - top);
    for (int key = first; key <= position; ++key) {
      for (int d = 0; d < d_size; ++d) {
        const double value = values_kept[index(key, h, d)];
        out[static_cast<size_t>(h * d_size + d)] +=
            scores[static_cast<size_t>(key - first)] / total * value;
        largest_value = std::max(largest_value, std::fabs(value));
      }
    }
  }
  // A score has 2 D + 1 roundings, its distance from the maximum one, exp 4, int8 scales of key and
  // value two each; rescaling for each page and split 8. A relative error e of all weights moves
  // their mean by at most 2 e |v|. The sums over keys add their own roundings.
  const int keys = position - first + 1;
  const int pages = keys / kPageTokens + 2;
  const double weight_error = (2 * d_size + 5) * largest_score + 6 + 16 * pages;
  return (2 * weight_error + 2 * keys) * kUnit * largest_value;
}

// Feeds the sequences in chunks, all in one batch, and returns each one's out (T, H, D).
std::vector<std::vector<float>> attend_in_chunks(const Kernels& kernels, ThreadPool& pool,
                                                 const Shape& shape,
                                                 const std::vector<Sequence>& sequences,
                                                 Cache& cache, const float* sinks,
                                                 int chunk_tokens) {
  const int row = shape.heads * shape.head_dim;
  const int kv_row = shape.kv_heads * shape.head_dim;
  std::vector<std::vector<float>> results(sequences.size());
  int longest = 0;
  for (const Sequence& s : sequences) longest = std::max(longest, s.length);
  for (int begin = 0; begin < longest; begin += chunk_tokens) {
    std::vector<AttentionSequence> parts;
    std::vector<float> q;
    std::vector<size_t> of_part;
    int tokens = 0;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const Sequence& s = sequences[i];
      const int count = std::min(chunk_tokens, s.length - begin);
      if (count <= 0) continue;
      const KvPages kv = cache.view(shape, s);
      for (int t = begin; t < begin + count; ++t) {
        kernels.store_kv(kv, t, s.k.data() + t * kv_row, s.v.data() + t * kv_row);
      }
      parts.push_back({tokens, count, begin, kv});
      of_part.push_back(i);
      q.insert(q.end(), s.q.begin() + begin * row, s.q.begin() + (begin + count) * row);
      tokens += count;
    }
    const Input<float> q_input(q, 4);
    Output<float> out(static_cast<size_t>(tokens * row));
    cpu::banded_attention(kernels, pool,
                          AttentionBatch{.q = q_input.data(),
                                         .q_stride = row,
                                         .sinks = sinks,
                                         .out = out.data(),
                                         .heads = shape.heads,
                                         .kv_heads = shape.kv_heads,
                                         .head_dim = shape.head_dim,
                                         .window = shape.window,
                                         .scale = shape.scale(),
                                         .sequences = parts});
    GPTOSS_CHECK(out.intact());
    const std::vector<float> values = out.values();
    for (size_t p = 0; p < parts.size(); ++p) {
      const auto from = values.begin() + parts[p].token_begin * row;
      auto& result = results[of_part[p]];
      result.insert(result.end(), from, from + parts[p].tokens * row);
    }
  }
  return results;
}

void check_attention(const Kernels& kernels, const Shape& shape, bool ring,
                     const std::vector<int>& lengths, bool with_sinks) {
  std::ostringstream name;
  name << kernels.name << " H " << shape.heads << " G " << shape.kv_heads << " D " << shape.head_dim
       << " W " << shape.window << " cache type " << static_cast<int>(shape.type);
  Random random(static_cast<uint64_t>(shape.heads * 1000 + shape.head_dim + shape.window));
  std::vector<Sequence> sequences;
  for (const int length : lengths) sequences.push_back(make_sequence(random, shape, length));
  const std::vector<float> sinks = random.floats(static_cast<size_t>(shape.heads), 3.0f);
  const float* const sinks_data = with_sinks ? sinks.data() : nullptr;

  std::vector<std::vector<float>> first;
  // Chunks of 17, 64 and 1 tokens; different threads; the same bits every time.
  const struct {
    int chunk_tokens, threads;
  } ways[] = {{17, 1}, {64, 3}, {1, 2}};
  for (const auto& way : ways) {
    // As KvCache::ring_pages: what the window reaches back and a chunk's own tokens, and one more.
    const int ring_pages =
        ring ? (shape.window - 1 + way.chunk_tokens + kPageTokens - 1) / kPageTokens + 1 : 0;
    const int n_pages = hand_out_pages(random, sequences, ring_pages);
    Cache cache(n_pages, shape);
    ThreadPool pool(way.threads);
    auto found =
        attend_in_chunks(kernels, pool, shape, sequences, cache, sinks_data, way.chunk_tokens);
    if (first.empty()) first = found;
    for (size_t s = 0; s < sequences.size(); ++s) {
      GPTOSS_CHECK(same_bits(found[s], first[s]), name.str(), " chunks of ", way.chunk_tokens,
                   ", sequence ", s);
    }
  }
  for (size_t s = 0; s < sequences.size(); ++s) {
    note_bits(kernels, "attention", first[s]);
    std::vector<double> expected;
    for (int t = 0; t < sequences[s].length; ++t) {
      const double tolerance = attend_in_double(shape, sequences[s], sinks_data, t, expected);
      for (size_t i = 0; i < expected.size(); ++i) {
        const float value = first[s][static_cast<size_t>(t) * expected.size() + i];
        GPTOSS_CHECK(is_near(value, expected[i], tolerance), name.str(), " position ", t, ": ",
                     value, " for ", expected[i], " within ", tolerance);
      }
    }
  }
}

GPTOSS_TEST(attention_agrees_with_double_however_it_is_cut) {
  for (const Kernels* kernels : supported_kernels()) {
    check_attention(*kernels, {4, 4, 16, 0, KvType::f32}, false, {70}, true);
    check_attention(*kernels, {6, 2, 48, 0, KvType::f32}, false, {3, 65, 130}, false);
    check_attention(*kernels, {8, 1, 64, 0, KvType::f16}, false, {64, 1, 100}, true);
    check_attention(*kernels, {3, 1, 80, 0, KvType::f16}, false, {129}, true);
    check_attention(*kernels, {8, 1, 64, 0, KvType::int8}, false, {64, 1, 100}, true);
    check_attention(*kernels, {3, 3, 80, 0, KvType::int8}, false, {129}, false);
    for (const KvType type : {KvType::f32, KvType::f16, KvType::int8}) {
      check_attention(*kernels, {2, 1, 16, 1, type}, true, {150}, true);
      check_attention(*kernels, {5, 1, 32, 5, type}, true, {200, 33}, true);
      check_attention(*kernels, {4, 2, 16, 64, type}, true, {260, 64}, false);
      check_attention(*kernels, {2, 2, 16, 128, type}, true, {330, 128, 129}, true);
    }
  }
}

// Beyond 512 keys the softmax is carried in splits, which go to threads when there are few tiles.
GPTOSS_TEST(attention_over_several_splits) {
  for (const Kernels* kernels : supported_kernels()) {
    const Shape shape{2, 1, 16, 0, KvType::f32};
    Random random(11);
    std::vector<Sequence> sequences = {make_sequence(random, shape, 1100)};
    const int n_pages = hand_out_pages(random, sequences, 0);
    const std::vector<float> sinks = {0.5f, -kInf};
    std::vector<std::vector<float>> first;
    for (const int threads : {1, 8}) {  // 8: fewer tiles than 4 * threads
      Cache cache(n_pages, shape);
      ThreadPool pool(threads);
      auto found = attend_in_chunks(*kernels, pool, shape, sequences, cache, sinks.data(), 550);
      if (first.empty()) first = found;
      GPTOSS_CHECK(same_bits(found[0], first[0]), kernels->name, " threads ", threads);
    }
    note_bits(*kernels, "attention_splits", first[0]);
    std::vector<double> expected;
    for (const int t : {0, 511, 512, 513, 1023, 1024, 1099}) {
      const double tolerance = attend_in_double(shape, sequences[0], sinks.data(), t, expected);
      for (size_t i = 0; i < expected.size(); ++i) {
        GPTOSS_CHECK(
            is_near(first[0][static_cast<size_t>(t) * expected.size() + i], expected[i], tolerance),
            kernels->name, " position ", t);
      }
    }
  }
}

GPTOSS_TEST(a_nan_reaches_only_the_queries_that_see_it) {
  for (const Kernels* kernels : supported_kernels()) {
    for (const auto& [in_value, type] :
         {std::pair(false, KvType::f32), std::pair(true, KvType::f32),
          std::pair(false, KvType::int8), std::pair(true, KvType::int8)}) {
      const Shape shape{1, 1, 16, 8, type};
      Random random(12);
      std::vector<Sequence> sequences = {make_sequence(random, shape, 40)};
      const int bad = 21;  // within a tile of 4 queries, if these are tokens
      (in_value ? sequences[0].v : sequences[0].k)[bad * 16 + 3] = std::nanf("");
      const int n_pages = hand_out_pages(random, sequences, 0);
      Cache cache(n_pages, shape);
      ThreadPool pool(1);
      const auto found = attend_in_chunks(*kernels, pool, shape, sequences, cache, nullptr, 40);
      for (int t = 0; t < 40; ++t) {
        const bool sees = t >= bad && t < bad + shape.window;
        GPTOSS_CHECK(std::isnan(found[0][static_cast<size_t>(t * 16 + 3)]) == sees, kernels->name,
                     " position ", t, in_value ? " value" : " key");
      }
    }
  }
}

// Keys and values of zero, and so small that 127 over them is infinite.
GPTOSS_TEST(an_int8_cache_takes_tiny_numbers) {
  for (const Kernels* kernels : supported_kernels()) {
    const Shape shape{1, 1, 16, 0, KvType::int8};
    Random random(14);
    std::vector<Sequence> sequences = {make_sequence(random, shape, 4)};
    for (size_t i = 0; i < sequences[0].k.size(); ++i) {
      const float factor = i < 16 ? 0.0f : i < 32 ? 1e-42f : i < 48 ? 1e-36f : 1.0f;
      sequences[0].k[i] *= factor;
      sequences[0].v[i] *= factor;
    }
    const int n_pages = hand_out_pages(random, sequences, 0);
    Cache cache(n_pages, shape);
    ThreadPool pool(1);
    const auto found = attend_in_chunks(*kernels, pool, shape, sequences, cache, nullptr, 4);
    for (size_t i = 0; i < found[0].size(); ++i) {
      GPTOSS_CHECK(std::isfinite(found[0][i]), kernels->name);
      if (i < 48) GPTOSS_CHECK(std::fabs(found[0][i]) <= 1e-30f, kernels->name);
    }
  }
}

GPTOSS_TEST(huge_scores_do_not_overflow) {
  for (const Kernels* kernels : supported_kernels()) {
    const Shape shape{1, 1, 16, 0, KvType::f32};
    Random random(13);
    std::vector<Sequence> sequences = {make_sequence(random, shape, 70)};
    for (float& q : sequences[0].q) q *= 1e15f;
    const int n_pages = hand_out_pages(random, sequences, 0);
    Cache cache(n_pages, shape);
    ThreadPool pool(1);
    const float sink = 1e10f;
    const auto found = attend_in_chunks(*kernels, pool, shape, sequences, cache, &sink, 70);
    for (const float value : found[0]) GPTOSS_CHECK(std::isfinite(value), kernels->name);
  }
}

}  // namespace
}  // namespace gptoss::test
