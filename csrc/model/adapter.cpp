#include "model/adapter.h"

#include <utility>

#include "core/check.h"
#include "model/tensor_table.h"

namespace gptoss {
namespace {

// Of the highest rank that a matrix can have use for, and that the kernels' integers hold.
constexpr int64_t kMaxRank = 1 << 16;

}  // namespace

Adapter make_adapter(const ModelConfig& config,
                     const std::map<std::string, LowRankSource>& changes) {
  const int64_t hidden = config.hidden_size;
  const int64_t vocab = config.vocab_size;
  const int64_t intermediate = config.intermediate_size;
  const int64_t n_experts = config.n_experts;
  Adapter adapter;
  adapter.layers.resize(static_cast<size_t>(config.n_layers));

  struct Place {
    LowRank* change;
    std::vector<int64_t> before_in, before_out;  // dimensions before the two of a factor
    int64_t k, n;
  };
  std::map<std::string, Place> places;
  const auto put = [&](const std::string& role, LowRank& change, int64_t k, int64_t n) {
    places[role] = {.change = &change, .before_in = {}, .before_out = {}, .k = k, .n = n};
  };
  const auto put_experts = [&](const std::string& role, LowRank& change, int64_t k, int64_t n) {
    places[role] = {
        .change = &change, .before_in = {n_experts}, .before_out = {n_experts}, .k = k, .n = n};
  };
  put("embedding", adapter.embedding, 0, hidden);
  put("unembedding", adapter.unembedding, hidden, vocab);
  for (size_t i = 0; i < adapter.layers.size(); ++i) {
    AdapterLayer& layer = adapter.layers[i];
    const std::string role = "layers." + std::to_string(i) + ".";
    put(role + "attention.q", layer.q, hidden, config.q_size());
    put(role + "attention.k", layer.k, hidden, config.kv_size());
    put(role + "attention.v", layer.v, hidden, config.kv_size());
    put(role + "attention.o", layer.o, config.q_size(), hidden);
    put(role + "router", layer.router, hidden, n_experts);
    put_experts(role + "experts.gate_up", layer.gate_up, hidden, 2 * intermediate);
    put_experts(role + "experts.down", layer.down, intermediate, hidden);
  }

  for (const auto& [role, source] : changes) {
    const auto found = places.find(role);
    check(found != places.end(), "[adapter] the model has no matrix ", role);
    const Place& place = found->second;
    check(source.out_shape.size() == place.before_out.size() + 2, "[adapter] ", role,
          ": out must have ", place.before_out.size() + 2, " dimensions, got ",
          source.out_shape.size());
    const int64_t rank = source.out_shape[place.before_out.size()];
    check(rank >= 1 && rank <= kMaxRank, "[adapter] ", role, ": the rank must be from 1 to ",
          kMaxRank, ", got ", rank);
    std::vector<int64_t> in_shape = place.before_in;
    std::vector<int64_t> out_shape = place.before_out;
    if (role == "embedding") {
      in_shape = {vocab, rank};
    } else {
      in_shape.insert(in_shape.end(), {rank, place.k});
    }
    out_shape.insert(out_shape.end(), {rank, place.n});
    check(source.in_shape == in_shape, "[adapter] ", role, ": in must have shape ",
          shape_text(in_shape), ", got ", shape_text(source.in_shape));
    check(source.out_shape == out_shape, "[adapter] ", role, ": out must have shape ",
          shape_text(out_shape), ", got ", shape_text(source.out_shape));
    *place.change = {.rank = static_cast<int>(rank), .in = source.in, .out = source.out};
    adapter.owners.push_back(source.owner);
  }
  return adapter;
}

}  // namespace gptoss
