#include "cpu/sample.h"
#include <cmath>
#include <algorithm>
namespace gptoss::cpu {
ops::SampledRow sample(const Kernels&, const ops::SampleRow& row, SampleScratch& scratch) {
  ops::SampledRow out{};
  out.token = -1;
  const int v = row.vocab_size;
  float top = -INFINITY; 
  for (int i = 0; i < v; ++i) { if (!(row.logits[i] < INFINITY)) { out.status = ops::SampleStatus::non_finite; return out; } top = std::max(top, row.logits[i]); }
  double total = 0; for (int i = 0; i < v; ++i) total += std::exp(double(row.logits[i]) - top);
  if (row.rule->n_logprobs > 0) {
    std::vector<int> ids(v); for (int i = 0; i < v; ++i) ids[i] = i;
    std::stable_sort(ids.begin(), ids.end(), [&](int a, int b) { return row.logits[a] > row.logits[b]; });
    for (int i = 0; i < std::min(v, row.rule->n_logprobs); ++i) out.top[out.n_top++] = {ids[i], float(row.logits[ids[i]] - top - std::log(total))};
  }
  if (row.target >= 0) { out.token = row.target; out.logprob = float(row.logits[row.target] - top - std::log(total)); return out; }
  std::vector<float> z(row.logits, row.logits + v);
  for (auto b : row.biases) z[b.token] += b.bias;
  for (auto c : row.counts) { float& x = z[c.token]; x = x > 0 ? x / row.rule->repetition_penalty : x * row.rule->repetition_penalty; x -= row.rule->frequency_penalty * c.count; if (c.count) x -= row.rule->presence_penalty; }
  int best = -1;
  for (int i = 0; i < v; ++i) { if (row.mask && !((row.mask[i / 32] >> (i % 32)) & 1)) { z[i] = -INFINITY; continue; } if (best < 0 || z[i] > z[best]) best = i; }
  if (best < 0) { out.status = ops::SampleStatus::empty_mask; return out; }
  out.token = best;
  if (row.rule->temperature > 0) {
    double sum = 0; scratch.p.assign(v, 0);
    for (int i = 0; i < v; ++i) sum += scratch.p[i] = std::exp((double(z[i]) - z[best]) / row.rule->temperature);
    uint64_t h = row.rule->seed + (row.index + 1) * 0x9e3779b97f4a7c15ull; h ^= h >> 30; h *= 0xbf58476d1ce4e5b9ull; h ^= h >> 27; h *= 0x94d049bb133111ebull; h ^= h >> 31;
    double rest = double(h >> 11) * 0x1p-53 * sum;
    for (int i = 0; i < v; ++i) { if (rest < scratch.p[i]) { out.token = i; break; } rest -= scratch.p[i]; }
  }
  out.logprob = row.rule->n_logprobs >= 0 ? float(row.logits[out.token] - top - std::log(total)) : 0;
  return out;
}
}
