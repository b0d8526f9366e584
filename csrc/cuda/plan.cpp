#include "cuda/plan.h"

#include <algorithm>
#include <optional>

#include "core/bytes_text.h"
#include "core/check.h"
#include "core/q8.h"
#include "cuda/step_memory.h"
#include "ops/banded_attention.h"

namespace gptoss::cuda {
namespace {

// What a driver takes of a device for itself and for a context, where there is none to be asked.
// Not measured by this project.
constexpr int64_t kContextBytes = int64_t{512} << 20;

// Weights and workspace.
struct FixedBytes {
  int64_t weights, workspace;

  int64_t total() const { return weights + workspace; }
};
FixedBytes fixed_bytes(const Weights& shapes, const Scheme& scheme, const StepLimits& limits) {
  return {DeviceWeights::allocated_bytes(shapes, scheme),
          StepMemory::device_bytes(shapes.config, scheme, has_int8_inputs(shapes, scheme), limits,
                                   kStepsAhead + 1)};
}

// The scheme that takes less, as an argument of load(), where there is one.
constexpr const char* kSmaller = "dense=\"q8\"";
std::optional<Scheme> smaller_scheme(const ModelConfig& config, Scheme scheme) {
  if (scheme.dense != Format::bf16 || scheme.act == Act::f32) return std::nullopt;
  if (config.q_size() % kQ8Block != 0) return std::nullopt;
  scheme.dense = Format::q8;
  return scheme;
}

}  // namespace

Scheme scheme_of(const ModelConfig& config, const BackendOptions& options) {
  check(options.cpu_experts == kFewestCpuExperts ||
            (options.cpu_experts >= 0 && options.cpu_experts <= config.n_layers),
        "cpu_experts must be \"auto\" or from 0 to the model's ", config.n_layers, " layers, got ",
        options.cpu_experts);
  if (options.dense != Format::bf16 && options.dense != Format::q8) {
    throw BackendError(concat("[cuda] dense weights in ", name_of(options.dense),
                              " are not built yet: use dense=\"bf16\" or \"q8\""));
  }
  check(options.dense != Format::q8 || config.q_size() % kQ8Block == 0,
        "[cuda] dense weights in int8 need in-features in whole blocks of ", kQ8Block, ", got ",
        config.q_size());
  check(config.head_dim % 16 == 0 && config.head_dim <= ops::kMaxHeadDim,
        "[cuda] head_dim must be a multiple of 16 up to ", ops::kMaxHeadDim, ", got ",
        config.head_dim);
  check(config.n_experts <= kMaxExperts && config.hidden_size <= kMaxHidden, "[cuda] at most ",
        kMaxExperts, " experts and a hidden_size up to ", kMaxHidden, ", got ", config.n_experts,
        " and ", config.hidden_size);
  const int cpu_experts = std::max(0, options.cpu_experts);
  if (options.precision == Precision::reference) {
    return {Act::f32, Kv::f32, options.dense, cpu_experts};
  }
  if (!options.int8_kv_cache) return {Act::bf16, Kv::f16, options.dense, cpu_experts};
  check(
      has_fast_attention(Act::bf16, config.n_heads, config.n_kv_heads, config.head_dim),
      "[cuda] a KV cache in int8 needs head_dim 16, 32 or 64 and up to 16 heads to a KV head, got ",
      config.head_dim, " and ", config.n_heads / config.n_kv_heads);
  return {Act::bf16, Kv::int8, options.dense, cpu_experts};
}

int64_t usable_bytes(int64_t free, int64_t total) {
  // To other programs, to graphs and to what the driver rounds up.
  return free - total / 32;
}

bool has_int8_inputs(const Weights& shapes, const Scheme& scheme) {
  const DeviceWeights formats(shapes, scheme);
  return scheme.act != Act::f32 && formats.count(Format::q8) + formats.count(Format::q8_0) > 0;
}

int64_t layer_page_bytes(const ModelConfig& config, Kv kv) {
  return kv_layer_bytes(kv, config.n_kv_heads, config.head_dim);
}

int64_t page_bytes(const ModelConfig& config, Kv kv, const KvGroup& group) {
  return group.n_layers * layer_page_bytes(config, kv);
}

MemoryPlan plan_of(const Weights& shapes, const Scheme& scheme, const StepLimits& limits,
                   int64_t usable) {
  const FixedBytes fixed = fixed_bytes(shapes, scheme, limits);
  MemoryPlan plan;
  plan.weights = fixed.weights;
  plan.workspace = fixed.workspace;
  for (const KvGroup& group : kv_groups(shapes.config)) {
    plan.page.push_back(page_bytes(shapes.config, scheme.kv, group));
  }
  plan.available = usable - fixed.total();
  plan.max_steps_ahead = kStepsAhead;
  if (const auto smaller = smaller_scheme(shapes.config, scheme)) {
    plan.savings.push_back(
        {kSmaller, fixed.total() - fixed_bytes(shapes, *smaller, limits).total()});
  }
  return plan;
}

int count_cpu_experts(const Weights& shapes, Scheme scheme, const Room& room, int64_t usable) {
  for (scheme.cpu_experts = 0; scheme.cpu_experts < shapes.config.n_layers; ++scheme.cpu_experts) {
    const MemoryPlan plan = plan_of(shapes, scheme, room.limits, usable);
    int64_t pages = 0;
    for (size_t g = 0; g < plan.page.size(); ++g) {
      int64_t n = room.n_pages[g];
      if (g == 0 && room.kv_memory_bytes > 0 && plan.page[g] > 0) {
        n = std::min(n, room.kv_memory_bytes / plan.page[g]);
      }
      pages += n * plan.page[g];
    }
    if (pages <= plan.available) break;
  }
  return scheme.cpu_experts;
}

void check_weights_fit(const Weights& shapes, const Scheme& scheme, const DeviceInfo& device,
                       int64_t usable) {
  const int64_t needed = DeviceWeights::allocated_bytes(shapes, scheme);
  if (needed <= usable) return;
  std::string text = concat("[cuda] the weights",
                            scheme.cpu_experts == 0
                                ? ""
                                : concat(" without the experts of ", scheme.cpu_experts, " layers"),
                            " take ", bytes_text(needed), ", and ", device.name, " has ",
                            bytes_text(std::max<int64_t>(0, usable)), " free for them");
  if (const auto smaller = smaller_scheme(shapes.config, scheme)) {
    const int64_t less = DeviceWeights::allocated_bytes(shapes, *smaller);
    text += concat("; ", kSmaller, less <= usable ? " fits, with " : " does not fit either, with ",
                   bytes_text(less));
  }
  throw OutOfMemory(text);
}

MemoryPlan plan(const Weights& shapes, const BackendOptions& options, const StepLimits& limits,
                int64_t device_bytes) {
  const Scheme scheme = scheme_of(shapes.config, options);
  if (device_bytes > 0) {
    return plan_of(shapes, scheme, limits,
                   usable_bytes(device_bytes - kContextBytes, device_bytes));
  }
  const Context context(find_device());
  const Context::Scope scope(context);
  return plan_of(shapes, scheme, limits,
                 usable_bytes(context.free_memory(), context.device().memory));
}

}  // namespace gptoss::cuda
