#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "bindings/config.h"
#include "bindings/register.h"
#include "core/check.h"
#include "engine/cache_plan.h"
#include "engine/engine.h"
#include "engine/kv_cache.h"
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

Format to_format(const std::string& dense) {
  if (dense == "q8") return Format::q8;
  return dense == "bf12" ? Format::bf12 : Format::bf16;
}

// Devices by name, and how many bytes of each there are to plan with.
std::vector<std::pair<std::string, int64_t>> rooms_of(const std::string& device,
                                                      const std::vector<int64_t>& device_bytes) {
  std::vector<std::pair<std::string, int64_t>> rooms;
  for (DeviceRoom& room : device_rooms(device, device_bytes)) {
    rooms.emplace_back(std::move(room.name), room.usable);
  }
  return rooms;
}

// What a model takes on devices with these rooms, with so many sequences of this context; with
// cpu_experts None, or where there are several devices, split as load() splits it that has room for
// them. With context_length 0 what loading it so takes, and what the context is then.
py::dict memory_plan(const py::object& config, const std::string& device, int threads,
                     const std::string& precision, const std::string& dense,
                     const std::string& kv_cache_dtype, int context_length, int max_step_tokens,
                     int max_sequences, const std::vector<std::string>& q8_0,
                     const std::vector<std::pair<std::string, int64_t>>& rooms,
                     std::optional<int> cpu_experts) {
  constexpr int64_t kPlenty = int64_t{1} << 62;
  const ModelConfig model = to_config(config);
  const Weights shapes = shapes_of(model, q8_0);
  BackendOptions modes = to_options(threads, precision, dense, kv_cache_dtype);
  modes.cpu_experts = cpu_experts.value_or(kFewestCpuExperts);
  EngineOptions options{.context_length = context_length,
                        .max_step_tokens = max_step_tokens,
                        .max_sequences = max_sequences};
  EngineOptions roomy_options = options;
  if (context_length > 0) roomy_options.kv_memory_bytes = kPlenty;  // that of all sequences
  modes.room = room_of(model, roomy_options);
  std::vector<DeviceRoom> devices;
  devices.reserve(rooms.size());
  for (const auto& [name, usable] : rooms) devices.push_back({name, usable});
  const auto plan_of = [&](const StepLimits& limits) {
    return plan_memory(device, shapes, modes, limits, devices);
  };
  MemoryPlan plan = plan_of(step_limits(options, std::max(1, context_length)));
  options.max_steps_ahead = plan.max_steps_ahead;
  const std::vector<KvGroup> groups = kv_groups(model);
  std::vector<int64_t> n_pages;  // [group]
  if (context_length == 0) {
    const CachePlan cache = plan_cache(model, plan_of, options);
    plan = cache.memory;
    n_pages.assign(cache.n_pages.begin(), cache.n_pages.end());
    context_length = cache.context_length;
  } else if (plan.is_lazy) {  // what the sequences touch
    const int pages = KvCache::pages_for(context_length);
    for (const KvGroup& group : groups) {
      const int ring = KvCache::ring_pages(group, std::min(max_step_tokens, context_length));
      n_pages.push_back(int64_t{max_sequences} *
                        (group.window == 0 ? pages : std::min(ring, pages)));
    }
  } else {  // what is allocated, were there room for anything
    MemoryPlan roomy = plan;
    roomy.available = kPlenty;
    for (MemoryPlan::Share& share : roomy.shares) share.available = kPlenty;
    options.kv_memory_bytes = kPlenty;
    const CachePlan cache = plan_cache(model, [&](const StepLimits&) { return roomy; }, options);
    n_pages.assign(cache.n_pages.begin(), cache.n_pages.end());
  }
  const auto pages_bytes = [&](const std::vector<int64_t>& page) {
    int64_t bytes = 0;
    for (size_t g = 0; g < page.size(); ++g) bytes += n_pages[g] * page[g];
    return bytes;
  };
  py::list shares;
  for (const MemoryPlan::Share& share : plan.shares) {
    shares.append(py::dict("device"_a = share.device, "begin_layer"_a = share.begin_layer,
                           "end_layer"_a = share.end_layer, "weights"_a = share.weights,
                           "workspace"_a = share.workspace, "kv_cache"_a = pages_bytes(share.page),
                           "available"_a = share.available));
  }
  return py::dict("weights"_a = plan.weights, "workspace"_a = plan.workspace,
                  "kv_cache"_a = pages_bytes(plan.page), "page"_a = plan.page,
                  "available"_a = plan.available, "context_length"_a = context_length,
                  "cpu_experts"_a = plan.cpu_experts, "shares"_a = shares);
}

}  // namespace

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

BackendOptions to_options(int threads, const std::string& precision, const std::string& dense,
                          const std::string& kv_cache_dtype) {
  check(precision == "auto" || precision == "reference",
        "precision must be 'auto' or 'reference', got '", precision, "'");
  check(dense == "bf16" || dense == "bf12" || dense == "q8",
        "dense must be 'bf16', 'bf12' or 'q8', got '", dense, "'");
  check(kv_cache_dtype == "auto" || kv_cache_dtype == "int8",
        "kv_cache_dtype must be 'auto' or 'int8', got '", kv_cache_dtype, "'");
  check((dense == "bf16" && kv_cache_dtype == "auto") || precision == "auto",
        "dense='bf12', dense='q8' and kv_cache_dtype='int8' go with precision='auto' only");
  return {.threads = threads,
          .precision = precision == "auto" ? Precision::automatic : Precision::reference,
          .dense = to_format(dense),
          .int8_kv_cache = kv_cache_dtype == "int8"};
}

void register_plan(py::module_& m) {
  m.def("device_rooms", &rooms_of, "device"_a, "device_bytes"_a);
  m.def("plan_memory", &memory_plan, "config"_a, py::kw_only(), "device"_a, "threads"_a,
        "precision"_a, "dense"_a, "kv_cache_dtype"_a, "context_length"_a, "max_step_tokens"_a,
        "max_sequences"_a, "q8_0"_a = std::vector<std::string>(), "rooms"_a, "cpu_experts"_a = 0);
}

}  // namespace gptoss::bindings
