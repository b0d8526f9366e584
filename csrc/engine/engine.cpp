#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "backend/layers.h"
#include "core/check.h"

namespace gptoss {
namespace {

// Memory left to the rest of the process and the system when the KV cache is sized.
constexpr int64_t kReservedBytes = int64_t{1} << 30;

// Requests of full length that the KV cache has room for, unless its size was asked for.
constexpr int kDefaultFullContexts = 2;

// Guesses in a step, over all requests. Bounds their logits: 0.8 MB each with the published
// vocabulary.
constexpr int kMaxStepGuesses = 48;

// A context shorter than this is not worth starting with unless it was asked for.
constexpr int kSmallestDefaultContext = 2048;

// A request waits for another to compute their common beginning if that saves it so many tokens, or
// its whole prompt: about what a step costs in which it could have begun.
constexpr int kWorthWaitingTokens = 16;

void check_params(const SamplingParams& p, int vocab_size) {
  check(p.max_tokens >= 0, "max_tokens must be at least 1, got ", p.max_tokens);
  check(p.temperature >= 0.0f, "temperature must not be negative, got ", p.temperature);
  check(p.top_p > 0.0f && p.top_p <= 1.0f, "top_p must be in (0, 1], got ", p.top_p);
  check(p.top_k >= 0, "top_k must not be negative, got ", p.top_k);
  check(p.min_p >= 0.0f && p.min_p <= 1.0f, "min_p must be in [0, 1], got ", p.min_p);
  check(p.repetition_penalty > 0.0f, "repetition_penalty must be positive, got ",
        p.repetition_penalty);
  const auto check_id = [&](const char* name, int32_t id) {
    check(id >= 0 && id < vocab_size, name, " has id ", id, ", outside the vocabulary of ",
          vocab_size);
  };
  for (const auto& [token, bias] : p.logit_bias) check_id("logit_bias", token);
  for (const int32_t token : p.stop_token_ids) check_id("stop_token_ids", token);
}

// Flattened page tables of a step.
struct Tables {
  std::vector<int32_t> pages, offsets{0};

  void append(const std::vector<int32_t>& table) {
    pages.insert(pages.end(), table.begin(), table.end());
    offsets.push_back(static_cast<int32_t>(pages.size()));
  }
};

// The arrays behind a StepInput.
struct StepArrays {
  std::vector<int32_t> tokens, sequence_offsets{0}, first_positions, logit_rows;
  Tables full, window;

  void append(std::span<const int32_t> new_tokens, int first_position, const SequencePages& pages,
              std::span<const int32_t> draft = {}) {
    tokens.insert(tokens.end(), new_tokens.begin(), new_tokens.end());
    tokens.insert(tokens.end(), draft.begin(), draft.end());
    sequence_offsets.push_back(static_cast<int32_t>(tokens.size()));
    first_positions.push_back(first_position);
    full.append(pages.full);
    window.append(pages.window);
  }
  StepInput view() const {
    return {tokens,       sequence_offsets, first_positions, full.pages,
            full.offsets, window.pages,     window.offsets,  logit_rows};
  }
};

// Thrown between two layers to abandon a pass that nobody waits for any more.
struct Abandoned {};

int64_t gib_tenths(int64_t bytes) { return bytes * 10 / (int64_t{1} << 30); }

std::string gib(int64_t bytes) {
  const int64_t tenths = gib_tenths(bytes);
  return concat(tenths / 10, ".", tenths % 10, " GiB");
}

}  // namespace

void Rate::add(int tokens, double seconds) {
  recent_[next_++ % kRecentSteps] = {tokens, seconds};
  total_.tokens += tokens;
  total_.seconds += seconds;
}

double Rate::recent_tps() const {
  Work sum;
  for (const Work& work : recent_) {
    sum.tokens += work.tokens;
    sum.seconds += work.seconds;
  }
  return per_second(sum);
}

Engine::Engine(std::unique_ptr<Backend> backend, ModelConfig config,
               std::vector<int32_t> eos_token_ids, const EngineOptions& options)
    : backend_(std::move(backend)),
      config_(std::move(config)),
      eos_token_ids_(std::move(eos_token_ids)),
      options_(options) {
  check(options_.max_step_tokens >= 1, "max_step_tokens must be at least 1, got ",
        options_.max_step_tokens);
  check(options_.max_sequences >= 1, "max_sequences must be at least 1, got ",
        options_.max_sequences);
  check(options_.context_length >= 0 && options_.context_length <= config_.max_position_embeddings,
        "context_length must be between 1 and the model's ", config_.max_position_embeddings,
        ", got ", options_.context_length);

  const int ring = KvCache::ring_pages(config_, options_.max_step_tokens);
  const int64_t page_bytes = std::max<int64_t>(1, backend_->full_page_bytes());
  const int64_t ring_bytes = ring * backend_->window_page_bytes();
  const int64_t free_bytes = backend_->free_memory_bytes();
  const int64_t budget = options_.kv_memory_bytes > 0
                             ? options_.kv_memory_bytes
                             : std::max<int64_t>(0, free_bytes - kReservedBytes) - ring_bytes;
  const auto pages_of = [](int tokens) { return static_cast<int64_t>(KvCache::pages_for(tokens)); };
  const int64_t budget_pages = std::max<int64_t>(0, budget / page_bytes);
  if (options_.context_length == 0) {
    const int64_t wanted = pages_of(config_.max_position_embeddings);
    options_.context_length = static_cast<int>(std::min<int64_t>(
        config_.max_position_embeddings, std::min(wanted, budget_pages) * kPageTokens));
    const int smallest = std::min(kSmallestDefaultContext, config_.max_position_embeddings);
    if (options_.context_length < smallest) {
      throw OutOfMemory(concat("a context of ", smallest, " tokens takes ",
                               gib(pages_of(smallest) * page_bytes + ring_bytes),
                               " of KV cache, and only ", gib(std::max<int64_t>(0, budget)),
                               " of memory are free beside the weights"));
    }
  }
  const int64_t needed = pages_of(options_.context_length);
  if (needed > budget_pages) {
    throw OutOfMemory(concat("a context of ", options_.context_length, " tokens takes ",
                             gib(needed * page_bytes + ring_bytes), " of KV cache, and only ",
                             gib(std::max<int64_t>(0, budget)),
                             " are free for it: pass a shorter context_length, or at most ",
                             budget_pages * kPageTokens));
  }
  // Pages stay cached until they are needed, so a cache soon fills all that it may.
  const int64_t wanted = options_.kv_memory_bytes > 0 ? needed * options_.max_sequences
                                                      : needed * kDefaultFullContexts;
  const auto n_full = static_cast<int>(std::min(budget_pages, wanted));
  const int n_window = ring * (options_.max_sequences + 1);  // one for logits()
  backend_->allocate_kv(n_full, n_window);
  kv_ = std::make_unique<KvCache>(
      config_, options_.max_step_tokens, n_full, n_window,
      [this](bool window, int32_t from, int32_t to) { backend_->copy_kv_page(window, from, to); });
  publish();
}

// Only the thread in step() may look at what it changes; others see this copy.
void Engine::publish() {
  EngineStats stats = counters_;
  stats.running = static_cast<int>(running_.size());
  stats.waiting = static_cast<int>(waiting_.size());
  const int full = kv_->unused_full_pages();
  stats.full = {kv_->n_full_pages(), full, kv_->available_full_pages() - full,
                backend_->full_page_bytes()};
  const int window = kv_->unused_window_pages();
  stats.window = {kv_->n_window_pages(), window, kv_->available_window_pages() - window,
                  backend_->window_page_bytes()};
  const std::lock_guard<std::mutex> lock(inbox_mutex_);
  published_ = stats;
}

void Engine::check_prompt(std::span<const int32_t> tokens) const {
  check(!tokens.empty(), "the prompt is empty: at least one token is needed");
  for (size_t i = 0; i < tokens.size(); ++i) {
    check(tokens[i] >= 0 && tokens[i] < config_.vocab_size, "token id ", tokens[i], " at position ",
          i, " lies outside the vocabulary of ", config_.vocab_size);
  }
}

void Engine::check_request(std::span<const int32_t> prompt, const SamplingParams& params) const {
  check_prompt(prompt);
  check(prompt.size() < static_cast<size_t>(options_.context_length), "the prompt has ",
        prompt.size(), " tokens, and the context of ", options_.context_length,
        " must hold it and at least one more");
  check_params(params, config_.vocab_size);
}

void Engine::submit(int64_t id, std::vector<int32_t> prompt, SamplingParams params) {
  check_request(prompt, params);
  auto request = std::make_unique<Request>();
  request->id = id;
  request->prompt_length = static_cast<int>(prompt.size());
  for (const int32_t token : prompt) request->counts.add_prompt(token);
  if (options_.speculative) request->drafter.emplace(prompt);
  request->tokens = std::move(prompt);
  request->params = std::move(params);
  const std::lock_guard<std::mutex> lock(inbox_mutex_);
  submitted_.push_back(std::move(request));
}

void Engine::cancel(int64_t request) {
  const std::lock_guard<std::mutex> lock(inbox_mutex_);
  cancelled_.push_back(request);
}

void Engine::take_inbox() {
  const std::lock_guard<std::mutex> lock(inbox_mutex_);
  for (auto& request : submitted_) waiting_.push_back(std::move(request));
  submitted_.clear();
  const auto drop = [&](auto& requests) {
    std::erase_if(requests, [&](const auto& request) {
      const bool gone =
          std::find(cancelled_.begin(), cancelled_.end(), request->id) != cancelled_.end();
      if (gone) end(*request);
      return gone;
    });
  };
  if (!cancelled_.empty()) {
    drop(running_);
    drop(waiting_);
    cancelled_.clear();
  }
}

// Gives the pages of a request that is over back; what it has computed stays cached.
void Engine::end(Request& request) {
  if (options_.prefix_cache) {
    kv_->finish(request.pages, request.tokens, request.computed);
  } else {
    kv_->release(request.pages);
  }
}

void Engine::preempt(size_t index) {
  auto request = std::move(running_[index]);
  running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(index));
  kv_->release(request->pages);
  request->computed = 0;
  waiting_.push_front(std::move(request));
  ++counters_.preemptions;
}

// Pages for `length` tokens of a running request, taken from those admitted after it if need be.
// False if the request itself was the last and had to go.
bool Engine::make_room(Request& request, int length) {
  while (!kv_->extend(request.pages, length)) {
    const bool is_last = running_.back().get() == &request;
    preempt(running_.size() - 1);
    if (is_last) return false;
  }
  return true;
}

// Whether a running request is about to compute more of this one's beginning than is cached. That
// one never waits for anything but its turn, and this one goes on once it has it, or is gone. Those
// that overtake it meanwhile have less in common with it, so it does not wait for them next.
bool Engine::waits_for_prefix(const Request& request) const {
  if (!options_.prefix_cache) return false;
  const auto needed = std::span(request.tokens).first(request.tokens.size() - 1);
  int shared = 0;
  for (const auto& other : running_) {
    if (other->computed >= other->prompt_length) continue;
    const auto common = static_cast<int>(common_length(needed, other->tokens));
    if (common > other->computed) shared = std::max(shared, common);
  }
  if (shared == 0) return false;
  const int saved = shared - kv_->known_length(needed);
  return saved >= kWorthWaitingTokens ||
         (saved > 0 && static_cast<size_t>(shared) == needed.size());
}

std::vector<Engine::Slice> Engine::schedule() {
  int budget = options_.max_step_tokens;
  std::vector<Slice> slices;
  // Requests that are decoding come first: one token each. Then prompts, oldest first.
  for (const bool decoding : {true, false}) {
    for (size_t i = 0; i < running_.size() && budget > 0; ++i) {
      Request& request = *running_[i];
      if ((request.pending() == 1) != decoding) continue;
      const int tokens = std::min(request.pending(), budget);
      if (!make_room(request, request.computed + tokens)) break;
      budget -= tokens;
      slices.push_back({&request, tokens});
    }
  }
  // Pages that were taken back belong to requests which must not be computed now.
  std::erase_if(slices, [&](const Slice& slice) {
    return std::none_of(running_.begin(), running_.end(),
                        [&](const auto& request) { return request.get() == slice.request; });
  });
  for (size_t i = 0; i < waiting_.size() && budget > 0 &&
                     running_.size() < static_cast<size_t>(options_.max_sequences);) {
    Request& request = *waiting_[i];
    if (waits_for_prefix(request)) {
      ++i;
      continue;
    }
    if (options_.prefix_cache) request.computed = kv_->reuse(request.pages, request.tokens);
    request.pages.border = request.prompt_length;
    const int tokens = std::min(request.pending(), budget);
    // Only into free pages: an older request is never disturbed by a newer one. All pages of the
    // prompt must be there, lest two half-read prompts wait for each other's.
    const int pages = KvCache::pages_for(static_cast<int>(request.tokens.size()) + 1) -
                      static_cast<int>(request.pages.full.size());
    if (pages > kv_->available_full_pages() ||
        !kv_->extend(request.pages, request.computed + tokens)) {
      kv_->release(request.pages);
      request.computed = 0;
      break;
    }
    if (request.cached_tokens < 0) {
      request.cached_tokens = request.computed;
      counters_.cached_tokens += request.computed;
      counters_.requested_tokens += request.prompt_length;
    }
    running_.push_back(std::move(waiting_[i]));
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    budget -= tokens;
    slices.push_back({running_.back().get(), tokens});
  }
  add_drafts(slices, budget);
  return slices;
}

// Guesses take nothing from anybody: no token of the step's budget that a prompt could have, and no
// page. They end with the page of the token before them, so that a wrong guess leaves nothing but
// values that are overwritten, and no window has moved on too far.
void Engine::add_drafts(std::vector<Slice>& slices, int budget) const {
  if (!options_.speculative) return;
  StepYield step(options_.max_step_tokens - budget);
  budget = std::min(budget, kMaxStepGuesses);
  for (Slice& slice : slices) {
    const Request& request = *slice.request;
    if (request.pending() != 1) continue;
    const int length = static_cast<int>(request.tokens.size());
    int limit = std::min({budget, kPageTokens - 1 - request.computed % kPageTokens,
                          options_.context_length - length - 1});
    if (request.params.max_tokens > 0) {
      limit = std::min(limit, request.prompt_length + request.params.max_tokens - length - 1);
    }
    slice.draft = request.drafter->draft(request.tokens, limit, step);
    budget -= static_cast<int>(slice.draft.size());
  }
}

void Engine::stop_if_cancelled(std::span<const int64_t> requests) {
  const std::lock_guard<std::mutex> lock(inbox_mutex_);
  const bool all = std::all_of(requests.begin(), requests.end(), [&](int64_t request) {
    return std::find(cancelled_.begin(), cancelled_.end(), request) != cancelled_.end();
  });
  if (all) throw Abandoned{};
}

void Engine::run(const std::vector<Slice>& slices) {
  StepArrays arrays;
  std::vector<int64_t> requests;
  for (const Slice& slice : slices) {
    const Request& request = *slice.request;
    requests.push_back(request.id);
    arrays.append({request.tokens.data() + request.computed, static_cast<size_t>(slice.tokens)},
                  request.computed, request.pages, slice.draft);
    if (slice.tokens == request.pending()) {
      const int32_t end = arrays.sequence_offsets.back();
      for (auto row = end - 1 - static_cast<int32_t>(slice.draft.size()); row < end; ++row) {
        arrays.logit_rows.push_back(row);
      }
    }
  }
  logits_.resize(arrays.logit_rows.size() * static_cast<size_t>(config_.vocab_size));
  forward(*backend_, config_, arrays.view(), logits_.data(), counters_.phases,
          [&] { stop_if_cancelled(requests); });
}

FinishReason Engine::finish_of(const Request& request) const {
  const int32_t token = request.tokens.back();
  const auto contains = [&](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  if (contains(request.params.stop_token_ids) ||
      (!request.params.ignore_eos && contains(eos_token_ids_))) {
    return FinishReason::stop;
  }
  const int length = static_cast<int>(request.tokens.size());
  const int generated = length - request.prompt_length;
  if (generated == request.params.max_tokens || length == options_.context_length) {
    return FinishReason::length;
  }
  return FinishReason::none;
}

// Chooses the token after a request's last, and those after each guess, as long as the guesses are
// what is chosen. logits (1 + guesses, V).
void Engine::sample_next(const Slice& slice, float* logits, std::vector<Event>& events) {
  Request& request = *slice.request;
  const auto vocab = static_cast<size_t>(config_.vocab_size);
  counters_.drafted_tokens += static_cast<int64_t>(slice.draft.size());
  for (size_t i = 0;; ++i) {
    const auto index = request.tokens.size() - static_cast<size_t>(request.prompt_length);
    Sample chosen =
        sample({logits + i * vocab, vocab}, request.params, request.counts, uint64_t{index});
    // All but the last of the tokens are in the cache.
    request.computed = static_cast<int>(request.tokens.size());
    request.tokens.push_back(chosen.token);
    request.counts.add_output(chosen.token);
    if (request.drafter) request.drafter->push(request.tokens);
    const FinishReason finish = finish_of(request);
    events.push_back({request.id, chosen.token, finish, chosen.logprob, std::move(chosen.top),
                      request.cached_tokens});
    if (i == slice.draft.size() || chosen.token != slice.draft[i]) break;
    ++counters_.accepted_tokens;
    if (finish != FinishReason::none) break;
  }
}

std::vector<Event> Engine::step() {
  return options_.files.guard([&] { return compute_step(); });
}

std::vector<Event> Engine::compute_step() {
  const auto start = std::chrono::steady_clock::now();
  take_inbox();
  const std::vector<Slice> slices = schedule();
  std::vector<Event> events;
  if (!slices.empty()) {
    try {
      run(slices);
    } catch (const Abandoned&) {
      return {};  // nothing has been counted as computed; the next step drops the requests
    }
    size_t row = 0;
    int prompt_tokens = 0;
    for (const Slice& slice : slices) {
      Request& request = *slice.request;
      const int of_prompt = std::clamp(request.prompt_length - request.computed, 0, slice.tokens);
      prompt_tokens += of_prompt;
      request.computed += slice.tokens;
      if (request.pending() == 0) {
        sample_next(slice, logits_.data() + row * static_cast<size_t>(config_.vocab_size), events);
        row += 1 + slice.draft.size();
      }
      if (options_.prefix_cache && of_prompt > 0) {
        kv_->commit_all(request.pages, request.tokens, request.computed);
      } else if (options_.prefix_cache) {
        kv_->commit(request.pages, request.tokens, request.computed);
      }
    }
    std::erase_if(running_, [&](const auto& request) {
      const bool finished = std::any_of(events.begin(), events.end(), [&](const Event& event) {
        return event.request == request->id && event.finish != FinishReason::none;
      });
      if (finished) end(*request);
      return finished;
    });
    const auto generated = static_cast<int>(events.size());
    counters_.prompt_tokens += prompt_tokens;
    counters_.generated_tokens += generated;
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    if (prompt_tokens > 0) {
      counters_.prefill.add(prompt_tokens, spent.count());
    } else {
      counters_.decode.add(generated, spent.count());
    }
  }
  publish();
  return events;
}

bool Engine::idle() {
  const std::lock_guard<std::mutex> lock(inbox_mutex_);
  return submitted_.empty() && running_.empty() && waiting_.empty();
}

EngineStats Engine::stats() {
  const std::lock_guard<std::mutex> lock(inbox_mutex_);
  EngineStats stats = published_;
  stats.waiting += static_cast<int>(submitted_.size());
  return stats;
}

bool Engine::logits(int64_t request, std::span<const int32_t> tokens,
                    std::span<const int32_t> positions, int chunk_tokens, float* logits) {
  return options_.files.guard(
      [&] { return compute_logits(request, tokens, positions, chunk_tokens, logits); });
}

bool Engine::compute_logits(int64_t request, std::span<const int32_t> tokens,
                            std::span<const int32_t> positions, int chunk_tokens, float* logits) {
  check_prompt(tokens);
  check(tokens.size() <= static_cast<size_t>(options_.context_length), "the sequence has ",
        tokens.size(), " tokens, more than the context of ", options_.context_length);
  check(chunk_tokens >= 1 && chunk_tokens <= options_.max_step_tokens,
        "chunk_tokens must be between 1 and ", options_.max_step_tokens, ", got ", chunk_tokens);
  for (size_t i = 0; i < positions.size(); ++i) {
    check(positions[i] >= 0 && static_cast<size_t>(positions[i]) < tokens.size(),
          "positions must lie in [0, ", tokens.size(), "), got ", positions[i]);
    check(i == 0 || positions[i] > positions[i - 1], "positions must be ascending, got ",
          positions[i], " after ", positions[i == 0 ? 0 : i - 1]);
  }
  SequencePages pages;
  const struct Release {
    KvCache& kv;
    SequencePages& pages;
    ~Release() { kv.release(pages); }
  } release{*kv_, pages};
  size_t next = 0;
  for (int begin = 0; begin < static_cast<int>(tokens.size()); begin += chunk_tokens) {
    const int count = std::min(chunk_tokens, static_cast<int>(tokens.size()) - begin);
    // The cache holds a sequence of context_length tokens, so it suffices when all others are gone.
    while (!kv_->extend(pages, begin + count)) {
      if (running_.empty()) throw OutOfMemory("[logits] the KV cache is too small");
      preempt(running_.size() - 1);
    }
    StepArrays arrays;
    arrays.append(tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(count)), begin,
                  pages);
    float* const rows = logits + next * static_cast<size_t>(config_.vocab_size);
    for (; next < positions.size() && positions[next] < begin + count; ++next) {
      arrays.logit_rows.push_back(positions[next] - begin);
    }
    try {
      forward(*backend_, config_, arrays.view(), rows, counters_.phases,
              [&] { stop_if_cancelled({&request, 1}); });
    } catch (const Abandoned&) {
      return false;
    }
  }
  return true;
}

}  // namespace gptoss
