#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>
#include <string>

#include "backend/targets.h"
#include "bindings/register.h"
#include "core/bf12.h"
#include "core/mxfp4.h"
#include "core/q8.h"
#include "model/matrix.h"

namespace gptoss::bindings {
namespace {

using namespace py::literals;

// Checks an op and runs it without the GIL.
template <class Op>
auto run(const std::string& target, const Op& op) {
  validate(op);
  if constexpr (requires { validate_values(op); }) validate_values(op);
  const std::unique_ptr<ops::Target> device = make_target(target);
  const py::gil_scoped_release release;
  return device->run(op);
}

template <class T>
int dim(const Array<T>& array, int i) {
  const py::ssize_t size = array.shape(i);
  check(size <= std::numeric_limits<int>::max(), "dimension ", size, " is too large");
  return static_cast<int>(size);
}

const float* data_or_null(const std::optional<Array<float>>& array) {
  return array ? array->data() : nullptr;
}

Array<float> rms_norm(const Array<float>& x, const Array<float>& weight, float eps,
                      const std::string& target) {
  Array<float> y({x.shape(0), x.shape(1)});
  run(target, ops::RmsNorm{.x = x.data(),
                           .weight = weight.data(),
                           .y = y.mutable_data(),
                           .tokens = dim(x, 0),
                           .n = dim(x, 1),
                           .eps = eps});
  return y;
}

Array<float> dense_matmul(const Array<float>& x, const Array<uint16_t>& w,
                          const std::optional<Array<float>>& bias, bool fast,
                          const std::string& target) {
  Array<float> y({x.shape(0), w.shape(0)});
  run(target, ops::DenseMatmul{.x = x.data(),
                               .w = w.data(),
                               .bias = data_or_null(bias),
                               .y = y.mutable_data(),
                               .tokens = dim(x, 0),
                               .n = dim(w, 0),
                               .k = dim(x, 1),
                               .fast = fast});
  return y;
}

// codes (N, K) i8 and scales (N, K/32) bf16 bits from w (N, K) bf16 bits.
py::tuple q8_encode(const Array<uint16_t>& w, const std::string& target) {
  const int n = dim(w, 0);
  const int k = dim(w, 1);
  Array<int8_t> codes({n, k});
  Array<uint16_t> scales({n, k / kQ8Block});
  run(target, ops::Q8Encode{.w = w.data(),
                            .codes = codes.mutable_data(),
                            .scales = scales.mutable_data(),
                            .n = n,
                            .k = k});
  return py::make_tuple(codes, scales);
}

Array<float> q8_matmul(const Array<float>& x, const Array<int8_t>& codes,
                       const Array<uint16_t>& scales, const std::optional<Array<float>>& bias,
                       bool q8_0, bool exact, const std::string& target) {
  Array<float> y({x.shape(0), codes.shape(0)});
  run(target, ops::Q8Matmul{.x = x.data(),
                            .codes = codes.data(),
                            .scales = scales.data(),
                            .bias = data_or_null(bias),
                            .y = y.mutable_data(),
                            .tokens = dim(x, 0),
                            .n = dim(codes, 0),
                            .k = dim(x, 1),
                            .q8_0 = q8_0,
                            .exact = exact});
  return y;
}

// rows (N, row bytes) u8 and escapes (n, 64) bf16 bits from w (N, K) bf16 bits.
py::tuple bf12_encode(const Array<uint16_t>& w, const std::string& target) {
  const int n = dim(w, 0);
  const int k = dim(w, 1);
  Array<uint8_t> rows({py::ssize_t{n}, static_cast<py::ssize_t>(bf12_row_bytes(k))});
  std::vector<uint16_t> escapes;
  run(target, ops::Bf12Encode{
                  .w = w.data(), .rows = rows.mutable_data(), .escapes = &escapes, .n = n, .k = k});
  Array<uint16_t> groups(
      {static_cast<py::ssize_t>(escapes.size() / kBf12Group), py::ssize_t{kBf12Group}});
  std::copy(escapes.begin(), escapes.end(), groups.mutable_data());
  return py::make_tuple(rows, groups);
}

Array<float> bf12_matmul(const Array<float>& x, const Array<uint8_t>& rows,
                         const Array<uint16_t>& escapes, const std::optional<Array<float>>& bias,
                         const std::string& target) {
  const int k = dim(x, 1);
  check(rows.shape(1) == bf12_row_bytes(k), "[bf12_matmul] rows must have ", bf12_row_bytes(k),
        " bytes for K = ", k, ", got ", rows.shape(1));
  Array<float> y({x.shape(0), rows.shape(0)});
  run(target, ops::Bf12Matmul{.x = x.data(),
                              .rows = rows.data(),
                              .escapes = escapes.data(),
                              .bias = data_or_null(bias),
                              .y = y.mutable_data(),
                              .tokens = dim(x, 0),
                              .n = dim(rows, 0),
                              .k = k,
                              .n_escapes = escapes.shape(0)});
  return y;
}

Array<float> mxfp4_matmul(const Array<float>& x, const Array<uint8_t>& blocks,
                          const Array<uint8_t>& scales, const std::optional<Array<float>>& bias,
                          bool int8_activations, const std::string& target) {
  Array<float> y({x.shape(0), blocks.shape(0)});
  run(target, ops::Mxfp4Matmul{.x = x.data(),
                               .blocks = blocks.data(),
                               .scales = scales.data(),
                               .bias = data_or_null(bias),
                               .y = y.mutable_data(),
                               .tokens = dim(x, 0),
                               .n = dim(blocks, 0),
                               .k = dim(x, 1),
                               .int8_activations = int8_activations});
  return y;
}

// y (blocks, 32) from blocks (blocks, 16) and scales (blocks).
Array<float> mxfp4_dequantize(const Array<uint8_t>& blocks, const Array<uint8_t>& scales,
                              const std::string& target) {
  Array<float> y({blocks.shape(0), py::ssize_t{kMxfp4BlockSize}});
  run(target, ops::Mxfp4Dequantize{.blocks = blocks.data(),
                                   .scales = scales.data(),
                                   .values = y.mutable_data(),
                                   .n_blocks = blocks.shape(0)});
  return y;
}

py::tuple mxfp4_quantize(const Array<float>& x, bool least_squares, const std::string& target) {
  Array<uint8_t> blocks({x.shape(0), py::ssize_t{kMxfp4BlockBytes}});
  Array<uint8_t> scales(x.shape(0));
  run(target, ops::Mxfp4Quantize{.values = x.data(),
                                 .blocks = blocks.mutable_data(),
                                 .scales = scales.mutable_data(),
                                 .n_blocks = x.shape(0),
                                 .least_squares = least_squares});
  return py::make_tuple(blocks, scales);
}

Array<float> rope(const Array<float>& x, const Array<int32_t>& positions, const RopeConfig& config,
                  const std::string& target) {
  Array<float> y({x.shape(0), x.shape(1), x.shape(2)});
  std::copy(x.data(), x.data() + x.size(), y.mutable_data());
  run(target, ops::Rope{.x = y.mutable_data(),
                        .positions = positions.data(),
                        .tokens = dim(x, 0),
                        .heads = dim(x, 1),
                        .head_dim = dim(x, 2),
                        .config = config});
  return y;
}

// k and v are f32, or f16.
Array<float> banded_attention(const Array<float>& q, const py::array& k, const py::array& v,
                              const std::optional<Array<float>>& sinks, int first_position,
                              int window, float scale, bool int8_cache, const std::string& target) {
  Array<float> out({q.shape(0), q.shape(1), q.shape(2)});
  run(target, ops::BandedAttention{.q = q.data(),
                                   .k = k.data(),
                                   .v = v.data(),
                                   .sinks = data_or_null(sinks),
                                   .out = out.mutable_data(),
                                   .tokens = dim(q, 0),
                                   .keys = static_cast<int>(k.shape(0)),
                                   .heads = dim(q, 1),
                                   .kv_heads = static_cast<int>(k.shape(1)),
                                   .head_dim = dim(q, 2),
                                   .first_position = first_position,
                                   .window = window,
                                   .scale = scale,
                                   .half = k.itemsize() == 2,
                                   .int8_cache = int8_cache});
  return out;
}

py::tuple route_topk(const Array<float>& logits, int top_k, const std::string& target) {
  Array<int32_t> experts({logits.shape(0), py::ssize_t{top_k}});
  Array<float> weights({logits.shape(0), py::ssize_t{top_k}});
  run(target, ops::RouteTopk{.logits = logits.data(),
                             .experts = experts.mutable_data(),
                             .weights = weights.mutable_data(),
                             .tokens = dim(logits, 0),
                             .n_experts = dim(logits, 1),
                             .n_active = top_k});
  return py::make_tuple(experts, weights);
}

py::tuple expert_gather(const Array<float>& x, const Array<int32_t>& experts, int n_experts,
                        const std::string& target) {
  const py::ssize_t n_pairs = experts.size();
  Array<float> rows({n_pairs, x.shape(1)});
  Array<int32_t> pairs(n_pairs);
  Array<int32_t> offsets(py::ssize_t{n_experts} + 1);
  run(target, ops::ExpertGather{.x = x.data(),
                                .experts = experts.data(),
                                .rows = rows.mutable_data(),
                                .pairs = pairs.mutable_data(),
                                .offsets = offsets.mutable_data(),
                                .tokens = dim(x, 0),
                                .n = dim(x, 1),
                                .n_experts = n_experts,
                                .n_active = dim(experts, 1)});
  return py::make_tuple(rows, pairs, offsets);
}

Array<float> swiglu(const Array<float>& gate_up, float limit, const std::string& target) {
  Array<float> h({gate_up.shape(0), gate_up.shape(1) / 2});
  run(target, ops::Swiglu{.gate_up = gate_up.data(),
                          .h = h.mutable_data(),
                          .tokens = dim(gate_up, 0),
                          .n = dim(gate_up, 1) / 2,
                          .limit = limit});
  return h;
}

// A row to sample, with the fields of ops::SamplingRule by their names, and the arrays behind it.
struct SampleCall {
  ops::SamplingRule rule;
  std::vector<TokenCount> counts;
  std::vector<TokenBias> biases;
  ops::SampleRow row{};

  SampleCall(const Array<float>& logits, const py::dict& fields, uint64_t index,
             const std::vector<std::pair<int32_t, int32_t>>& token_counts,
             const std::vector<std::pair<int32_t, float>>& token_biases,
             const std::optional<Array<uint32_t>>& mask, int32_t scored) {
    for (const auto& [key, value] : fields) set(key.cast<std::string>(), value);
    for (const auto& [token, count] : token_counts) counts.push_back({token, count});
    for (const auto& [token, bias] : token_biases) biases.push_back({token, bias});
    check(logits.ndim() == 1, "[sample] logits must be of shape (V), got ", logits.ndim(),
          " dimensions");
    row = {.logits = logits.data(),
           .vocab_size = dim(logits, 0),
           .rule = &rule,
           .index = index,
           .counts = counts,
           .biases = biases,
           .mask = mask ? mask->data() : nullptr,
           .target = scored};
    check(!mask || mask->size() == (row.vocab_size + 31) / 32, "[sample] mask must be of shape (",
          (row.vocab_size + 31) / 32, "), got ", mask ? mask->size() : 0);
  }
  SampleCall(const SampleCall&) = delete;
  SampleCall& operator=(const SampleCall&) = delete;

 private:
  void set(const std::string& name, const py::handle& value) {
    const auto take = [&](const char* field, auto& out) {
      if (name != field) return false;
      out = value.cast<std::remove_reference_t<decltype(out)>>();
      return true;
    };
    check(take("temperature", rule.temperature) || take("top_p", rule.top_p) ||
              take("min_p", rule.min_p) || take("top_k", rule.top_k) ||
              take("repetition_penalty", rule.repetition_penalty) ||
              take("presence_penalty", rule.presence_penalty) ||
              take("frequency_penalty", rule.frequency_penalty) || take("seed", rule.seed) ||
              take("n_logprobs", rule.n_logprobs),
          "[sample] unknown field of a sampling rule: ", name);
  }
};

const char* status_name(ops::SampleStatus status) {
  switch (status) {
    case ops::SampleStatus::ok:
      return "ok";
    case ops::SampleStatus::non_finite:
      return "non_finite";
    case ops::SampleStatus::empty_mask:
      return "empty_mask";
  }
  return "";
}

// As (status, token, logprob, [(id, logprob)...]). `scored`: the token whose log-probability is
// asked for, or -1 to sample one.
py::tuple sample_row(const Array<float>& logits, const py::dict& rule, uint64_t index,
                     const std::vector<std::pair<int32_t, int32_t>>& counts,
                     const std::vector<std::pair<int32_t, float>>& biases,
                     const std::optional<Array<uint32_t>>& mask, int32_t scored,
                     const std::string& target) {
  const SampleCall call(logits, rule, index, counts, biases, mask, scored);
  const ops::SampledRow sampled = run(target, call.row);
  py::list top;
  for (int i = 0; i < sampled.n_top; ++i) {
    top.append(py::make_tuple(sampled.top[i].token, sampled.top[i].logprob));
  }
  return py::make_tuple(status_name(sampled.status), sampled.token, sampled.logprob, top);
}

// Seconds of each of `rounds` calls, of indices that count up, after one that is not counted.
std::vector<double> time_sample_row(const Array<float>& logits, const py::dict& rule,
                                    const std::vector<std::pair<int32_t, int32_t>>& counts,
                                    int rounds, const std::string& target) {
  using Clock = std::chrono::steady_clock;
  SampleCall call(logits, rule, 0, counts, {}, std::nullopt, -1);
  validate(call.row);
  validate_values(call.row);
  const std::unique_ptr<ops::Target> device = make_target(target);
  const py::gil_scoped_release release;
  std::vector<double> seconds;
  for (int round = 0; round <= rounds; ++round) {
    const Clock::time_point start = Clock::now();
    device->run(call.row);
    const std::chrono::duration<double> taken = Clock::now() - start;
    if (round > 0) seconds.push_back(taken.count());
    ++call.row.index;
  }
  return seconds;
}

}  // namespace

void register_ops(py::module_& m) {
  py::class_<RopeConfig>(m, "RopeConfig")
      .def(py::init([](double theta, double factor, double beta_fast, double beta_slow,
                       int original_context_length, bool truncate) {
             return RopeConfig{theta,   factor, beta_fast, beta_slow, original_context_length,
                               truncate};
           }),
           "theta"_a, "factor"_a, "beta_fast"_a, "beta_slow"_a, "original_context_length"_a,
           "truncate"_a);

  m.def(
      "matrix_bytes",
      [](const std::string& format, int64_t n, int64_t k) {
        const Format found = format_named(format);
        return data_bytes(found, n, k) + scales_bytes(found, n, k);
      },
      "format"_a, "n"_a, "k"_a,
      "Bytes of a matrix of weights (n, k) in a format of model/matrix.h, bf12's escapes aside.");

  // Shapes and dtypes are checked in gptoss.ops; targets are in backend/targets.h.
  m.def("rms_norm", &rms_norm, "x"_a.noconvert(), "weight"_a.noconvert(), "eps"_a,
        "target"_a = "cpu");
  m.def("dense_matmul", &dense_matmul, "x"_a.noconvert(), "w"_a.noconvert(),
        py::arg("bias").noconvert() = py::none(), "fast"_a = false, "target"_a = "cpu");
  m.def("bf12_encode", &bf12_encode, "w"_a.noconvert(), "target"_a = "cpu");
  m.def("bf12_matmul", &bf12_matmul, "x"_a.noconvert(), "rows"_a.noconvert(),
        "escapes"_a.noconvert(), "bias"_a.noconvert() = py::none(), "target"_a = "cpu");
  m.def("q8_encode", &q8_encode, "w"_a.noconvert(), "target"_a = "cpu");
  m.def("q8_matmul", &q8_matmul, "x"_a.noconvert(), "codes"_a.noconvert(), "scales"_a.noconvert(),
        py::arg("bias").noconvert() = py::none(), "q8_0"_a = false, "exact"_a = false,
        "target"_a = "cpu");
  m.def("mxfp4_matmul", &mxfp4_matmul, "x"_a.noconvert(), "blocks"_a.noconvert(),
        "scales"_a.noconvert(), py::arg("bias").noconvert() = py::none(),
        "int8_activations"_a = false, "target"_a = "cpu");
  m.def("mxfp4_dequantize", &mxfp4_dequantize, "blocks"_a.noconvert(), "scales"_a.noconvert(),
        "target"_a = "cpu");
  m.def("mxfp4_quantize", &mxfp4_quantize, "x"_a.noconvert(), "least_squares"_a = false,
        "target"_a = "cpu");
  m.def("rope", &rope, "x"_a.noconvert(), "positions"_a.noconvert(), "config"_a,
        "target"_a = "cpu");
  m.def("banded_attention", &banded_attention, "q"_a.noconvert(), "k"_a.noconvert(),
        "v"_a.noconvert(), "sinks"_a.noconvert(), "first_position"_a, "window"_a, "scale"_a,
        "int8_cache"_a = false, "target"_a = "cpu");
  m.def("route_topk", &route_topk, "logits"_a.noconvert(), "top_k"_a, "target"_a = "cpu");
  m.def("expert_gather", &expert_gather, "x"_a.noconvert(), "experts"_a.noconvert(), "n_experts"_a,
        "target"_a = "cpu");
  m.def("sample_row", &sample_row, "logits"_a.noconvert(), "rule"_a, "index"_a = 0,
        "counts"_a = std::vector<std::pair<int32_t, int32_t>>{},
        "biases"_a = std::vector<std::pair<int32_t, float>>{},
        py::arg("mask").noconvert() = py::none(), "scored"_a = -1, "target"_a = "cpu");
  m.def("time_sample_row", &time_sample_row, "logits"_a.noconvert(), "rule"_a, "counts"_a,
        "rounds"_a, "target"_a = "cpu");
  m.def("swiglu", &swiglu, "gate_up"_a.noconvert(), "limit"_a, "target"_a = "cpu");
}

}  // namespace gptoss::bindings
