#include "cuda/plan.h"

#include <algorithm>
#include <exception>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <stdexcept>

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

// Of a launch's second dimension: kernels of precision="reference" have a row there for each token
// and expert.
constexpr int kMostGridRows = 65'535;

// Weights and workspace of a part.
struct FixedBytes {
  int64_t weights, workspace;

  int64_t total() const { return weights + workspace; }
};
FixedBytes fixed_bytes(const Weights& shapes, const Scheme& scheme, const Part& part,
                       const StepLimits& limits) {
  return {DeviceWeights::allocated_bytes(shapes, scheme, part),
          StepMemory::device_bytes(shapes.config, scheme, part, has_int8_inputs(shapes, scheme),
                                   limits, kStepsAhead + 1)};
}

// The scheme that takes less, as an argument of load(), where there is one.
constexpr const char* kSmaller = "dense=\"q8\"";
std::optional<Scheme> smaller_scheme(const ModelConfig& config, Scheme scheme) {
  if (scheme.dense != Format::bf16 || scheme.act == Act::f32) return std::nullopt;
  if (config.q_size() % kQ8Block != 0) return std::nullopt;
  scheme.dense = Format::q8;
  return scheme;
}

// Where layers lie so that the fullest card is as empty as can be.
class Splitter {
 public:
  // Shapes and room are kept by reference.
  Splitter(const Weights& shapes, const Scheme& scheme, const Room& room)
      : shapes_(shapes),
        scheme_(scheme),
        room_(room),
        n_layers_(shapes.config.n_layers),
        n_pages_(room.n_pages),
        bytes_(static_cast<size_t>(n_layers_ + 1) * static_cast<size_t>(n_layers_ + 1), -1) {
    if (room.kv_memory_bytes == 0 || n_pages_.empty()) return;
    const int64_t page = page_bytes(shapes.config, scheme.kv, kv_groups(shapes.config)[0]);
    if (page > 0) n_pages_[0] = std::min(n_pages_[0], room.kv_memory_bytes / page);
  }

  // The least of a card's usable bytes that all must have filled: more than 1 where it does not
  // fit. `parts` gets one for each card, in their order.
  double fill(std::span<const DeviceRoom> cards, std::vector<Part>& parts) {
    constexpr double kNever = std::numeric_limits<double>::infinity();
    // [cards][layers]: of the first cards with the first layers, and where the last one begins.
    std::vector<double> least(cards.size() * static_cast<size_t>(n_layers_ + 1), kNever);
    std::vector<int> begins(least.size(), 0);
    const auto at = [&](size_t card, int layers) {
      return card * static_cast<size_t>(n_layers_ + 1) + static_cast<size_t>(layers);
    };
    const auto share = [&](size_t card, int begin, int end) {
      const int64_t usable = cards[card].usable;
      if (usable <= 0) return kNever;
      return static_cast<double>(bytes(begin, end)) / static_cast<double>(usable);
    };
    for (size_t card = 0; card < cards.size(); ++card) {
      const int first = card == 0 ? 0 : 1;
      for (int end = card + 1 == cards.size() ? n_layers_ : 1; end <= n_layers_; ++end) {
        // A card that has nothing to give gets a layer all the same.
        begins[at(card, end)] = card == 0 ? 0 : std::min(static_cast<int>(card), end - 1);
        for (int begin = first; begin < (card == 0 ? 1 : end); ++begin) {
          const double before = card == 0 ? 0.0 : least[at(card - 1, begin)];
          const double filled = std::max(before, share(card, begin, end));
          if (filled < least[at(card, end)]) {
            least[at(card, end)] = filled;
            begins[at(card, end)] = begin;
          }
        }
      }
    }
    parts.resize(cards.size());
    for (size_t card = cards.size(), end = static_cast<size_t>(n_layers_); card-- > 0;) {
      const int begin = begins[at(card, static_cast<int>(end))];
      parts[card] = {begin, static_cast<int>(end), n_layers_};
      end = static_cast<size_t>(begin);
    }
    return least[at(cards.size() - 1, n_layers_)];
  }

 private:
  // That a card with these layers needs.
  int64_t bytes(int begin, int end) {
    int64_t& total = bytes_[static_cast<size_t>(begin) * static_cast<size_t>(n_layers_ + 1) +
                            static_cast<size_t>(end)];
    if (total >= 0) return total;
    const Part part = {begin, end, n_layers_};
    // Without limits there is nothing but weights.
    total = room_.limits.max_tokens > 0 ? fixed_bytes(shapes_, scheme_, part, room_.limits).total()
                                        : DeviceWeights::allocated_bytes(shapes_, scheme_, part);
    const std::vector<KvGroup> groups = kv_groups_of(shapes_.config, part);
    for (size_t g = 0; g < n_pages_.size(); ++g) {
      total += n_pages_[g] * page_bytes(shapes_.config, scheme_.kv, groups[g]);
    }
    return total;
  }

  const Weights& shapes_;
  const Scheme scheme_;
  const Room& room_;
  const int n_layers_;
  std::vector<int64_t> n_pages_;  // [group]
  std::vector<int64_t> bytes_;    // [begin][end]; -1: not counted yet
};

// For a number of layers whose experts the CPU has.
Split split_with(const Weights& shapes, Scheme scheme, int cpu_experts, const Room& room,
                 std::span<const DeviceRoom> cards, bool on_all) {
  scheme.cpu_experts = cpu_experts;
  Splitter splitter(shapes, scheme, room);
  const int n_cards = static_cast<int>(cards.size());
  const auto over = [&](std::vector<int> indices) {
    Split split;
    split.indices = std::move(indices);
    split.cpu_experts = cpu_experts;
    for (const int i : split.indices) split.cards.push_back(cards[static_cast<size_t>(i)]);
    split.fits = splitter.fill(split.cards, split.parts) <= 1.0;
    return split;
  };
  for (int i = 0; i < n_cards && (!on_all || n_cards == 1); ++i) {
    Split split = over({i});
    if (split.fits || n_cards == 1) return split;
  }
  std::vector<int> by_room(cards.size());
  std::iota(by_room.begin(), by_room.end(), 0);
  std::ranges::stable_sort(by_room, std::greater<>(),
                           [&](int i) { return cards[static_cast<size_t>(i)].usable; });
  const int most = std::min(n_cards, shapes.config.n_layers);
  for (int n = on_all ? n_cards : std::min(2, most);; ++n) {
    std::vector<int> indices(by_room.begin(), by_room.begin() + n);
    std::ranges::sort(indices);
    Split split = over(std::move(indices));
    if (split.fits || n >= most) return split;
  }
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

std::vector<KvGroup> kv_groups_of(const ModelConfig& config, const Part& part) {
  std::vector<KvGroup> groups = kv_groups(config);
  for (KvGroup& group : groups) group.n_layers = 0;
  for (int i = part.begin; i < part.end; ++i) {
    ++groups[config.is_window_layer[static_cast<size_t>(i)] ? 1 : 0].n_layers;
  }
  return groups;
}

int64_t layer_page_bytes(const ModelConfig& config, Kv kv) {
  return kv_layer_bytes(kv, config.n_kv_heads, config.head_dim);
}

int64_t page_bytes(const ModelConfig& config, Kv kv, const KvGroup& group) {
  return group.n_layers * layer_page_bytes(config, kv);
}

Split split_of(const Weights& shapes, const Scheme& scheme, const BackendOptions& options,
               std::span<const DeviceRoom> cards, bool on_all) {
  const int n_layers = shapes.config.n_layers;
  check(!on_all || static_cast<int>(cards.size()) <= n_layers, "[cuda] a model of ", n_layers,
        " layers can be split over as many devices, got ", cards.size());
  const auto split = [&](int cpu_experts) {
    return split_with(shapes, scheme, cpu_experts, options.room, cards, on_all);
  };
  Split best = split(scheme.cpu_experts);
  const bool is_open =
      options.cpu_experts == kFewestCpuExperts && options.room.limits.max_tokens > 0;
  if (best.fits || !is_open) return best;
  // The more experts the CPU has, the less the cards need.
  best = split(n_layers);
  for (int bad = 0, good = n_layers; best.fits && good - bad > 1;) {
    const int middle = bad + (good - bad) / 2;
    Split tried = split(middle);
    (tried.fits ? good : bad) = middle;
    if (tried.fits) best = std::move(tried);
  }
  return best;
}

bool fits_alone(const Weights& shapes, const Scheme& scheme, const Room& room,
                const DeviceRoom& card) {
  return split_with(shapes, scheme, scheme.cpu_experts, room, {&card, 1}, false).fits;
}

MemoryPlan plan_of(const Weights& shapes, const Scheme& scheme, const Split& split,
                   const StepLimits& limits) {
  check(scheme.act != Act::f32 ||
            int64_t{limits.max_tokens} * shapes.config.n_active <= kMostGridRows,
        "[cuda] precision=\"reference\" computes at most ", kMostGridRows / shapes.config.n_active,
        " tokens in a step, got max_step_tokens ", limits.max_tokens);
  MemoryPlan plan;
  plan.max_steps_ahead = kStepsAhead;
  plan.cpu_experts = scheme.cpu_experts;
  const auto smaller = smaller_scheme(shapes.config, scheme);
  if (smaller) plan.savings.push_back({kSmaller, {}});
  plan.page.resize(kv_groups(shapes.config).size());
  for (size_t i = 0; i < split.parts.size(); ++i) {
    const Part& part = split.parts[i];
    const FixedBytes fixed = fixed_bytes(shapes, scheme, part, limits);
    MemoryPlan::Share share{.device = split.cards[i].name,
                            .begin_layer = part.begin,
                            .end_layer = part.end,
                            .weights = fixed.weights,
                            .workspace = fixed.workspace,
                            .page = {},
                            .available = split.cards[i].usable - fixed.total()};
    for (const KvGroup& group : kv_groups_of(shapes.config, part)) {
      plan.page[share.page.size()] += page_bytes(shapes.config, scheme.kv, group);
      share.page.push_back(page_bytes(shapes.config, scheme.kv, group));
    }
    if (smaller) {
      plan.savings[0].bytes.push_back(fixed.total() -
                                      fixed_bytes(shapes, *smaller, part, limits).total());
    }
    plan.weights += share.weights;
    plan.workspace += share.workspace;
    plan.available += share.available;
    plan.shares.push_back(std::move(share));
  }
  if (plan.shares.size() == 1) plan.shares.clear();
  return plan;
}

std::string shares_text(const MemoryPlan& plan) {
  std::string text;
  for (const MemoryPlan::Share& share : plan.shares) {
    text +=
        concat(text.empty() ? "" : "; ", share.device, " has ",
               bytes_text(std::max<int64_t>(0, share.available + share.weights + share.workspace)),
               " free, and needs ", bytes_text(share.weights), " for weights of layers ",
               share.begin_layer, " to ", share.end_layer - 1, " and ", bytes_text(share.workspace),
               " of workspace");
  }
  return text;
}

void check_weights_fit(const Weights& shapes, const Scheme& scheme, const Split& split) {
  int64_t needed = 0;
  int64_t usable = 0;
  bool fits = true;
  std::string each;
  for (size_t i = 0; i < split.parts.size(); ++i) {
    const DeviceRoom& card = split.cards[i];
    const int64_t bytes = DeviceWeights::allocated_bytes(shapes, scheme, split.parts[i]);
    needed += bytes;
    usable += std::max<int64_t>(0, card.usable);
    fits = fits && bytes <= card.usable;
    each += concat(each.empty() ? "" : ", ", card.name, " needs ", bytes_text(bytes), " of ",
                   bytes_text(std::max<int64_t>(0, card.usable)));
  }
  if (fits) return;
  const bool is_split = split.parts.size() > 1;
  std::string text = concat(
      "[cuda] the weights",
      scheme.cpu_experts == 0 ? ""
                              : concat(" without the experts of ", scheme.cpu_experts, " layers"),
      " take ", bytes_text(needed), ", and ",
      is_split ? concat(split.parts.size(), " devices have") : concat(split.cards[0].name, " has"),
      " ", bytes_text(usable), " free for them", is_split ? concat(" (", each, ")") : "");
  if (const auto smaller = smaller_scheme(shapes.config, scheme)) {
    int64_t less = 0;
    for (const Part& part : split.parts) {
      less += DeviceWeights::allocated_bytes(shapes, *smaller, part);
    }
    const bool is_enough =
        split_with(shapes, *smaller, scheme.cpu_experts, Room{}, split.cards, is_split).fits;
    text += concat("; ", kSmaller, is_enough ? " fits, with " : " does not fit either, with ",
                   bytes_text(less));
  }
  throw OutOfMemory(text);
}

std::vector<DeviceRoom> rooms(std::span<const int> ordinals,
                              std::span<const int64_t> device_bytes) {
  std::vector<DeviceRoom> found;
  for (const int64_t bytes : device_bytes) {
    found.push_back({concat("cuda:", found.size()), usable_bytes(bytes - kContextBytes, bytes)});
  }
  if (!found.empty()) return found;
  std::exception_ptr first_error;
  for (const DeviceInfo& device : find_devices(ordinals)) {
    try {
      const Context context(device);
      const Context::Scope scope(context);
      found.push_back({name_of(device), usable_bytes(context.free_memory(), device.memory)});
    } catch (const std::runtime_error&) {  // as for the backend itself
      if (!ordinals.empty()) throw;
      if (!first_error) first_error = std::current_exception();
    }
  }
  if (found.empty()) std::rethrow_exception(first_error);
  return found;
}

MemoryPlan plan(const Weights& shapes, const BackendOptions& options, const StepLimits& limits,
                std::span<const DeviceRoom> rooms) {
  check(!rooms.empty(), "[cuda] no device to plan with");
  Scheme scheme = scheme_of(shapes.config, options);
  const Split split = split_of(shapes, scheme, options, rooms, !options.devices.empty());
  scheme.cpu_experts = split.cpu_experts;
  return plan_of(shapes, scheme, split, limits);
}

}  // namespace gptoss::cuda
