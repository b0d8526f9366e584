#include "model/weights.h"

#include <algorithm>
#include <string>
#include <utility>

#include "core/check.h"
#include "core/mxfp4.h"
#include "core/q8.h"

namespace gptoss {
namespace {

class Finder {
 public:
  explicit Finder(const TensorTable& table) : table_(table) {}

  Vector vector(const std::string& role, int64_t size) const {
    return as_vector(find(role, DType::bf16, {size}));
  }
  // One for each expert.
  Vector vectors(const std::string& role, int64_t experts, int64_t size) const {
    return as_vector(find(role, DType::bf16, {experts, size}));
  }
  Matrix matrix(const std::string& role, int n, int k) const {
    const TensorView& tensor = find(role, DType::bf16, {n, k});
    return {.format = Format::bf16,
            .n = n,
            .k = k,
            .data = tensor.data,
            .scales = nullptr,
            .mapped = tensor.mapped};
  }
  // In bf16 or q8_0.
  Matrix dense(const std::string& role, int n, int k) const {
    if (!table_.tensors.contains(role + ".codes")) return matrix(role, n, k);
    check(k % kQ8Block == 0, "[weights] ", role, " must have whole blocks of ", kQ8Block,
          " in-features, got ", k);
    const TensorView& codes = find(role + ".codes", DType::u8, {n, k});
    const TensorView& scales = find(role + ".scales", DType::f16, {n, k / kQ8Block});
    return {.format = Format::q8_0,
            .n = n,
            .k = k,
            .data = codes.data,
            .scales = scales.data,
            .mapped = codes.mapped};
  }
  ExpertMatrices matrices(const std::string& role, int experts, int n, int k) const {
    const int64_t blocks = k / kMxfp4BlockSize;
    const TensorView& data =
        find(role + ".blocks", DType::u8, {experts, n, blocks, kMxfp4BlockBytes});
    const TensorView& scales = find(role + ".scales", DType::u8, {experts, n, blocks});
    return {{.format = Format::mxfp4,
             .n = n,
             .k = k,
             .data = data.data,
             .scales = scales.data,
             .mapped = data.mapped}};
  }

 private:
  const TensorView& find(const std::string& role, DType dtype,
                         const std::vector<int64_t>& shape) const {
    const auto it = table_.tensors.find(role);
    check(it != table_.tensors.end(), "[weights] tensor ", role, " is missing");
    const TensorView& tensor = it->second;
    check(tensor.dtype == dtype, "[weights] ", role, " must be ", name_of(dtype), ", got ",
          name_of(tensor.dtype));
    check(tensor.shape == shape, "[weights] ", role, " must have shape ", shape_text(shape),
          ", got ", shape_text(tensor.shape));
    return tensor;
  }
  static Vector as_vector(const TensorView& tensor) {
    int64_t size = 1;
    for (const int64_t n : tensor.shape) size *= n;
    return {size, reinterpret_cast<const uint16_t*>(tensor.data)};
  }

  const TensorTable& table_;
};

}  // namespace

Weights make_weights(const ModelConfig& config, TensorTable table) {
  const Finder find(table);
  const int hidden = config.hidden_size;
  const int q_size = config.q_size();
  const int kv_size = config.kv_size();
  const int n_experts = config.n_experts;
  const int intermediate = config.intermediate_size;

  Weights weights;
  weights.config = config;
  weights.embedding = find.dense("embedding", config.vocab_size, hidden);
  weights.final_norm = find.vector("final_norm", hidden);
  weights.unembedding = find.dense("unembedding", config.vocab_size, hidden);
  for (int i = 0; i < config.n_layers; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    const std::string attention = layer + "attention.";
    const std::string experts = layer + "experts.";
    weights.layers.push_back(
        {.attention_norm = find.vector(attention + "norm", hidden),
         .q = find.dense(attention + "q", q_size, hidden),
         .k = find.dense(attention + "k", kv_size, hidden),
         .v = find.dense(attention + "v", kv_size, hidden),
         .q_bias = find.vector(attention + "q_bias", q_size),
         .k_bias = find.vector(attention + "k_bias", kv_size),
         .v_bias = find.vector(attention + "v_bias", kv_size),
         .sinks = find.vector(attention + "sinks", config.n_heads),
         .o = find.dense(attention + "o", hidden, q_size),
         .o_bias = find.vector(attention + "o_bias", hidden),
         .mlp_norm = find.vector(layer + "mlp.norm", hidden),
         .router = find.matrix(layer + "router", n_experts, hidden),
         .router_bias = find.vector(layer + "router_bias", n_experts),
         .gate_up = find.matrices(experts + "gate_up", n_experts, 2 * intermediate, hidden),
         .gate_up_bias =
             find.vectors(experts + "gate_up_bias", n_experts, int64_t{2} * intermediate),
         .down = find.matrices(experts + "down", n_experts, hidden, intermediate),
         .down_bias = find.vectors(experts + "down_bias", n_experts, hidden)});
    const LayerWeights& made = weights.layers.back();
    check(made.q.format == made.k.format && made.q.format == made.v.format, "[weights] ", attention,
          "q, k and v must be in one format, got ", name_of(made.q.format), ", ",
          name_of(made.k.format), " and ", name_of(made.v.format));
  }
  weights.owners = std::move(table.owners);
  return weights;
}

Weights shapes_of(const ModelConfig& config, const std::vector<std::string>& q8_0) {
  const auto matrix = [&](const std::string& role, int n, int k) {
    const bool found = std::find(q8_0.begin(), q8_0.end(), role) != q8_0.end();
    return Matrix{.format = found ? Format::q8_0 : Format::bf16, .n = n, .k = k};
  };
  Weights shapes;
  shapes.config = config;
  shapes.embedding = matrix("embedding", config.vocab_size, config.hidden_size);
  shapes.unembedding = matrix("unembedding", config.vocab_size, config.hidden_size);
  for (int i = 0; i < config.n_layers; ++i) {
    const std::string attention = "layers." + std::to_string(i) + ".attention.";
    LayerWeights layer;
    layer.q = matrix(attention + "q", config.q_size(), config.hidden_size);
    layer.k = matrix(attention + "k", config.kv_size(), config.hidden_size);
    layer.v = matrix(attention + "v", config.kv_size(), config.hidden_size);
    layer.o = matrix(attention + "o", config.hidden_size, config.q_size());
    shapes.layers.push_back(layer);
  }
  return shapes;
}

}  // namespace gptoss
