#include "engine/engine.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <unordered_map>

#include "backend/backend.h"
#include "bindings/config.h"
#include "bindings/register.h"
#include "core/check.h"
#include "core/thread_pool.h"
#include "cpu/isa/isa.h"
#include "cpu/sample.h"
#include "engine/cache_plan.h"
#include "model/adapter.h"
#include "model/weights.h"
#include "testing/fake_backend.h"

namespace gptoss::bindings {
namespace {

using namespace py::literals;

// From a mapping of roles to gptoss.checkpoint.TensorSource: a span of a file, or an array, which
// is kept alive.
std::vector<TensorSource> to_sources(const py::dict& tensors) {
  std::vector<TensorSource> sources;
  for (const auto& [role, tensor] : tensors) {
    TensorSource source;
    source.role = role.cast<std::string>();
    source.dtype = dtype_named(tensor.attr("dtype").cast<std::string>());
    for (const auto& size : tensor.attr("shape")) source.shape.push_back(size.cast<int64_t>());
    if (const py::object array = tensor.attr("array"); !array.is_none()) {
      const auto contiguous = py::cast<py::array>(array);
      check((contiguous.flags() & py::array::c_style) != 0, "array of ", source.role,
            " must be C-contiguous");
      source.data = static_cast<const uint8_t*>(contiguous.data());
      source.data_bytes = contiguous.nbytes();
      // Released wherever the weights are, which may be without the GIL.
      source.owner = std::shared_ptr<const void>(new py::object(array), [](py::object* owner) {
        const py::gil_scoped_acquire acquire;
        delete owner;
      });
    } else {
      source.path = py::str(tensor.attr("path")).cast<std::string>();
      source.offset = tensor.attr("offset").cast<int64_t>();
    }
    sources.push_back(std::move(source));
  }
  return sources;
}

// From a mapping of roles to pairs of float32 arrays, which are kept alive.
Adapter to_adapter(const ModelConfig& config, const py::dict& changes) {
  std::map<std::string, LowRankSource> sources;
  const auto shape_of = [](const Array<float>& array) {
    return std::vector<int64_t>(array.shape(), array.shape() + array.ndim());
  };
  for (const auto& [role, factors] : changes) {
    const auto [in, out] = factors.cast<std::pair<py::object, py::object>>();
    check(py::isinstance<Array<float>>(in) && py::isinstance<Array<float>>(out), "factors of ",
          role.cast<std::string>(), " must be C-contiguous float32 arrays");
    const auto first = py::cast<Array<float>>(in);
    const auto second = py::cast<Array<float>>(out);
    // Released wherever the adapter is, which may be without the GIL.
    sources[role.cast<std::string>()] = {
        .in = first.data(),
        .out = second.data(),
        .in_shape = shape_of(first),
        .out_shape = shape_of(second),
        .owner =
            std::shared_ptr<const void>(new std::pair<Array<float>, Array<float>>(first, second),
                                        [](const std::pair<Array<float>, Array<float>>* owned) {
                                          const py::gil_scoped_acquire acquire;
                                          delete owned;
                                        })};
  }
  return make_adapter(config, sources);
}

// From a gptoss.SamplingParams.
RequestParams to_params(const py::handle& p) {
  RequestParams params;
  if (const py::object limit = p.attr("max_tokens"); !limit.is_none()) {
    params.stop.max_tokens = limit.cast<int>();
  }
  params.stop.min_tokens = p.attr("min_tokens").cast<int>();
  params.stop.token_ids = p.attr("stop_token_ids").cast<std::vector<int32_t>>();
  params.stop.ignore_eos = p.attr("ignore_eos").cast<bool>();
  params.rule = {.temperature = p.attr("temperature").cast<float>(),
                 .top_p = p.attr("top_p").cast<float>(),
                 .min_p = p.attr("min_p").cast<float>(),
                 .top_k = p.attr("top_k").cast<int32_t>(),
                 .repetition_penalty = p.attr("repetition_penalty").cast<float>(),
                 .presence_penalty = p.attr("presence_penalty").cast<float>(),
                 .frequency_penalty = p.attr("frequency_penalty").cast<float>()};
  const auto count_or = [&](const char* name, int none) {
    const py::object count = p.attr(name);
    return count.is_none() ? none : count.cast<int>();
  };
  params.rule.n_logprobs = count_or("logprobs", -1);
  params.prompt_logprobs = count_or("prompt_logprobs", -1);
  for (const auto& [token, bias] : p.attr("logit_bias").cast<py::dict>()) {
    params.biases.push_back({token.cast<int32_t>(), bias.cast<float>()});
  }
  if (const py::object allowed = p.attr("allowed_token_ids"); !allowed.is_none()) {
    params.allowed_token_ids = allowed.cast<std::vector<int32_t>>();
  }
  params.salt = p.attr("_salt").cast<uint64_t>();
  for (const auto& [layer, vector] : p.attr("steer").cast<py::dict>()) {
    const auto values = vector.cast<Array<float>>();
    params.steering.push_back(
        {.layer = layer.cast<int32_t>(), .vector = {values.data(), values.data() + values.size()}});
  }
  return params;
}

// Asks a Python object with the two methods of gptoss.engine.constraints.Hub, with the GIL once per
// call. What they raise ends the step: errors of one sequence are theirs to catch.
class PyConstraints final : public Constraints {
 public:
  explicit PyConstraints(py::object hub) : hub_(std::move(hub)) {}

  std::vector<Verdict> accept(std::span<const Accepted> accepted) override {
    const py::gil_scoped_acquire acquire;
    py::list news;
    for (const Accepted& entry : accepted) {
      py::list tokens;
      for (const int32_t token : entry.tokens) tokens.append(token);
      news.append(py::make_tuple(entry.sequence, std::move(tokens)));
    }
    std::vector<Verdict> verdicts;
    for (const py::handle& item : hub_.attr("accept")(std::move(news))) {
      const auto [forced, counted, free, error] =
          item.cast<std::tuple<std::vector<int32_t>, bool, int, std::string>>();
      verdicts.push_back({forced, counted, free, error});
    }
    check(verdicts.size() == accepted.size(), "constraints gave ", verdicts.size(),
          " verdicts for ", accepted.size(), " sequences");
    return verdicts;
  }

  std::vector<std::string> fill(std::span<const int64_t> sequences, std::span<uint32_t> masks,
                                size_t words) override {
    const py::gil_scoped_acquire acquire;
    const Array<uint32_t> view(
        {static_cast<py::ssize_t>(sequences.size()), static_cast<py::ssize_t>(words)}, masks.data(),
        py::capsule(masks.data(), [](void*) {}));
    auto errors = hub_.attr("fill")(std::vector<int64_t>(sequences.begin(), sequences.end()), view)
                      .cast<std::vector<std::string>>();
    check(errors.size() == sequences.size(), "constraints filled ", errors.size(), " masks for ",
          sequences.size(), " sequences");
    return errors;
  }

 private:
  py::object hub_;
};

py::array_t<int32_t> to_array(std::span<const int32_t> tokens) {
  return py::array_t<int32_t>(static_cast<py::ssize_t>(tokens.size()), tokens.data());
}

std::vector<PageRef> to_refs(const std::vector<std::pair<int, int>>& pairs) {
  std::vector<PageRef> refs;
  refs.reserve(pairs.size());
  for (const auto& [page, group] : pairs) refs.push_back({page, group});
  return refs;
}

// A Python object with the methods of gptoss.engine.page_store.PageStore. What they raise ends the
// step: they only queue what they are told.
class PyPageStore final : public PageStore {
 public:
  explicit PyPageStore(py::object store) : store_(std::move(store)) {}

  void find(int64_t sequence, std::span<const int32_t> prompt, uint64_t salt,
            int first_page) override {
    const py::gil_scoped_acquire acquire;
    store_.attr("find")(sequence, to_array(prompt), salt, first_page);
  }
  void taken() override {
    const py::gil_scoped_acquire acquire;
    store_.attr("taken")();
  }
  void offer(std::span<const int32_t> tokens, uint64_t salt,
             std::span<const PageRef> refs) override {
    const py::gil_scoped_acquire acquire;
    py::list pairs;
    for (const PageRef& ref : refs) pairs.append(py::make_tuple(ref.page, ref.group));
    store_.attr("offer")(to_array(tokens), salt, pairs);
  }
  void put(std::vector<PageBytes> pages) override {
    const py::gil_scoped_acquire acquire;
    py::list arrays;
    for (PageBytes& page : pages) {
      if (page.data == nullptr) {
        arrays.append(py::none());
        continue;
      }
      uint8_t* const data = page.data.release();
      const py::capsule owner(data, [](void* bytes) { delete[] static_cast<uint8_t*>(bytes); });
      arrays.append(py::array_t<uint8_t>(static_cast<py::ssize_t>(page.size), data, owner));
    }
    store_.attr("put")(arrays);
  }

 private:
  py::object store_;
};

// An engine with what Python gives it to ask.
struct PyEngine {
  std::unique_ptr<Engine> engine;
  std::unique_ptr<PyConstraints> constraints;
  std::unique_ptr<PyPageStore> page_store;

  Engine* operator->() const { return engine.get(); }
};

std::vector<int32_t> to_vector(const Array<int32_t>& array) {
  check(array.ndim() == 1, "token ids must be a flat array, got ", array.ndim(), " dimensions");
  return {array.data(), array.data() + array.size()};
}

// Kept until the engine is done with it, which may be without the GIL.
std::shared_ptr<void> keep_alive(py::object object) {
  return {new py::object(std::move(object)), [](py::object* owner) {
            const py::gil_scoped_acquire acquire;
            delete owner;
          }};
}

// From lists by Activation's names, of an array (positions, ...) for each layer.
Trace to_trace(const ModelConfig& config, std::vector<int32_t> positions,
               std::vector<int32_t> layers, int keys, const py::dict& arrays) {
  Trace trace = {.positions = std::move(positions),
                 .layers = std::move(layers),
                 .activations = 0,
                 .keys = keys,
                 .arrays = {}};
  check(keys >= 1, "keys must be at least 1, got ", keys);
  trace.arrays.resize(trace.layers.size());
  for (const int32_t layer : trace.layers) {
    check(layer >= 0 && layer < config.n_layers, "layers must lie in [0, ", config.n_layers,
          "), got ", layer);
  }
  for (const auto& [key, value] : arrays) {
    const auto name = key.cast<std::string>();
    const auto known = std::find(kActivationNames.begin(), kActivationNames.end(), name);
    check(known != kActivationNames.end(), "unknown activation '", name, "'");
    const auto a = static_cast<size_t>(known - kActivationNames.begin());
    const auto activation = static_cast<Activation>(a);
    trace.activations |= bit(activation);
    const auto of_layers = value.cast<std::vector<py::array>>();
    check(of_layers.size() == trace.layers.size(), name, " has ", of_layers.size(), " arrays for ",
          trace.layers.size(), " layers");
    for (size_t l = 0; l < of_layers.size(); ++l) {
      py::array array = of_layers[l];
      const auto bytes = static_cast<py::ssize_t>(trace.positions.size()) *
                         activation_bytes(config, activation, trace.layers[l], keys);
      check(array.nbytes() == bytes && (array.flags() & py::array::c_style) != 0, name,
            " of layer ", trace.layers[l], " needs a C-contiguous array of ", bytes, " bytes, got ",
            array.nbytes());
      trace.arrays[l][a] = static_cast<uint8_t*>(array.mutable_data());
    }
  }
  return trace;
}

py::list to_list(const std::vector<TokenLogprob>& entries) {
  py::list list;
  for (const TokenLogprob& entry : entries) list.append(py::make_tuple(entry.token, entry.logprob));
  return list;
}

py::list to_list(const std::vector<std::vector<TokenLogprob>>& tokens) {
  py::list list;
  for (const auto& entries : tokens) list.append(to_list(entries));
  return list;
}

std::vector<Event> engine_step(PyEngine& engine) {
  const py::gil_scoped_release release;
  return engine->step();
}

const char* finish_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::abort:
      return "abort";
    case FinishReason::error:
      return "error";
    case FinishReason::none:
      break;
  }
  return nullptr;  // None
}

py::dict page_stats(const PageStats& pages) {
  return py::dict("total"_a = pages.total, "free"_a = pages.free, "cached"_a = pages.cached,
                  "page_bytes"_a = pages.page_bytes);
}

// The fields of gptoss.EngineStats.
py::dict engine_stats(PyEngine& engine) {
  const EngineStats s = engine->stats();
  py::dict phases;
  for (size_t i = 0; i < kPhaseNames.size(); ++i) phases[kPhaseNames[i]] = s.phases[i];
  const PageStats none = {.total = 0, .free = 0, .cached = 0, .page_bytes = 0};
  return py::dict(
      "running"_a = s.running, "waiting"_a = s.waiting, "preemptions"_a = s.preemptions,
      "full_pages"_a = page_stats(s.pages[0]),
      "window_pages"_a = page_stats(s.pages.size() > 1 ? s.pages[1] : none),
      "requested_tokens"_a = s.requested_tokens, "cached_tokens"_a = s.cached_tokens,
      "prompt_tokens"_a = s.prompt_tokens, "generated_tokens"_a = s.generated_tokens,
      "drafted_tokens"_a = s.drafted_tokens, "accepted_tokens"_a = s.accepted_tokens,
      "prefill_tps"_a = s.prefill.overall_tps(), "recent_prefill_tps"_a = s.prefill.recent_tps(),
      "decode_tps"_a = s.decode.overall_tps(), "recent_decode_tps"_a = s.decode.recent_tps(),
      "phase_seconds"_a = phases, "steps"_a = s.steps, "sequences"_a = s.submitted_sequences);
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
  // For a step of one sequence, where a further token costs `token_cost` steps of one.
  std::vector<int32_t> draft(int limit, double token_cost) const {
    StepYield step({.fixed = 1.0 - token_cost, .per_token = token_cost}, 1);
    return drafter.draft(tokens, limit, step);
  }
};

// The sampling op with a gptoss.SamplingParams, for tests of the order in which they apply.
py::tuple sample_once(const Array<float>& logits, const py::object& params,
                      const std::vector<int32_t>& prompt, const std::vector<int32_t>& output,
                      uint64_t token_index) {
  RequestParams request = to_params(params);
  request.rule.seed = params.attr("seed").cast<uint64_t>();
  std::vector<TokenCount> counts;
  std::unordered_map<int32_t, size_t> places;
  const auto count = [&](int32_t token, int32_t times) {
    const auto [place, is_new] = places.try_emplace(token, counts.size());
    if (is_new) counts.push_back({token, 0});
    counts[place->second].count += times;
  };
  for (const int32_t token : prompt) count(token, 0);
  for (const int32_t token : output) count(token, 1);
  ops::SampleRow row{};
  row.logits = logits.data();
  row.vocab_size = static_cast<int32_t>(logits.size());
  row.rule = &request.rule;
  row.index = token_index;
  row.counts = counts;
  row.biases = request.biases;
  ops::validate(row);
  ops::validate_values(row);
  cpu::SampleScratch scratch;
  const ops::SampledRow chosen = cpu::sample(cpu::select_kernels(), row, scratch);
  if (chosen.status != ops::SampleStatus::ok) {
    throw std::runtime_error(
        "the logits are not finite: the checkpoint is damaged or its values are out of range");
  }
  return py::make_tuple(chosen.token, chosen.logprob,
                        to_list(std::vector<TokenLogprob>(chosen.top, chosen.top + chosen.n_top)));
}

// An engine on testing::FakeBackend: to measure what is around a backend, or, without a script, to
// test the engine.
PyEngine make_fake_engine(int vocab_size, const std::vector<int32_t>& script, int max_sequences,
                          int context_length, int max_steps_ahead, int max_step_tokens, int pages,
                          bool prefix_cache, bool speculative) {
  testing::FakeOptions options;
  options.vocab_size = vocab_size;
  options.script = script;
  options.max_steps_ahead = max_steps_ahead;
  ModelConfig config{};
  config.vocab_size = vocab_size;
  config.max_position_embeddings = context_length;
  for (const KvGroup& group : options.groups) {
    config.n_layers += group.n_layers;
    if (group.window > 0) config.sliding_window = group.window;
    config.is_window_layer.insert(config.is_window_layer.end(), static_cast<size_t>(group.n_layers),
                                  group.window > 0);
  }
  auto backend = std::make_unique<testing::FakeBackend>(options);
  const StepLimits limits{};
  const int64_t kv_bytes = pages * backend->plan(limits).page[0];
  return {.engine = std::make_unique<Engine>(std::move(backend), config, std::vector<int32_t>{},
                                             EngineOptions{.context_length = context_length,
                                                           .max_step_tokens = max_step_tokens,
                                                           .max_sequences = max_sequences,
                                                           .prefix_cache = prefix_cache,
                                                           .kv_memory_bytes = kv_bytes,
                                                           .speculative = speculative}),
          .constraints = nullptr,
          .page_store = nullptr};
}

}  // namespace

void register_engine(py::module_& m) {
  py::class_<RequestParams, std::shared_ptr<RequestParams>>(m, "RequestParams")
      .def(py::init([](const py::object& params, int adapter, std::optional<uint64_t> salt) {
             auto made = std::make_shared<RequestParams>(to_params(params));
             made->adapter = adapter;
             if (salt) made->salt = *salt;
             return made;
           }),
           "params"_a, "adapter"_a = 0, "salt"_a = py::none())
      .def_readonly("salt", &RequestParams::salt);
  py::class_<Event>(m, "Event")
      .def_readonly("request", &Event::sequence)
      .def_readonly("token_ids", &Event::tokens)
      .def_property_readonly("forced",
                             [](const Event& event) { return event.origin != Origin::sampled; })
      .def_property_readonly("counted",
                             [](const Event& event) { return event.origin != Origin::format; })
      .def_property_readonly("finish_reason",
                             [](const Event& event) { return finish_name(event.finish); })
      .def_readonly("cached_tokens", &Event::cached_tokens)
      .def_readonly("logprobs", &Event::logprobs)
      .def_property_readonly("top_logprobs", [](const Event& event) { return to_list(event.top); })
      .def_readonly("prompt_logprobs", &Event::prompt_logprobs)
      .def_property_readonly("prompt_top_logprobs",
                             [](const Event& event) { return to_list(event.prompt_top); })
      .def_readonly("error", &Event::error);
  py::class_<PyEngine>(m, "Engine")
      .def(py::init([](const py::object& config, const py::dict& tensors,
                       const std::vector<int32_t>& eos_token_ids, const std::string& device,
                       int threads, const std::string& precision, int context_length,
                       int max_step_tokens, int max_sequences, int64_t kv_memory_bytes,
                       bool prefix_cache, bool speculative, const std::string& dense,
                       const std::string& kv_cache_dtype, std::optional<int> cpu_experts) {
             const ModelConfig model = to_config(config);
             EngineOptions engine_options = {.context_length = context_length,
                                             .max_step_tokens = max_step_tokens,
                                             .max_sequences = max_sequences,
                                             .prefix_cache = prefix_cache,
                                             .kv_memory_bytes = kv_memory_bytes,
                                             .speculative = speculative};
             BackendOptions options = to_options(threads, precision, dense, kv_cache_dtype);
             options.cpu_experts = cpu_experts.value_or(kFewestCpuExperts);
             options.room = room_of(model, engine_options);
             const std::vector<TensorSource> sources = to_sources(tensors);
             const py::gil_scoped_release release;
             TensorTable table = make_tensor_table(sources);
             engine_options.files = table.files;
             auto backend = engine_options.files.guard([&] {
               return make_backend(device, make_weights(model, std::move(table)), options);
             });
             return PyEngine{.engine = std::make_unique<Engine>(std::move(backend), model,
                                                                eos_token_ids, engine_options),
                             .constraints = nullptr,
                             .page_store = nullptr};
           }),
           "config"_a, "tensors"_a, "eos_token_ids"_a, py::kw_only(), "device"_a, "threads"_a,
           "precision"_a, "context_length"_a, "max_step_tokens"_a, "max_sequences"_a,
           "kv_memory_bytes"_a, "prefix_cache"_a = true, "speculative"_a = false,
           "dense"_a = "bf16", "kv_cache_dtype"_a = "auto", "cpu_experts"_a = py::none())
      .def_property_readonly("context_length",
                             [](const PyEngine& engine) { return engine->context_length(); })
      .def_property_readonly("max_step_tokens",
                             [](const PyEngine& engine) { return engine->max_step_tokens(); })
      .def_property_readonly("max_sequences",
                             [](const PyEngine& engine) { return engine->max_sequences(); })
      .def_property_readonly("cpu_experts",
                             [](const PyEngine& engine) { return engine->backend().cpu_experts(); })
      .def_property_readonly(
          "layer_places",
          [](const PyEngine& engine) {
            py::list list;
            for (const LayerPlace& place : engine->backend().layer_places()) {
              list.append(py::make_tuple(place.device, place.begin, place.end, place.weight_bytes));
            }
            return list;
          })
      .def_property_readonly("description",
                             [](const PyEngine& engine) { return engine->backend().description(); })
      .def(
          "set_constraints",
          [](PyEngine& engine, py::object hub) {
            engine.constraints = std::make_unique<PyConstraints>(std::move(hub));
            engine->set_constraints(engine.constraints.get());
          },
          "hub"_a)
      .def_property_readonly("arithmetic",
                             [](const PyEngine& engine) { return engine->backend().arithmetic(); })
      .def_property_readonly("kv_layout",
                             [](const PyEngine& engine) { return engine->backend().kv_layout(); })
      .def_property_readonly("page_bytes",
                             [](const PyEngine& engine) { return engine->memory().page; })
      .def(
          "set_page_store",
          [](PyEngine& engine, py::object store) {
            engine.page_store = std::make_unique<PyPageStore>(std::move(store));
            engine->set_page_store(engine.page_store.get());
          },
          "store"_a)
      .def(
          "deliver",
          [](PyEngine& engine, int64_t sequence, const std::vector<std::pair<int, int>>& refs,
             const std::vector<Array<uint8_t>>& pages, bool is_last) {
            FoundPages found{};
            found.sequence = sequence;
            found.refs = to_refs(refs);
            found.is_last = is_last;
            for (const Array<uint8_t>& page : pages) {
              found.bytes.emplace_back(page.data(), static_cast<size_t>(page.size()));
            }
            // Let go of without the GIL.
            found.owner = std::shared_ptr<const void>(new std::vector<Array<uint8_t>>(pages),
                                                      [](const std::vector<Array<uint8_t>>* owned) {
                                                        const py::gil_scoped_acquire acquire;
                                                        delete owned;
                                                      });
            engine->deliver(std::move(found));
          },
          "sequence"_a, "refs"_a, "pages"_a, "is_last"_a)
      .def(
          "want",
          [](PyEngine& engine, const Array<int32_t>& tokens, uint64_t salt,
             const std::vector<std::pair<int, int>>& refs) {
            engine->want({.tokens = to_vector(tokens), .salt = salt, .refs = to_refs(refs)});
          },
          "tokens"_a.noconvert(), "salt"_a, "refs"_a)
      .def(
          "submit",
          [](PyEngine& engine, int64_t request, const Array<int32_t>& prompt,
             const std::shared_ptr<RequestParams>& params, uint64_t seed, bool constrained,
             int stored_pages) {
            engine->submit(request, to_vector(prompt), params, seed, constrained, stored_pages);
          },
          "request"_a, "prompt"_a.noconvert(), "params"_a, "seed"_a, "constrained"_a = false,
          "stored_pages"_a = 0)
      .def(
          "submit_logits",
          [](PyEngine& engine, int64_t request, const Array<int32_t>& tokens,
             const Array<int32_t>& positions, int chunk_tokens, Array<float> out,
             const std::shared_ptr<RequestParams>& params) {
            check(out.size() == positions.size() * engine->config().vocab_size,
                  "logits need an array of (", positions.size(), ", ", engine->config().vocab_size,
                  ")");
            float* const logits = out.mutable_data();
            engine->submit_read(request, to_vector(tokens),
                                {.positions = to_vector(positions),
                                 .chunk_tokens = chunk_tokens,
                                 .logits = logits,
                                 .owner = keep_alive(std::move(out))},
                                params);
          },
          "request"_a, "tokens"_a.noconvert(), "positions"_a.noconvert(), "chunk_tokens"_a,
          "out"_a.noconvert(), "params"_a)
      .def(
          "submit_trace",
          [](PyEngine& engine, int64_t request, const Array<int32_t>& tokens,
             const Array<int32_t>& positions, int chunk_tokens, const Array<int32_t>& layers,
             int keys, const py::dict& arrays, const std::shared_ptr<RequestParams>& params) {
            engine->submit_read(request, to_vector(tokens),
                                {.positions = {},
                                 .chunk_tokens = chunk_tokens,
                                 .logits = nullptr,
                                 .owner = keep_alive(arrays),
                                 .trace = to_trace(engine->config(), to_vector(positions),
                                                   to_vector(layers), keys, arrays)},
                                params);
          },
          "request"_a, "tokens"_a.noconvert(), "positions"_a.noconvert(), "chunk_tokens"_a,
          "layers"_a.noconvert(), "keys"_a, "arrays"_a, "params"_a)
      .def(
          "add_adapter",
          [](PyEngine& engine, int64_t request, int adapter, const py::dict& changes) {
            engine->add_adapter(
                request, adapter,
                std::make_shared<const Adapter>(to_adapter(engine->config(), changes)));
          },
          "request"_a, "adapter"_a, "changes"_a)
      .def(
          "remove_adapter", [](PyEngine& engine, int adapter) { engine->remove_adapter(adapter); },
          "adapter"_a)
      .def(
          "check_request",
          [](const PyEngine& engine, const Array<int32_t>& prompt,
             const std::shared_ptr<RequestParams>& params) {
            engine->check_request(to_vector(prompt), *params);
          },
          "prompt"_a.noconvert(), "params"_a)
      .def(
          "cancel", [](PyEngine& engine, int64_t request) { engine->cancel(request); }, "request"_a)
      .def("step", &engine_step)
      .def("idle",
           [](PyEngine& engine) {
             prepare_thread();  // whoever asks this is about to call step()
             return engine->idle();
           })
      .def("stats", &engine_stats);

  // For tests and benchmarks.
  py::class_<DraftedText>(m, "Drafter")
      .def(py::init<const Array<int32_t>&>(), "prompt"_a.noconvert())
      .def("push", &DraftedText::push, "token"_a)
      .def("draft", &DraftedText::draft, "limit"_a, "token_cost"_a);
  m.attr("DRAFT_TOKENS") = Drafter::kMaxTokens;
  m.def("make_fake_engine", &make_fake_engine, py::kw_only(), "vocab_size"_a,
        "script"_a = std::vector<int32_t>(), "max_sequences"_a, "context_length"_a,
        "max_steps_ahead"_a = 0, "max_step_tokens"_a = 512, "pages"_a = 0, "prefix_cache"_a = true,
        "speculative"_a = false);
  m.def("sample", &sample_once, "logits"_a.noconvert(), "params"_a, "prompt"_a, "output"_a,
        "token_index"_a);
}

}  // namespace gptoss::bindings
