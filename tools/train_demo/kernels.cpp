// What training the demo model needs beside matrix products: attention, and the passes over
// activations that PyTorch would split into many. Compiled at run time, called through ctypes.
//
// Activations are half: bf16 (as uint16_t), or f32. The residual stream and all gradients of parameters are f32.
// A batch is a row of conversations without padding: conversation s has the tokens
// starts[s] .. starts[s + 1] - 1, and its positions count from 0.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int kHeadDim = 64;
constexpr int kRows = 32;  // queries handled together
constexpr float kAlpha = 1.702f;
constexpr float kMasked = -1e30f;

#ifdef FLOAT32  // for processors without products of bf16
using half = float;
inline float load(half x) { return x; }
inline half store(float x) { return x; }
#else
using half = std::uint16_t;  // the bits of a bf16
inline float load(half x) {
  std::uint32_t bits = std::uint32_t(x) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline half store(float x) {  // to nearest, ties to even; finite x
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return half((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
#endif
// A tile of 4 rows and kWide vectors of sums stays in the registers: 32 of 16 floats, or 16 of 8.
#ifdef __AVX512F__
constexpr int kVec = 16, kWide = 4;
#else
constexpr int kVec = 8, kWide = 2;
#endif
typedef float Vec __attribute__((vector_size(kVec * 4), aligned(4)));
constexpr int kLanes = 16;  // what rows are padded to

// c[m][n] (+)= sum_k a(m, k) * b[k][n] for a tile of M rows and kVec * V columns.
template <int M, int V, bool kAdd>
inline void tile(int depth, const float* a, int a_row, int a_col, const float* b, int b_row,
                 float* c, int c_row) {
  Vec sum[M][V];
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) sum[m][v] = kAdd ? *(const Vec*)(c + m * c_row + v * kVec) : Vec{};
  for (int k = 0; k < depth; ++k) {
    Vec row[V];
    for (int v = 0; v < V; ++v) row[v] = *(const Vec*)(b + k * b_row + v * kVec);
    for (int m = 0; m < M; ++m) {
      const float x = a[m * a_row + k * a_col];
      for (int v = 0; v < V; ++v) sum[m][v] += x * row[v];
    }
  }
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) *(Vec*)(c + m * c_row + v * kVec) = sum[m][v];
}

template <int V, bool kAdd>
inline void columns(int m, int depth, const float* a, int a_row, int a_col, const float* b,
                    int b_row, float* c, int c_row) {
  int i = 0;
  for (; i + 4 <= m; i += 4)
    tile<4, V, kAdd>(depth, a + i * a_row, a_row, a_col, b, b_row, c + i * c_row, c_row);
  for (; i < m; ++i)
    tile<1, V, kAdd>(depth, a + i * a_row, a_row, a_col, b, b_row, c + i * c_row, c_row);
}

// n is a multiple of 16.
template <bool kAdd>
void product(int m, int n, int depth, const float* a, int a_row, int a_col, const float* b,
             int b_row, float* c, int c_row) {
  int j = 0;
  for (; j + kVec * kWide <= n; j += kVec * kWide)
    columns<kWide, kAdd>(m, depth, a, a_row, a_col, b + j, b_row, c + j, c_row);
  for (; j < n; j += kVec) columns<1, kAdd>(m, depth, a, a_row, a_col, b + j, b_row, c + j, c_row);
}

// One conversation's head: rows of half as f32, rotated by position if cos is given.
void read_head(const half* x, int stride, int tokens, const float* cos, const float* sin,
               float* out) {
  constexpr int pairs = kHeadDim / 2;
  for (int t = 0; t < tokens; ++t, x += stride, out += kHeadDim) {
    for (int d = 0; d < pairs; ++d) {
      const float a = load(x[d]), b = load(x[d + pairs]);
      const float c = cos ? cos[t * pairs + d] : 1.f, s = cos ? sin[t * pairs + d] : 0.f;
      out[d] = a * c - b * s;
      out[d + pairs] = b * c + a * s;
    }
  }
}

// The inverse of read_head for gradients: rotated back, rounded.
void write_head(const float* x, int tokens, const float* cos, const float* sin, half* out,
                int stride) {
  constexpr int pairs = kHeadDim / 2;
  for (int t = 0; t < tokens; ++t, x += kHeadDim, out += stride) {
    for (int d = 0; d < pairs; ++d) {
      const float c = cos ? cos[t * pairs + d] : 1.f, s = cos ? sin[t * pairs + d] : 0.f;
      out[d] = store(x[d] * c + x[d + pairs] * s);
      out[d + pairs] = store(x[d + pairs] * c - x[d] * s);
    }
  }
}

void transpose(const float* x, int tokens, int padded, float* out) {
  for (int d = 0; d < kHeadDim; ++d)
    for (int t = 0; t < padded; ++t) out[d * padded + t] = t < tokens ? x[t * kHeadDim + d] : 0.f;
}

struct Range {
  int rows, first, keys;  // keys: first .. first + keys - 1, a multiple of 16 of them
};

Range keys_of(int block, int tokens, int window) {
  const int rows = std::min(kRows, tokens - block);
  const int first = std::max(0, block - window + 1) / kLanes * kLanes;
  const int end = (block + rows + kLanes - 1) / kLanes * kLanes;
  return {rows, first, end - first};
}

inline bool visible(int query, int key, int window) { return key <= query && key > query - window; }

}  // namespace

extern "C" {

// qkv (N, (H + 2G) * 64); sinks (H); out (N, H * 64); lse (N, H), the log of the sum with the sink.
void attention_forward(const half* qkv, const float* sinks, const float* cos, const float* sin,
                       const std::int64_t* starts, std::int64_t count, int heads, int kv_heads,
                       int window, half* out, float* lse) {
  const int width = (heads + 2 * kv_heads) * kHeadDim, group = heads / kv_heads;
#pragma omp parallel
  {
    std::vector<float> q, k, kt, v, o;
    std::vector<float> p;
#pragma omp for schedule(dynamic)
    for (std::int64_t item = 0; item < count * kv_heads; ++item) {
      const std::int64_t start = starts[item / kv_heads];
      const int g = int(item % kv_heads);
      const int tokens = int(starts[item / kv_heads + 1] - start);
      const int padded = (tokens + kLanes - 1) / kLanes * kLanes;
      const half* base = qkv + start * width;
      k.assign(padded * kHeadDim, 0.f);
      v.assign(padded * kHeadDim, 0.f);
      q.resize(tokens * kHeadDim);
      kt.resize(padded * kHeadDim);
      p.resize(kRows * padded);
      o.resize(kRows * kHeadDim);
      read_head(base + (heads + g) * kHeadDim, width, tokens, cos, sin, k.data());
      read_head(base + (heads + kv_heads + g) * kHeadDim, width, tokens, nullptr, nullptr,
                v.data());
      transpose(k.data(), padded, padded, kt.data());
      for (int h = g * group; h < (g + 1) * group; ++h) {
        read_head(base + h * kHeadDim, width, tokens, cos, sin, q.data());
        for (int block = 0; block < tokens; block += kRows) {
          const Range r = keys_of(block, tokens, window);
          product<false>(r.rows, r.keys, kHeadDim, &q[block * kHeadDim], kHeadDim, 1, &kt[r.first],
                         padded, p.data(), padded);
          for (int i = 0; i < r.rows; ++i) {
            float* row = &p[i * padded];
            float top = sinks[h];
            for (int j = 0; j < r.keys; ++j) {
              row[j] = visible(block + i, r.first + j, window) ? row[j] * 0.125f : kMasked;
              top = std::max(top, row[j]);
            }
            float sum = std::exp(sinks[h] - top);
            for (int j = 0; j < r.keys; ++j) sum += row[j] = std::exp(row[j] - top);
            for (int j = 0; j < r.keys; ++j) row[j] /= sum;
            lse[(start + block + i) * heads + h] = top + std::log(sum);
          }
          product<false>(r.rows, kHeadDim, r.keys, p.data(), padded, 1, &v[r.first * kHeadDim],
                         kHeadDim, o.data(), kHeadDim);
          write_head(o.data(), r.rows, nullptr, nullptr,
                     out + (start + block) * heads * kHeadDim + h * kHeadDim, heads * kHeadDim);
        }
      }
    }
  }
}

// d_qkv (N, (H + 2G) * 64) and d_sinks (H, added to) from d_out (N, H * 64).
void attention_backward(const half* qkv, const float* sinks, const float* cos, const float* sin,
                        const std::int64_t* starts, std::int64_t count, int heads, int kv_heads,
                        int window, const half* out, const float* lse, const half* d_out,
                        half* d_qkv, float* d_sinks) {
  const int width = (heads + 2 * kv_heads) * kHeadDim, group = heads / kv_heads;
  const int o_width = heads * kHeadDim;
#pragma omp parallel
  {
    std::vector<float> q, k, kt, v, vt, o, go, p, dp, dq, dk, dv, ds(heads, 0.f);
#pragma omp for schedule(dynamic)
    for (std::int64_t item = 0; item < count * kv_heads; ++item) {
      const std::int64_t start = starts[item / kv_heads];
      const int g = int(item % kv_heads);
      const int tokens = int(starts[item / kv_heads + 1] - start);
      const int padded = (tokens + kLanes - 1) / kLanes * kLanes;
      const half* base = qkv + start * width;
      for (auto* x : {&k, &v, &dk, &dv}) x->assign(padded * kHeadDim, 0.f);
      for (auto* x : {&q, &o, &go, &dq, &kt, &vt}) x->resize(padded * kHeadDim);
      p.resize(kRows * padded);
      dp.resize(kRows * padded);
      read_head(base + (heads + g) * kHeadDim, width, tokens, cos, sin, k.data());
      read_head(base + (heads + kv_heads + g) * kHeadDim, width, tokens, nullptr, nullptr,
                v.data());
      transpose(k.data(), padded, padded, kt.data());
      transpose(v.data(), padded, padded, vt.data());
      for (int h = g * group; h < (g + 1) * group; ++h) {
        read_head(base + h * kHeadDim, width, tokens, cos, sin, q.data());
        read_head(out + start * o_width + h * kHeadDim, o_width, tokens, nullptr, nullptr,
                  o.data());
        read_head(d_out + start * o_width + h * kHeadDim, o_width, tokens, nullptr, nullptr,
                  go.data());
        for (int block = 0; block < tokens; block += kRows) {
          const Range r = keys_of(block, tokens, window);
          product<false>(r.rows, r.keys, kHeadDim, &q[block * kHeadDim], kHeadDim, 1, &kt[r.first],
                         padded, p.data(), padded);
          product<false>(r.rows, r.keys, kHeadDim, &go[block * kHeadDim], kHeadDim, 1, &vt[r.first],
                         padded, dp.data(), padded);
          for (int i = 0; i < r.rows; ++i) {
            const int t = block + i;
            const float total = lse[(start + t) * heads + h];
            float delta = 0.f;
            for (int d = 0; d < kHeadDim; ++d) delta += go[t * kHeadDim + d] * o[t * kHeadDim + d];
            ds[h] -= std::exp(sinks[h] - total) * delta;
            float* row = &p[i * padded];
            float* d_row = &dp[i * padded];
            for (int j = 0; j < r.keys; ++j) {
              row[j] = visible(t, r.first + j, window) ? std::exp(row[j] * 0.125f - total) : 0.f;
              d_row[j] = row[j] * (d_row[j] - delta) * 0.125f;
            }
          }
          product<false>(r.rows, kHeadDim, r.keys, dp.data(), padded, 1, &k[r.first * kHeadDim],
                         kHeadDim, &dq[block * kHeadDim], kHeadDim);
          product<true>(r.keys, kHeadDim, r.rows, dp.data(), 1, padded, &q[block * kHeadDim],
                        kHeadDim, &dk[r.first * kHeadDim], kHeadDim);
          product<true>(r.keys, kHeadDim, r.rows, p.data(), 1, padded, &go[block * kHeadDim],
                        kHeadDim, &dv[r.first * kHeadDim], kHeadDim);
        }
        write_head(dq.data(), tokens, cos, sin, d_qkv + start * width + h * kHeadDim, width);
      }
      half* d_base = d_qkv + start * width;
      write_head(dk.data(), tokens, cos, sin, d_base + (heads + g) * kHeadDim, width);
      write_head(dv.data(), tokens, nullptr, nullptr, d_base + (heads + kv_heads + g) * kHeadDim,
                 width);
    }
#pragma omp critical
    for (int h = 0; h < heads; ++h) d_sinks[h] += ds[h];
  }
}

// y = x / rms(x) * w for rows of n; scale (rows) is 1 / rms.
void rms_norm_forward(const float* x, const float* w, std::int64_t rows, int n, half* y,
                      float* scale) {
#pragma omp parallel for
  for (std::int64_t t = 0; t < rows; ++t) {
    const float* in = x + t * n;
    float sum = 0.f;
    for (int i = 0; i < n; ++i) sum += in[i] * in[i];
    const float s = scale[t] = 1.f / std::sqrt(sum / float(n) + 1e-5f);
    for (int i = 0; i < n; ++i) y[t * n + i] = store(in[i] * s * w[i]);
  }
}

// dx (rows, n) and dw (n) are added to.
void rms_norm_backward(const float* x, const float* w, const float* scale, const float* dy,
                       std::int64_t rows, int n, float* dx, float* dw) {
#pragma omp parallel
  {
    std::vector<float> mine(n, 0.f);
#pragma omp for
    for (std::int64_t t = 0; t < rows; ++t) {
      const float* in = x + t * n;
      const float* g = dy + t * n;
      const float s = scale[t];
      float dot = 0.f;
      for (int i = 0; i < n; ++i) {
        dot += g[i] * w[i] * in[i];
        mine[i] += g[i] * in[i] * s;
      }
      const float c = dot * s * s * s / float(n);
      for (int i = 0; i < n; ++i) dx[t * n + i] += g[i] * w[i] * s - in[i] * c;
    }
#pragma omp critical
    for (int i = 0; i < n; ++i) dw[i] += mine[i];
  }
}

// rows[where] = x[t] for each of a token's active experts.
void scatter(const half* x, const std::int64_t* where, std::int64_t tokens, int active, int n,
             half* rows) {
#pragma omp parallel for
  for (std::int64_t t = 0; t < tokens; ++t)
    for (int a = 0; a < active; ++a)
      std::memcpy(rows + where[t * active + a] * n, x + t * n, n * sizeof(half));
}

// x[t] += sum over its active experts of weight * y[where].
void combine(const half* y, const float* weight, const std::int64_t* where, std::int64_t tokens,
             int active, int n, float* x) {
#pragma omp parallel for
  for (std::int64_t t = 0; t < tokens; ++t)
    for (int a = 0; a < active; ++a) {
      const half* row = y + where[t * active + a] * n;
      const float w = weight ? weight[t * active + a] : 1.f;
      for (int i = 0; i < n; ++i) x[t * n + i] += w * load(row[i]);
    }
}

// dy[where] = weight * dx[t], d_weight = y[where] . dx[t].
void combine_backward(const float* dx, const half* y, const float* weight,
                      const std::int64_t* where, std::int64_t tokens, int active, int n, half* dy,
                      float* d_weight) {
#pragma omp parallel for
  for (std::int64_t t = 0; t < tokens; ++t)
    for (int a = 0; a < active; ++a) {
      const std::int64_t at = where[t * active + a] * n;
      const float w = weight[t * active + a];
      float dot = 0.f;
      for (int i = 0; i < n; ++i) {
        dot += load(y[at + i]) * dx[t * n + i];
        dy[at + i] = store(w * dx[t * n + i]);
      }
      d_weight[t * active + a] = dot;
    }
}

// out (rows, n) from gate and up, the halves of x (rows, 2n).
void swiglu_forward(const half* x, std::int64_t rows, int n, float limit, half* out) {
#pragma omp parallel for
  for (std::int64_t t = 0; t < rows; ++t) {
    const half* in = x + t * 2 * n;
    for (int i = 0; i < n; ++i) {
      const float gate = std::min(load(in[i]), limit);
      const float up = std::max(-limit, std::min(load(in[n + i]), limit));
      out[t * n + i] = store(gate / (1.f + std::exp(-kAlpha * gate)) * (up + 1.f));
    }
  }
}

// dx (rows, 2n) from d_out (rows, n).
void swiglu_backward(const half* x, const half* d_out, std::int64_t rows, int n, float limit,
                     half* dx) {
#pragma omp parallel for
  for (std::int64_t t = 0; t < rows; ++t) {
    const half* in = x + t * 2 * n;
    half* d_in = dx + t * 2 * n;
    for (int i = 0; i < n; ++i) {
      const float g = load(in[i]), u = load(in[n + i]), d = load(d_out[t * n + i]);
      const float gate = std::min(g, limit), up = std::max(-limit, std::min(u, limit));
      const float sig = 1.f / (1.f + std::exp(-kAlpha * gate));
      const float d_gate = d * (up + 1.f) * sig * (1.f + kAlpha * gate * (1.f - sig));
      d_in[i] = store(g <= limit ? d_gate : 0.f);
      d_in[n + i] = store(u <= limit && u >= -limit ? d * gate * sig : 0.f);
    }
  }
}

// Logits (rows, n) become their gradient for the mean of weighted cross-entropies; returns the sum
// of weight * loss. factor = weight / total weight.
double cross_entropy(half* logits, const std::int64_t* targets, const float* factor,
                     std::int64_t rows, int n) {
  double loss = 0;
#pragma omp parallel for reduction(+ : loss)
  for (std::int64_t t = 0; t < rows; ++t) {
    half* row = logits + t * n;
    float top = -1e30f;
    for (int i = 0; i < n; ++i) top = std::max(top, load(row[i]));
    float sum = 0.f;
    for (int i = 0; i < n; ++i) sum += std::exp(load(row[i]) - top);
    const float at = load(row[targets[t]]);
    loss += double(factor[t]) * (top + std::log(sum) - at);
    const float scale = factor[t] / sum;
    for (int i = 0; i < n; ++i) row[i] = store(std::exp(load(row[i]) - top) * scale);
    row[targets[t]] = store(std::exp(at - top) * scale - factor[t]);
  }
  return loss;
}

}  // extern "C"
