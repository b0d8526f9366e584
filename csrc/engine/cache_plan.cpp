#include "engine/cache_plan.h"

#include <algorithm>
#include <string>

#include "core/bytes_text.h"
#include "core/check.h"
#include "engine/kv_cache.h"

namespace gptoss {
namespace {

// Sequences of full length that the KV cache has room for, unless its size was asked for.
constexpr int kDefaultFullContexts = 2;

// A context shorter than this is not worth starting with unless it was asked for.
constexpr int kSmallestDefaultContext = 2048;

// Bytes of a page of the groups that see everything, and what the pages of the others take.
struct CacheBytes {
  int64_t page = 0;
  int64_t windows = 0;
};

// Why a context cannot be had where the pages that see everything may take `budget` bytes, and what
// could.
std::string too_little(int context_length, int64_t budget, const CacheBytes& bytes,
                       const MemoryPlan& memory, bool is_given) {
  const auto tokens_in = [&](int64_t free) {
    const int64_t most = KvCache::pages_for(context_length);
    return std::clamp<int64_t>(free / bytes.page, 0, most) * kPageTokens;
  };
  std::string text =
      concat("a context of ", context_length, " tokens takes ",
             bytes_text(KvCache::pages_for(context_length) * bytes.page),
             " of KV cache, and only ", bytes_text(std::max<int64_t>(0, budget)));
  const int64_t tokens = tokens_in(budget);
  const std::string shorter =
      concat(": pass a shorter context_length, at most ", tokens);
  if (is_given) {
    return text + " may be taken for it" + (tokens > 0 ? shorter : ": pass more kv_cache_memory");
  }
  text += concat(" are free for it beside ", bytes_text(memory.workspace), " of workspace, ",
                 bytes_text(bytes.windows), " of KV cache for windows");
  if (memory.weights > 0) text += concat(", ", bytes_text(memory.weights), " of weights");
  text += tokens > 0 ? shorter : ": fewer max_sequences and max_step_tokens take less";
  for (const MemoryPlan::Saving& saving : memory.savings) {
    const int64_t more = tokens_in(budget + saving.bytes);
    if (more > tokens) text += concat("; with ", saving.option, " at most ", more);
  }
  return text;
}

}  // namespace

int64_t CachePlan::bytes(const MemoryPlan& memory) const {
  int64_t total = 0;
  for (size_t g = 0; g < n_pages.size(); ++g) total += n_pages[g] * memory.page[g];
  return total;
}

StepLimits step_limits(const EngineOptions& options, int context_length) {
  return {.max_tokens = options.max_step_tokens,
          .max_sequences = options.max_sequences,
          .max_logit_rows = Engine::logit_rows(options.max_sequences),
          .max_pages_per_sequence = KvCache::pages_for(context_length)};
}

CachePlan plan_cache(const ModelConfig& config, const MemoryPlan& memory,
                     const EngineOptions& options) {
  const std::vector<KvGroup> groups = kv_groups(config);
  CachePlan plan{.context_length = options.context_length,
                 .limits = {},
                 .n_pages = std::vector<int>(groups.size()),
                 .row_pages = std::vector<int>(groups.size())};
  CacheBytes bytes;
  for (size_t g = 0; g < groups.size(); ++g) {
    if (groups[g].window == 0) {
      bytes.page += memory.page[g];
      continue;
    }
    // A place for every sequence and one to spare; and what steps in flight still hold on to.
    const int ring = KvCache::ring_pages(groups[g], options.max_step_tokens);
    const int held = options.max_steps_ahead *
                     (KvCache::pages_for(options.max_step_tokens) + options.max_sequences);
    plan.n_pages[g] = ring * (options.max_sequences + 1) + held;
    plan.row_pages[g] = ring;
    // Where unused memory takes nothing, that of one sequence counts.
    bytes.windows += (memory.is_lazy ? ring : plan.n_pages[g]) * memory.page[g];
  }
  bytes.page = std::max<int64_t>(1, bytes.page);
  const bool is_given = options.kv_memory_bytes > 0;
  const int64_t budget =
      is_given ? options.kv_memory_bytes : memory.available - bytes.windows;
  const int64_t budget_pages = std::max<int64_t>(0, budget / bytes.page);
  if (plan.context_length == 0) {
    const int64_t wanted = KvCache::pages_for(config.max_position_embeddings);
    plan.context_length = static_cast<int>(std::min<int64_t>(
        config.max_position_embeddings, std::min(wanted, budget_pages) * kPageTokens));
    const int smallest = std::min(kSmallestDefaultContext, config.max_position_embeddings);
    if (plan.context_length < smallest) {
      throw OutOfMemory(too_little(smallest, budget, bytes, memory, is_given));
    }
  }
  const int64_t needed = KvCache::pages_for(plan.context_length);
  if (needed > budget_pages) {
    throw OutOfMemory(too_little(plan.context_length, budget, bytes, memory, is_given));
  }
  // Pages stay cached until they are needed, so a cache soon fills all that it may.
  const int64_t wanted =
      is_given ? needed * options.max_sequences : needed * kDefaultFullContexts;
  for (size_t g = 0; g < groups.size(); ++g) {
    if (groups[g].window > 0) continue;
    plan.n_pages[g] = static_cast<int>(std::min(budget_pages, wanted));
    plan.row_pages[g] = static_cast<int>(needed);
  }
  if (!memory.is_lazy && plan.bytes(memory) > memory.available) {
    throw OutOfMemory(concat("a KV cache of ", bytes_text(plan.bytes(memory)),
                             " was asked for, and only ",
                             bytes_text(std::max<int64_t>(0, memory.available)),
                             " are free for it: pass a smaller kv_cache_memory, or none"));
  }
  plan.limits = step_limits(options, plan.context_length);
  return plan;
}

}  // namespace gptoss
