#include "model/weights.h"

#include <string>
#include <utility>

#include "core/check.h"
#include "core/mxfp4.h"

namespace gptoss {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

class Finder {
 public:
  explicit Finder(const TensorTable& table) : table_(table) {}

  TensorView bf16(const std::string& name, std::vector<int64_t> shape) const {
    return find(name, DType::bf16, std::move(shape));
  }
  TensorView u8(const std::string& name, std::vector<int64_t> shape) const {
    return find(name, DType::u8, std::move(shape));
  }

 private:
  TensorView find(const std::string& name, DType dtype, std::vector<int64_t> shape) const {
    const auto it = table_.tensors.find(name);
    check(it != table_.tensors.end(), "[weights] tensor ", name, " is missing");
    const TensorView& tensor = it->second;
    check(tensor.dtype == dtype, "[weights] ", name, " must be ", name_of(dtype), ", got ",
          name_of(tensor.dtype));
    check(tensor.shape == shape, "[weights] ", name, " must have shape ", shape_text(shape),
          ", got ", shape_text(tensor.shape));
    return tensor;
  }

  const TensorTable& table_;
};

}  // namespace

Weights make_weights(const ModelConfig& config, TensorTable table) {
  const Finder find(table);
  const int64_t hidden = config.hidden_size;
  const int64_t q_size = config.q_size();
  const int64_t kv_size = config.kv_size();
  const int64_t experts = config.n_experts;
  const int64_t intermediate = config.intermediate_size;
  const int64_t hidden_blocks = hidden / kMxfp4BlockSize;
  const int64_t intermediate_blocks = intermediate / kMxfp4BlockSize;

  Weights weights;
  weights.config = config;
  weights.embedding = find.bf16("model.embed_tokens.weight", {config.vocab_size, hidden});
  weights.final_norm = find.bf16("model.norm.weight", {hidden});
  weights.unembedding = find.bf16("lm_head.weight", {config.vocab_size, hidden});
  for (int i = 0; i < config.n_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const std::string attention = layer + "self_attn.";
    const std::string experts_name = layer + "mlp.experts.";
    LayerWeights w;
    w.attention_norm = find.bf16(layer + "input_layernorm.weight", {hidden});
    w.q = find.bf16(attention + "q_proj.weight", {q_size, hidden});
    w.q_bias = find.bf16(attention + "q_proj.bias", {q_size});
    w.k = find.bf16(attention + "k_proj.weight", {kv_size, hidden});
    w.k_bias = find.bf16(attention + "k_proj.bias", {kv_size});
    w.v = find.bf16(attention + "v_proj.weight", {kv_size, hidden});
    w.v_bias = find.bf16(attention + "v_proj.bias", {kv_size});
    w.sinks = find.bf16(attention + "sinks", {config.n_heads});
    w.o = find.bf16(attention + "o_proj.weight", {hidden, q_size});
    w.o_bias = find.bf16(attention + "o_proj.bias", {hidden});
    w.mlp_norm = find.bf16(layer + "post_attention_layernorm.weight", {hidden});
    w.router = find.bf16(layer + "mlp.router.weight", {experts, hidden});
    w.router_bias = find.bf16(layer + "mlp.router.bias", {experts});
    w.gate_up_blocks = find.u8(experts_name + "gate_up_proj_blocks",
                               {experts, 2 * intermediate, hidden_blocks, kMxfp4BlockBytes});
    w.gate_up_scales =
        find.u8(experts_name + "gate_up_proj_scales", {experts, 2 * intermediate, hidden_blocks});
    w.gate_up_bias = find.bf16(experts_name + "gate_up_proj_bias", {experts, 2 * intermediate});
    w.down_blocks = find.u8(experts_name + "down_proj_blocks",
                            {experts, hidden, intermediate_blocks, kMxfp4BlockBytes});
    w.down_scales =
        find.u8(experts_name + "down_proj_scales", {experts, hidden, intermediate_blocks});
    w.down_bias = find.bf16(experts_name + "down_proj_bias", {experts, hidden});
    weights.layers.push_back(std::move(w));
  }
  weights.owners = std::move(table.owners);
  return weights;
}

}  // namespace gptoss
