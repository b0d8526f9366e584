#include "engine/engine.h"

#include <pybind11/stl.h>

#include <optional>
#include <unordered_map>

#include "bindings/register.h"
#include "core/check.h"
#include "core/mapped_file.h"
#include "core/thread_pool.h"
#include "model/weights.h"

namespace gptoss::bindings {
namespace {

using namespace py::literals;

RopeConfig to_rope(const py::handle& rope) {
  return {.theta = rope.attr("theta").cast<double>(),
          .factor = rope.attr("factor").cast<double>(),
          .beta_fast = rope.attr("beta_fast").cast<double>(),
          .beta_slow = rope.attr("beta_slow").cast<double>(),
          .original_context_length = rope.attr("original_context_length").cast<int>(),
          .truncate = rope.attr("truncate").cast<bool>()};
}

// From a gptoss.config.ModelConfig.
ModelConfig to_config(const py::handle& config) {
  ModelConfig c{.hidden_size = config.attr("hidden_size").cast<int>(),
                .intermediate_size = config.attr("intermediate_size").cast<int>(),
                .n_layers = config.attr("num_hidden_layers").cast<int>(),
                .n_heads = config.attr("num_attention_heads").cast<int>(),
                .n_kv_heads = config.attr("num_key_value_heads").cast<int>(),
                .head_dim = config.attr("head_dim").cast<int>(),
                .vocab_size = config.attr("vocab_size").cast<int>(),
                .n_experts = config.attr("num_local_experts").cast<int>(),
                .n_active = config.attr("num_experts_per_tok").cast<int>(),
                .sliding_window = config.attr("sliding_window").cast<int>(),
                .rms_norm_eps = config.attr("rms_norm_eps").cast<float>(),
                .swiglu_limit = config.attr("swiglu_limit").cast<float>(),
                .max_position_embeddings = config.attr("max_position_embeddings").cast<int>(),
                .rope = to_rope(config.attr("rope")),
                .is_window_layer = {}};
  for (const auto& type : config.attr("layer_types")) {
    c.is_window_layer.push_back(type.cast<std::string>() == "sliding_attention");
  }
  return c;
}

DType to_dtype(const std::string& name) {
  check(name == "BF16" || name == "U8", "tensor dtype must be BF16 or U8, got ", name);
  return name == "BF16" ? DType::bf16 : DType::u8;
}

// From a mapping of names to gptoss.checkpoint.TensorSource: a span of a file, which is mapped, or
// an array, which is kept alive.
TensorTable to_tensors(const py::dict& sources) {
  TensorTable table;
  std::unordered_map<std::string, std::shared_ptr<const MappedFile>> files;
  for (const auto& [key, source] : sources) {
    TensorView view;
    view.dtype = to_dtype(source.attr("dtype").cast<std::string>());
    int64_t nbytes = size_of(view.dtype);
    for (const auto& size : source.attr("shape")) {
      view.shape.push_back(size.cast<int64_t>());
      nbytes *= view.shape.back();
    }
    const auto name = key.cast<std::string>();
    if (const py::object array = source.attr("array"); !array.is_none()) {
      const auto contiguous = py::cast<py::array>(array);
      check((contiguous.flags() & py::array::c_style) != 0 && contiguous.nbytes() == nbytes,
            "array of ", name, " must be C-contiguous with ", nbytes, " bytes");
      view.data = static_cast<const uint8_t*>(contiguous.data());
      // Released wherever the weights are, which may be without the GIL.
      table.owners.emplace_back(new py::object(array), [](py::object* owner) {
        const py::gil_scoped_acquire acquire;
        delete owner;
      });
    } else {
      const auto path = py::str(source.attr("path")).cast<std::string>();
      const auto offset = source.attr("offset").cast<int64_t>();
      auto& file = files[path];
      if (!file) {
        file = std::make_shared<const MappedFile>(path);
        table.owners.push_back(file);
        table.files.add(file);
      }
      check(offset >= 0 && offset + nbytes <= file->size_bytes(), name, " ends at byte ",
            offset + nbytes, " of ", path, ", which has ", file->size_bytes());
      view.data = file->data() + offset;
      view.mapped = true;
    }
    table.tensors.emplace(name, std::move(view));
  }
  return table;
}

// From a gptoss.SamplingParams, whose optional fields have been filled in.
SamplingParams to_params(const py::handle& p) {
  SamplingParams params;
  if (const py::object limit = p.attr("max_tokens"); !limit.is_none()) {
    params.max_tokens = limit.cast<int>();
    check(params.max_tokens >= 1, "max_tokens must be at least 1, got ", params.max_tokens);
  }
  params.temperature = p.attr("temperature").cast<float>();
  params.top_p = p.attr("top_p").cast<float>();
  params.top_k = p.attr("top_k").cast<int>();
  params.min_p = p.attr("min_p").cast<float>();
  params.repetition_penalty = p.attr("repetition_penalty").cast<float>();
  params.presence_penalty = p.attr("presence_penalty").cast<float>();
  params.frequency_penalty = p.attr("frequency_penalty").cast<float>();
  for (const auto& [token, bias] : p.attr("logit_bias").cast<py::dict>()) {
    params.logit_bias.emplace_back(token.cast<int32_t>(), bias.cast<float>());
  }
  params.stop_token_ids = p.attr("stop_token_ids").cast<std::vector<int32_t>>();
  params.ignore_eos = p.attr("ignore_eos").cast<bool>();
  params.seed = p.attr("seed").cast<uint64_t>();
  if (const py::object count = p.attr("logprobs"); !count.is_none()) {
    params.logprobs = count.cast<int>();
  }
  return params;
}

py::object finish_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return py::str("stop");
    case FinishReason::length:
      return py::str("length");
    case FinishReason::none:
      break;
  }
  return py::none();
}

std::vector<int32_t> to_vector(const Array<int32_t>& array) {
  check(array.ndim() == 1, "token ids must be a flat array, got ", array.ndim(), " dimensions");
  return {array.data(), array.data() + array.size()};
}

// None if it was cancelled.
std::optional<Array<float>> engine_logits(Engine& engine, int64_t request,
                                          const Array<int32_t>& tokens,
                                          const Array<int32_t>& positions, int chunk_tokens) {
  Array<float> out({positions.size(), py::ssize_t{engine.config().vocab_size}});
  const std::vector<int32_t> token_ids = to_vector(tokens);
  const std::vector<int32_t> rows = to_vector(positions);
  float* const data = out.mutable_data();
  bool finished = false;
  {
    const py::gil_scoped_release release;
    finished = engine.logits(request, token_ids, rows, chunk_tokens, data);
  }
  if (!finished) return std::nullopt;
  return out;
}

// The tokens of one step as (request, token, finish reason or None, logprob, [(id, logprob)...],
// cached tokens).
py::list engine_step(Engine& engine) {
  std::vector<Event> events;
  {
    const py::gil_scoped_release release;
    events = engine.step();
  }
  py::list list;
  for (const Event& event : events) {
    py::list top;
    for (const TokenLogprob& entry : event.top) {
      top.append(py::make_tuple(entry.token, entry.logprob));
    }
    list.append(py::make_tuple(event.request, event.token, finish_name(event.finish), event.logprob,
                               top, event.cached_tokens));
  }
  return list;
}

py::dict page_stats(const PageStats& pages) {
  return py::dict("total"_a = pages.total, "free"_a = pages.free, "cached"_a = pages.cached,
                  "page_bytes"_a = pages.page_bytes);
}

// The fields of gptoss.EngineStats.
py::dict engine_stats(Engine& engine) {
  const EngineStats s = engine.stats();
  py::dict phases;
  for (size_t i = 0; i < kPhaseNames.size(); ++i) phases[kPhaseNames[i]] = s.phases[i];
  return py::dict("running"_a = s.running, "waiting"_a = s.waiting, "preemptions"_a = s.preemptions,
                  "full_pages"_a = page_stats(s.full), "window_pages"_a = page_stats(s.window),
                  "requested_tokens"_a = s.requested_tokens, "cached_tokens"_a = s.cached_tokens,
                  "prompt_tokens"_a = s.prompt_tokens, "generated_tokens"_a = s.generated_tokens,
                  "drafted_tokens"_a = s.drafted_tokens, "accepted_tokens"_a = s.accepted_tokens,
                  "prefill_tps"_a = s.prefill.overall_tps(),
                  "recent_prefill_tps"_a = s.prefill.recent_tps(),
                  "decode_tps"_a = s.decode.overall_tps(),
                  "recent_decode_tps"_a = s.decode.recent_tps(), "phase_seconds"_a = phases);
}

// A Drafter with the text that it guesses from, for tests and to replay texts.
struct DraftedText {
  std::vector<int32_t> tokens;
  Drafter drafter;

  explicit DraftedText(const Array<int32_t>& prompt) : tokens(to_vector(prompt)), drafter(tokens) {}
  void push(int32_t token) {
    tokens.push_back(token);
    drafter.push(tokens);
  }
  // For a step of one request.
  std::vector<int32_t> draft(int limit) const {
    StepYield step(1);
    return drafter.draft(tokens, limit, step);
  }
};

// sample() on numpy logits, for tests of the sampler alone.
py::tuple sample_once(const Array<float>& logits, const py::object& params,
                      const std::vector<int32_t>& prompt, const std::vector<int32_t>& output,
                      uint64_t token_index) {
  // The engine checks a request's ids when it is submitted.
  const auto checked = [&](int32_t token) {
    check(token >= 0 && token < logits.size(), "[sample] token ids must lie in [0, ", logits.size(),
          "), got ", token);
    return token;
  };
  const SamplingParams sampling = to_params(params);
  for (const auto& [token, bias] : sampling.logit_bias) checked(token);
  TokenCounts counts;
  for (const int32_t token : prompt) counts.add_prompt(checked(token));
  for (const int32_t token : output) counts.add_output(checked(token));
  std::vector<float> scratch(logits.data(), logits.data() + logits.size());
  const Sample chosen = sample(scratch, sampling, counts, token_index);
  py::list top;
  for (const TokenLogprob& entry : chosen.top) {
    top.append(py::make_tuple(entry.token, entry.logprob));
  }
  return py::make_tuple(chosen.token, chosen.logprob, top);
}

}  // namespace

void register_engine(py::module_& m) {
  py::class_<Engine>(m, "Engine")
      .def(py::init([](const py::object& config, const py::dict& tensors,
                       const std::vector<int32_t>& eos_token_ids, const std::string& device,
                       int threads, const std::string& precision, int context_length,
                       int max_step_tokens, int max_sequences, int64_t kv_memory_bytes,
                       bool prefix_cache, bool speculative, const std::string& dense,
                       const std::string& kv_cache_dtype) {
             check(precision == "auto" || precision == "reference",
                   "precision must be 'auto' or 'reference', got '", precision, "'");
             check(dense == "bf16" || dense == "bf12" || dense == "q8",
                   "dense must be 'bf16', 'bf12' or 'q8', got '", dense, "'");
             check(kv_cache_dtype == "auto" || kv_cache_dtype == "int8",
                   "kv_cache_dtype must be 'auto' or 'int8', got '", kv_cache_dtype, "'");
             check((dense == "bf16" && kv_cache_dtype == "auto") || precision == "auto",
                   "dense='bf12', dense='q8' and kv_cache_dtype='int8' go with "
                   "precision='auto' only");
             const ModelConfig model = to_config(config);
             TensorTable table = to_tensors(tensors);
             const MappedFiles files = table.files;
             const py::gil_scoped_release release;
             auto backend = files.guard([&] {
               return make_backend(
                   device, make_weights(model, std::move(table)),
                   {.threads = threads,
                    .precision = precision == "auto" ? Precision::automatic : Precision::reference,
                    .dense = dense == "q8"     ? DenseType::q8
                             : dense == "bf12" ? DenseType::bf12
                                               : DenseType::bf16,
                    .int8_kv_cache = kv_cache_dtype == "int8"});
             });
             return std::make_unique<Engine>(std::move(backend), model, eos_token_ids,
                                             EngineOptions{.context_length = context_length,
                                                           .max_step_tokens = max_step_tokens,
                                                           .max_sequences = max_sequences,
                                                           .prefix_cache = prefix_cache,
                                                           .kv_memory_bytes = kv_memory_bytes,
                                                           .speculative = speculative,
                                                           .files = files});
           }),
           "config"_a, "tensors"_a, "eos_token_ids"_a, py::kw_only(), "device"_a, "threads"_a,
           "precision"_a, "context_length"_a, "max_step_tokens"_a, "max_sequences"_a,
           "kv_memory_bytes"_a, "prefix_cache"_a = true, "speculative"_a = false,
           "dense"_a = "bf16", "kv_cache_dtype"_a = "auto")
      .def_property_readonly("context_length", &Engine::context_length)
      .def_property_readonly("description",
                             [](const Engine& engine) { return engine.backend().description(); })
      .def(
          "submit",
          [](Engine& engine, int64_t request, const Array<int32_t>& prompt,
             const py::object& params) {
            engine.submit(request, to_vector(prompt), to_params(params));
          },
          "request"_a, "prompt"_a.noconvert(), "params"_a)
      .def(
          "check_request",
          [](const Engine& engine, const Array<int32_t>& prompt, const py::object& params) {
            engine.check_request(to_vector(prompt), to_params(params));
          },
          "prompt"_a.noconvert(), "params"_a)
      .def("cancel", &Engine::cancel, "request"_a)
      .def("step", &engine_step)
      .def("idle",
           [](Engine& engine) {
             prepare_thread();  // whoever asks this is about to call step()
             return engine.idle();
           })
      .def("logits", &engine_logits, "request"_a, "tokens"_a.noconvert(), "positions"_a.noconvert(),
           "chunk_tokens"_a)
      .def("stats", &engine_stats);
  py::class_<DraftedText>(m, "Drafter")
      .def(py::init<const Array<int32_t>&>(), "prompt"_a.noconvert())
      .def("push", &DraftedText::push, "token"_a)
      .def("draft", &DraftedText::draft, "limit"_a);
  m.attr("DRAFT_TOKENS") = Drafter::kMaxTokens;
  m.attr("TOKEN_COST") = StepYield::kTokenCost;
  m.def("sample", &sample_once, "logits"_a.noconvert(), "params"_a, "prompt"_a, "output"_a,
        "token_index"_a);
}

}  // namespace gptoss::bindings
