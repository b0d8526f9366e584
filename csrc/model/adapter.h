// LoRA: a model's changes of low rank, one adapter's.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/config.h"

namespace gptoss {

// Adds out^T (in x) to w x, for a matrix w (N, K). The scale is in `out`.
struct LowRank {
  int rank = 0;                // 0: the matrix is as it is
  const float* in = nullptr;   // (rank, K)
  const float* out = nullptr;  // (rank, N)
};

struct AdapterLayer {
  LowRank q, k, v, o, router;
  LowRank gate_up, down;  // (E, rank, K) and (E, rank, N): an expert's one after the other's
};

struct Adapter {
  LowRank embedding;  // in: (V, rank), of which a token has its row; N is hidden
  LowRank unembedding;
  std::vector<AdapterLayer> layers;
  std::vector<std::shared_ptr<const void>> owners;  // keep the bytes alive
};

// Both factors of a change, f32 and row-major, with what keeps them alive.
struct LowRankSource {
  const float *in = nullptr, *out = nullptr;
  std::vector<int64_t> in_shape, out_shape;
  std::shared_ptr<const void> owner;
};

// By role: "embedding", "unembedding", and "layers.<i>." with attention.{q, k, v, o}, router,
// experts.{gate_up, down}. What is not named is as it is. Throws std::invalid_argument naming the
// role that the model does not have, or that has another shape than the config asks for.
Adapter make_adapter(const ModelConfig& config,
                     const std::map<std::string, LowRankSource>& changes);

}  // namespace gptoss
