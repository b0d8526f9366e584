#include "engine/cache_plan.h"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "core/bytes_text.h"
#include "core/check.h"
#include "engine/kv_cache.h"

namespace gptoss {
namespace {

// Sequences of full length that the KV cache has room for, unless its size was asked for.
constexpr int kDefaultFullContexts = 2;

// A context shorter than this is not worth starting with unless it was asked for.
constexpr int kSmallestDefaultContext = 2048;

// What an open context_length leaves room for, where experts could have it instead.
constexpr int kUsualContext = 8192;

// Of a group with a window: a place for every sequence and one to spare; and what steps in flight
// still hold on to.
int pages_of_window(const KvGroup& group, const EngineOptions& options) {
  return KvCache::ring_pages(group, options.max_step_tokens) * (options.max_sequences + 1) +
         options.max_steps_ahead *
             (KvCache::pages_for(options.max_step_tokens) + options.max_sequences);
}

// Each memory that pages lie in.
std::vector<MemoryPlan::Share> shares_of(const MemoryPlan& plan) {
  if (!plan.shares.empty()) return plan.shares;
  return {{.device = "",
           .weights = plan.weights,
           .workspace = plan.workspace,
           .page = plan.page,
           .available = plan.available}};
}

class CachePlanner {
 public:
  CachePlanner(const ModelConfig& config, const std::function<MemoryPlan(const StepLimits&)>& plan,
               const EngineOptions& options)
      : longest_(config.max_position_embeddings),
        groups_(kv_groups(config)),
        plan_(plan),
        options_(options),
        first_(plan(step_limits(options, most_tokens()))) {
    for (const MemoryPlan::Share& share : shares_of(first_)) {
      Pages& pages = pages_.emplace_back();
      for (size_t g = 0; g < groups_.size(); ++g) {
        // Where unused memory takes nothing, the pages of one sequence count.
        if (groups_[g].window == 0) {
          pages.page += share.page[g];
        } else {
          pages.windows += (first_.is_lazy ? ring_pages(g) : window_pages(g)) * share.page[g];
        }
      }
      page_bytes_ += pages.page;
    }
    page_bytes_ = std::max<int64_t>(1, page_bytes_);
  }

  CachePlan make() const {
    int tokens = options_.context_length;
    if (tokens == 0) {
      tokens = std::min(longest_, longest_context(nullptr));
      const int smallest = std::min(kSmallestDefaultContext, longest_);
      if (tokens < smallest) throw OutOfMemory(too_little(smallest));
    }
    CachePlan made{.context_length = tokens,
                   .limits = step_limits(options_, tokens),
                   .memory = memory_of(tokens),
                   .n_pages = {},
                   .row_pages = {}};
    const int needed = KvCache::pages_for(tokens);
    const int64_t budget_pages = budget(made.memory).pages;
    if (needed > budget_pages) throw OutOfMemory(too_little(tokens));
    // Pages stay cached until they are needed, so a cache soon fills all that it may.
    const int64_t wanted =
        int64_t{needed} * (is_given() ? options_.max_sequences : kDefaultFullContexts);
    for (size_t g = 0; g < groups_.size(); ++g) {
      const bool sees_all = groups_[g].window == 0;
      made.n_pages.push_back(sees_all ? static_cast<int>(std::min(budget_pages, wanted))
                                      : window_pages(g));
      made.row_pages.push_back(sees_all ? needed : ring_pages(g));
    }
    if (made.memory.is_lazy) return made;
    for (const MemoryPlan::Share& share : shares_of(made.memory)) {
      int64_t bytes = 0;
      for (size_t g = 0; g < groups_.size(); ++g) bytes += made.n_pages[g] * share.page[g];
      if (bytes <= share.available) continue;
      throw OutOfMemory(concat(
          "a KV cache of ", bytes_text(made.bytes()), " was asked for",
          share.device.empty() ? ""
                               : concat(", of which ", bytes_text(bytes), " lie on ", share.device),
          ", and only ", free_text(share.available),
          " are free for it: pass a smaller kv_cache_memory, or none"));
    }
    return made;
  }

 private:
  // Of a memory: bytes of a page of the groups that see everything, and of all pages of the others.
  struct Pages {
    int64_t page = 0, windows = 0;
  };
  // Pages that see everything, and in which of the memories there is room for no more.
  struct Budget {
    int64_t pages;
    size_t tightest;
  };

  bool is_given() const { return options_.kv_memory_bytes > 0; }
  int most_tokens() const {
    return options_.context_length > 0 ? options_.context_length : longest_;
  }

  int ring_pages(size_t g) const {
    return KvCache::ring_pages(groups_[g], options_.max_step_tokens);
  }
  int window_pages(size_t g) const { return pages_of_window(groups_[g], options_); }

  // What is free changes while other programs run: it is what it was first.
  MemoryPlan memory_of(int tokens) const {
    MemoryPlan memory = plan_(step_limits(options_, tokens));
    if (memory.shares.size() != first_.shares.size()) {
      throw BackendError("what is free on the devices changed while it was planned: try again");
    }
    memory.available = first_.available + first_.workspace - memory.workspace;
    for (size_t i = 0; i < memory.shares.size(); ++i) {
      const MemoryPlan::Share& first = first_.shares[i];
      memory.shares[i].available = first.available + first.workspace - memory.shares[i].workspace;
    }
    return memory;
  }

  // `more`: bytes that each memory has beside; null: none.
  Budget budget(const MemoryPlan& memory, const std::vector<int64_t>* more = nullptr) const {
    if (is_given()) return {options_.kv_memory_bytes / page_bytes_, 0};
    const std::vector<MemoryPlan::Share> shares = shares_of(memory);
    Budget least = {std::numeric_limits<int64_t>::max(), 0};
    for (size_t i = 0; i < shares.size(); ++i) {
      const int64_t bytes = shares[i].available + (more == nullptr ? 0 : (*more)[i]);
      const int64_t pages =
          std::max<int64_t>(0, bytes - pages_[i].windows) / std::max<int64_t>(1, pages_[i].page);
      if (pages < least.pages) least = {pages, i};
    }
    return least;
  }

  // In whole pages, where there were so many bytes more; 0 if none fits.
  int longest_context(const std::vector<int64_t>* more) const {
    int good = 0;
    for (int bad = KvCache::pages_for(most_tokens()) + 1; bad - good > 1;) {
      const int pages = good + (bad - good) / 2;
      (pages <= budget(memory_of(pages * kPageTokens), more).pages ? good : bad) = pages;
    }
    return good * kPageTokens;
  }

  static std::string free_text(int64_t bytes) { return bytes_text(std::max<int64_t>(0, bytes)); }

  // Why a context cannot be had, and what could.
  std::string too_little(int tokens) const {
    const MemoryPlan memory = memory_of(tokens);
    const size_t tightest = budget(memory).tightest;
    const MemoryPlan::Share share = shares_of(memory)[tightest];
    const Pages& pages = pages_[tightest];
    const bool is_part = !is_given() && !share.device.empty();
    std::string text =
        concat("a context of ", tokens, " tokens takes ",
               bytes_text(KvCache::pages_for(tokens) * (is_given() ? page_bytes_ : pages.page)),
               " of KV cache", is_part ? concat(" on ", share.device) : "", ", and only ",
               free_text(is_given() ? options_.kv_memory_bytes : share.available - pages.windows));
    if (is_given()) {
      text += " may be taken for it";
    } else {
      text += concat(" are free for it beside ", bytes_text(share.workspace), " of workspace, ",
                     bytes_text(pages.windows), " of KV cache for windows");
      if (share.weights > 0) text += concat(", ", bytes_text(share.weights), " of weights");
    }
    const int fits = longest_context(nullptr);
    text += fits > 0     ? concat(": pass a shorter context_length, at most ", fits)
            : is_given() ? ": pass more kv_cache_memory"
                         : ": no context fits; fewer max_sequences and max_step_tokens take less";
    for (const MemoryPlan::Saving& saving : memory.savings) {
      const int more = longest_context(is_given() ? nullptr : &saving.bytes);
      if (more > fits) text += concat("; with ", saving.option, " at most ", more);
    }
    return text;
  }

  const int longest_;  // the model's own limit
  const std::vector<KvGroup> groups_;
  const std::function<MemoryPlan(const StepLimits&)>& plan_;
  const EngineOptions& options_;
  const MemoryPlan first_;    // of the longest context that may be had
  std::vector<Pages> pages_;  // of each memory
  int64_t page_bytes_ = 0;    // of a page of the groups that see everything, in all of them
};

}  // namespace

int64_t CachePlan::bytes() const {
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

void check_options(const ModelConfig& config, const EngineOptions& options) {
  check(options.max_step_tokens >= 1, "max_step_tokens must be at least 1, got ",
        options.max_step_tokens);
  check(options.max_sequences >= 1, "max_sequences must be at least 1, got ",
        options.max_sequences);
  check(options.context_length >= 0 && options.context_length <= config.max_position_embeddings,
        "context_length must be between 1 and the model's ", config.max_position_embeddings,
        ", got ", options.context_length);
}

Room room_of(const ModelConfig& config, const EngineOptions& options) {
  check_options(config, options);
  EngineOptions asked = options;
  // No device takes more.
  if (asked.max_steps_ahead < 0) asked.max_steps_ahead = asked.speculative ? 0 : 1;
  const int longest =
      asked.context_length > 0 ? asked.context_length : config.max_position_embeddings;
  const int usual = asked.context_length > 0 ? longest : std::min(kUsualContext, longest);
  Room room = {
      .limits = step_limits(asked, longest),
      .n_pages = {},
      .kv_memory_bytes = asked.kv_memory_bytes,
      .check_kv_cache = [config, asked](const auto& plan) { plan_cache(config, plan, asked); }};
  const int64_t pages = asked.kv_memory_bytes > 0
                            ? int64_t{KvCache::pages_for(longest)} * asked.max_sequences
                            : KvCache::pages_for(usual);
  for (const KvGroup& group : kv_groups(config)) {
    room.n_pages.push_back(group.window > 0 ? pages_of_window(group, asked) : pages);
  }
  return room;
}

CachePlan plan_cache(const ModelConfig& config,
                     const std::function<MemoryPlan(const StepLimits&)>& plan,
                     const EngineOptions& options) {
  return CachePlanner(config, plan, options).make();
}

}  // namespace gptoss
