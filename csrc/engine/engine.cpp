#include "engine/engine.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <utility>

#include "core/check.h"
#include "engine/cache_plan.h"

namespace gptoss {
namespace {

// Rows of logits in a step beside one for every sequence: for guesses, and for texts that are
// scored. Bounds their logits: 0.8 MB each with the published vocabulary.
constexpr int kExtraLogitRows = 64;

void check_params(const RequestParams& p, int vocab_size) {
  const ops::SamplingRule& rule = p.rule;
  check(p.stop.max_tokens >= -1, "max_tokens must not be negative, got ", p.stop.max_tokens);
  check(
      p.stop.max_tokens != 0 || p.prompt_logprobs >= 0,
      "max_tokens must be at least 1, got 0: only a prompt that is scored (prompt_logprobs) needs "
      "no tokens");
  check(p.stop.min_tokens >= 0, "min_tokens must not be negative, got ", p.stop.min_tokens);
  check(p.stop.max_tokens < 0 || p.stop.min_tokens <= p.stop.max_tokens,
        "min_tokens must be at most max_tokens, ", p.stop.max_tokens, ", got ", p.stop.min_tokens);
  check(rule.temperature >= 0.0f, "temperature must not be negative, got ", rule.temperature);
  check(rule.top_p > 0.0f && rule.top_p <= 1.0f, "top_p must be in (0, 1], got ", rule.top_p);
  check(rule.top_k >= 0, "top_k must not be negative, got ", rule.top_k);
  check(rule.min_p >= 0.0f && rule.min_p <= 1.0f, "min_p must be in [0, 1], got ", rule.min_p);
  check(rule.repetition_penalty > 0.0f, "repetition_penalty must be positive, got ",
        rule.repetition_penalty);
  const auto check_logprobs = [](const char* name, int count) {
    check(count >= -1 && count <= kMaxLogprobs, name, " must be from 0 to ", kMaxLogprobs, ", got ",
          count);
  };
  check_logprobs("logprobs", rule.n_logprobs);
  check_logprobs("prompt_logprobs", p.prompt_logprobs);
  const auto check_id = [&](const char* name, int32_t id) {
    check(id >= 0 && id < vocab_size, name, " has id ", id, ", outside the vocabulary of ",
          vocab_size);
  };
  for (const TokenBias& bias : p.biases) check_id("logit_bias", bias.token);
  for (const int32_t token : p.stop.token_ids) check_id("stop_token_ids", token);
  for (const int32_t token : p.allowed_token_ids) check_id("allowed_token_ids", token);
}

// Of ascending values, those in [begin, end).
std::span<const int32_t> within(std::span<const int32_t> values, int begin, int end) {
  const auto first = std::lower_bound(values.begin(), values.end(), begin);
  return {first, std::lower_bound(first, values.end(), end)};
}

void check_ascending(const char* name, std::span<const int32_t> values, size_t count) {
  for (size_t i = 0; i < values.size(); ++i) {
    check(values[i] >= 0 && static_cast<size_t>(values[i]) < count, name, " must lie in [0, ",
          count, "), got ", values[i]);
    check(i == 0 || values[i] > values[i - 1], name, " must be ascending, got ", values[i],
          " after ", values[i == 0 ? 0 : i - 1]);
  }
}

// Null: its sequence is not traced.
const Trace* trace_of(const Slice& slice) {
  const ReadTarget* const target = slice.sequence->target.get();
  return target != nullptr && target->trace.has_value() ? &*target->trace : nullptr;
}

// Positions of a slice that its sequence is traced at.
std::span<const int32_t> traced(const Slice& slice) {
  const Trace* const trace = trace_of(slice);
  if (trace == nullptr) return {};
  return within(trace->positions, slice.first, slice.first + slice.tokens);
}

// The arrays behind a StepInput.
struct StepArrays {
  std::vector<int32_t> tokens, sequence_offsets{0}, first_positions, slots, adapters, logit_rows;
  std::vector<std::vector<int32_t>> kept_rows;
  std::vector<Keep> keeps;
  std::vector<Steer> steers;

  void append(const Slice& slice) {
    const Sequence& sequence = *slice.sequence;
    const auto begin = static_cast<int32_t>(tokens.size());
    for (int p = slice.first; p < slice.first + slice.tokens; ++p) {
      const bool known = static_cast<size_t>(p) < sequence.tokens.size();
      tokens.push_back(known ? sequence.tokens[static_cast<size_t>(p)] : kLastSampled);
    }
    for (const int32_t position : slice.scored) {
      logit_rows.push_back(begin + position - slice.first);
    }
    if (slice.samples) logit_rows.push_back(static_cast<int32_t>(tokens.size()) - 1);
    for (const int32_t guess : slice.draft) {
      logit_rows.push_back(static_cast<int32_t>(tokens.size()));
      tokens.push_back(guess);
    }
    if (const auto positions = traced(slice); !positions.empty()) {
      std::vector<int32_t>& rows = kept_rows.emplace_back();
      for (const int32_t position : positions) rows.push_back(begin + position - slice.first);
      const Trace& trace = *trace_of(slice);
      keeps.push_back({.rows = rows,
                       .layers = trace.layers,
                       .activations = trace.activations,
                       .keys = trace.keys});
    }
    for (const Steering& steering : sequence.params->steering) {
      steers.push_back({.sequence = static_cast<int32_t>(slots.size()),
                        .layer = steering.layer,
                        .vector = steering.vector.data()});
    }
    sequence_offsets.push_back(static_cast<int32_t>(tokens.size()));
    first_positions.push_back(slice.first);
    slots.push_back(sequence.slot);
    adapters.push_back(sequence.params->adapter);
  }
  StepInput view(const BlockTables& tables) const {
    return {tokens,     sequence_offsets, first_positions, slots, adapters,
            logit_rows, &tables,          keeps,           steers};
  }
};

std::vector<TokenLogprob> alternatives(const ops::SampledRow& row) {
  return {row.top, row.top + row.n_top};
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
      groups_(kv_groups(config_)),
      options_(options) {
  check_options(config_, options_);
  check(!options_.speculative || backend_->traits().drafts,
        "this device verifies no guesses: speculation cannot be had");
  const int most_ahead = backend_->traits().max_steps_ahead;
  // Guesses are made from a text whose last token is known.
  const int wanted = options_.speculative ? 0 : most_ahead;
  options_.max_steps_ahead =
      options_.max_steps_ahead < 0 ? wanted : std::min(options_.max_steps_ahead, most_ahead);
  size_pages();
  publish();
}

Engine::~Engine() = default;

int Engine::logit_rows(int max_sequences) { return max_sequences + kExtraLogitRows; }

void Engine::size_pages() {
  const CachePlan cache = plan_cache(
      config_, [this](const StepLimits& limits) { return backend_->plan(limits); }, options_);
  memory_ = cache.memory;
  options_.context_length = cache.context_length;
  options_.files.guard([&] {
    backend_->prepare(cache.limits, cache.n_pages);
    return true;
  });
  tables_ = std::make_unique<BlockTables>(options_.max_sequences, cache.row_pages);
  kv_ =
      std::make_unique<KvCache>(groups_, options_.max_step_tokens, cache.n_pages,
                                [this](const PageCopy& copy) { backend_->copy_pages({&copy, 1}); });
  if (options_.speculative) drafts_ = std::make_unique<NgramDrafts>();
  scheduler_ =
      std::make_unique<Scheduler>(SchedulerOptions{.limits = cache.limits,
                                                   .context_length = options_.context_length,
                                                   .prefix_cache = options_.prefix_cache,
                                                   .cost = backend_->cost()},
                                  *kv_, drafts_.get());
}

// Only the thread in step() may look at what it changes; others see this copy.
void Engine::publish() {
  EngineStats stats = counters_;
  stats.running = static_cast<int>(scheduler_->running().size());
  stats.waiting = static_cast<int>(scheduler_->waiting().size() + held_.size());
  stats.preemptions = scheduler_->preemptions;
  stats.requested_tokens = scheduler_->requested_tokens;
  stats.cached_tokens = scheduler_->cached_tokens;
  for (int g = 0; g < kv_->n_groups(); ++g) {
    const int unused = kv_->unused_pages(g);
    stats.pages.push_back({kv_->n_pages(g), unused, kv_->available_pages(g) - unused,
                           memory_.page[static_cast<size_t>(g)]});
  }
  const PhaseSeconds computed = backend_->phase_seconds();
  for (size_t i = 0; i < computed.size(); ++i) stats.phases[i] += computed[i];
  const std::lock_guard<std::mutex> lock(inbox_mutex_);
  published_ = std::move(stats);
}

void Engine::check_prompt(std::span<const int32_t> tokens) const {
  check(!tokens.empty(), "the prompt is empty: at least one token is needed");
  for (size_t i = 0; i < tokens.size(); ++i) {
    check(tokens[i] >= 0 && tokens[i] < config_.vocab_size, "token id ", tokens[i], " at position ",
          i, " lies outside the vocabulary of ", config_.vocab_size);
  }
}

void Engine::check_request(std::span<const int32_t> prompt, const RequestParams& params) const {
  check_prompt(prompt);
  const auto room = static_cast<size_t>(options_.context_length);
  if (params.stop.max_tokens == 0) {
    check(prompt.size() <= room, "the prompt has ", prompt.size(),
          " tokens, more than the context of ", options_.context_length);
  } else {
    check(prompt.size() < room, "the prompt has ", prompt.size(), " tokens, and the context of ",
          options_.context_length, " must hold it and at least one more");
  }
  check_params(params, config_.vocab_size);
  check_changes(params);
  const std::lock_guard<std::mutex> lock(inbox_mutex_);
  check_adapter(params.adapter);
}

// With the lock.
void Engine::check_adapter(int adapter) const {
  check(adapter == 0 || adapters_.contains(adapter), "there is no adapter ", adapter,
        ", or it was removed");
}

// What changes the model for a request.
void Engine::check_changes(const RequestParams& params) const {
  check(params.steering.empty() || backend_->traits().steers,
        "this device cannot steer: load the model on one that can, such as 'cpu'");
  std::vector<int32_t> layers;
  for (const Steering& steering : params.steering) {
    layers.push_back(steering.layer);
    check(steering.vector.size() == static_cast<size_t>(config_.hidden_size), "steer has ",
          steering.vector.size(), " numbers for layer ", steering.layer, ", expected hidden_size, ",
          config_.hidden_size);
  }
  check_ascending("layers of steer", layers, static_cast<size_t>(config_.n_layers));
}

void Engine::add_to_inbox(std::unique_ptr<Sequence> sequence) {
  const std::lock_guard<std::mutex> lock(inbox_mutex_);
  check_adapter(sequence->params->adapter);  // it may have been removed since
  submitted_.push_back(std::move(sequence));
}

void Engine::add_adapter(int64_t sequence, int adapter, std::shared_ptr<const Adapter> weights) {
  check(adapter >= 1, "an adapter's id must be at least 1, got ", adapter);
  if (!backend_->traits().adapters) {
    throw BackendError(concat("this device has no adapters: ", backend_->description()));
  }
  const std::lock_guard<std::mutex> lock(inbox_mutex_);
  check(adapters_.insert(adapter).second, "there is an adapter ", adapter, " already");
  new_adapters_.push_back({sequence, adapter, std::move(weights)});
}

void Engine::remove_adapter(int adapter) {
  const std::lock_guard<std::mutex> lock(inbox_mutex_);
  if (adapters_.erase(adapter) > 0) removed_adapters_.push_back(adapter);
}

// Lets go of removed adapters that no sequence has.
void Engine::drop_adapters() {
  if (leaving_adapters_.empty()) return;
  std::unordered_set<int> used;
  for (const auto& sequence : scheduler_->running()) used.insert(sequence->params->adapter);
  for (const auto& sequence : scheduler_->waiting()) used.insert(sequence->params->adapter);
  for (const Held& held : held_) used.insert(held.sequence->params->adapter);
  std::erase_if(leaving_adapters_, [&](int adapter) {
    if (used.contains(adapter)) return false;
    backend_->remove_adapter(adapter);
    return true;
  });
}

bool Engine::ends_with(const RequestParams& params, int32_t token) const {
  const auto contains = [&](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  return contains(params.stop.token_ids) || (!params.stop.ignore_eos && contains(eos_token_ids_));
}

void Engine::submit(int64_t id, std::vector<int32_t> prompt,
                    std::shared_ptr<const RequestParams> params, uint64_t seed, bool constrained,
                    int stored_pages) {
  check_request(prompt, *params);
  check(!constrained || constraints_ != nullptr, "nobody decides on constrained sequences");
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  sequence->prompt_length = static_cast<int>(prompt.size());
  sequence->tokens = std::move(prompt);
  sequence->rule = params->rule;
  sequence->rule.seed = seed;
  sequence->constrained = constrained;
  sequence->stored_pages = stored_pages;
  const StopRule& stop = params->stop;
  if (!params->allowed_token_ids.empty() || stop.min_tokens > 0) {
    const size_t words = mask_words(config_.vocab_size);
    auto allowed = std::make_shared<std::vector<uint32_t>>(
        words, params->allowed_token_ids.empty() ? ~uint32_t{0} : 0);
    const auto word = [](std::vector<uint32_t>& mask, int32_t token) -> uint32_t& {
      return mask[static_cast<size_t>(token) / 32];
    };
    for (const int32_t token : params->allowed_token_ids) {
      word(*allowed, token) |= uint32_t{1} << (token % 32);
    }
    auto unending = std::make_shared<std::vector<uint32_t>>(*allowed);
    const auto forbid = [&](const std::vector<int32_t>& tokens) {
      for (const int32_t token : tokens) word(*unending, token) &= ~(uint32_t{1} << (token % 32));
    };
    forbid(stop.token_ids);
    if (!stop.ignore_eos) forbid(eos_token_ids_);
    if (!params->allowed_token_ids.empty()) sequence->allowed_mask = std::move(allowed);
    if (stop.min_tokens > 0) sequence->unending_mask = std::move(unending);
  }
  sequence->params = std::move(params);
  add_to_inbox(std::move(sequence));
}

void Engine::submit_read(int64_t id, std::vector<int32_t> tokens, ReadTarget target,
                         std::shared_ptr<const RequestParams> params) {
  check_prompt(tokens);
  check(tokens.size() <= static_cast<size_t>(options_.context_length), "the sequence has ",
        tokens.size(), " tokens, more than the context of ", options_.context_length);
  check(target.chunk_tokens >= 1 && target.chunk_tokens <= options_.max_step_tokens,
        "chunk_tokens must be between 1 and ", options_.max_step_tokens, ", got ",
        target.chunk_tokens);
  check_ascending("positions", target.positions, tokens.size());
  if (target.trace) {
    check(backend_->traits().reads,
          "this device cannot be looked into: load the model on one that can, such as 'cpu'");
    check_ascending("positions", target.trace->positions, tokens.size());
    check_ascending("layers", target.trace->layers, static_cast<size_t>(config_.n_layers));
  }
  check_changes(*params);
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  sequence->prompt_length = static_cast<int>(tokens.size());
  sequence->tokens = std::move(tokens);
  sequence->params = std::move(params);
  sequence->target = std::make_unique<ReadTarget>(std::move(target));
  add_to_inbox(std::move(sequence));
}

void Engine::cancel(int64_t id) {
  const std::lock_guard<std::mutex> lock(inbox_mutex_);
  cancelled_.insert(id);
  if (!computing_.empty() && std::all_of(computing_.begin(), computing_.end(), [&](int64_t other) {
        return cancelled_.contains(other);
      })) {
    abandon_.store(true, std::memory_order_relaxed);
  }
}

void Engine::take_inbox(std::vector<Event>& events) {
  std::vector<std::unique_ptr<Sequence>> submitted;
  std::unordered_set<int64_t> cancelled;
  std::vector<NewAdapter> new_adapters;
  {
    const std::lock_guard<std::mutex> lock(inbox_mutex_);
    submitted.swap(submitted_);
    cancelled.swap(cancelled_);
    new_adapters.swap(new_adapters_);
    leaving_adapters_.insert(leaving_adapters_.end(), removed_adapters_.begin(),
                             removed_adapters_.end());
    removed_adapters_.clear();
  }
  for (const NewAdapter& adapter : new_adapters) {
    Event event;
    event.sequence = adapter.sequence;
    event.finish = FinishReason::stop;
    try {
      backend_->add_adapter(adapter.id, adapter.weights);
    } catch (const std::exception& error) {
      event.finish = FinishReason::error;
      event.error = error.what();
      const std::lock_guard<std::mutex> lock(inbox_mutex_);
      adapters_.erase(adapter.id);
      std::erase(leaving_adapters_, adapter.id);
    }
    events.push_back(std::move(event));
  }
  std::vector<Accepted> beginning;
  for (auto& sequence : submitted) {
    ++counters_.submitted_sequences;
    if (drafts_ && sequence->target == nullptr) drafts_->begin(sequence->id, sequence->tokens);
    sequences_[sequence->id] = sequence.get();
    if (sequence->constrained && !cancelled.contains(sequence->id)) {
      beginning.push_back({sequence->id, {}});
    }
    if (store_ != nullptr && unknown_from(*sequence) >= 0) {
      held_.push_back({.sequence = std::move(sequence)});
      held_changed_ = true;
    } else {
      scheduler_->add(std::move(sequence));
    }
  }
  for (const int64_t id : cancelled) {
    if (const auto entry = sequences_.find(id); entry != sequences_.end()) {
      end(*entry->second, FinishReason::abort, events);
    }
  }
  if (!beginning.empty()) ask(beginning, events);
}

// The first page of its prompt that the cache lacks and the store may have; -1: there is none.
int Engine::unknown_from(const Sequence& sequence) const {
  const int pages = std::min(sequence.stored_pages, sequence.prompt_length / kPageTokens);
  if (!options_.prefix_cache || !sequence.is_cacheable() || pages == 0) return -1;
  // The last token is computed in any case.
  const int needed = sequence.prompt_length - 1;
  const int known = kv_->known_length(std::span(sequence.tokens).first(static_cast<size_t>(needed)),
                                      sequence.params->salt);
  return known < std::min(pages * kPageTokens, needed) ? known / kPageTokens : -1;
}

// Pages that a store has found go into the cache. Who asked for them can run when all are there.
void Engine::take_found() {
  std::deque<FoundPages> all;
  {
    const std::lock_guard<std::mutex> lock(inbox_mutex_);
    all.swap(found_);
  }
  for (const FoundPages& found : all) {
    store_->taken();
    const auto held = std::find_if(held_.begin(), held_.end(), [&](const Held& other) {
      return other.sequence->id == found.sequence;
    });
    if (held == held_.end()) continue;  // cancelled
    const Sequence& sequence = *held->sequence;
    const auto prompt =
        std::span(sequence.tokens).first(static_cast<size_t>(sequence.prompt_length));
    const auto places = kv_->adopt(prompt, sequence.params->salt, found.refs);
    for (size_t p = 0; p < places.size(); ++p) {
      if (places[p] < 0) continue;
      backend_->write_pages(found.refs[p].group, {&places[p], 1}, found.bytes[p].data());
    }
    if (!found.is_last) continue;
    scheduler_->add(std::move(held->sequence));
    held_.erase(held);
    held_changed_ = true;
  }
}

// Asks the store about those that are held, unless another one's answer will do: then they wait.
void Engine::seek_held() {
  if (!std::exchange(held_changed_, false)) return;
  for (auto held = held_.begin(); held != held_.end();) {
    if (held->is_sought) {
      ++held;
      continue;
    }
    const Sequence& sequence = *held->sequence;
    const int first_page = unknown_from(sequence);
    if (first_page < 0) {
      scheduler_->add(std::move(held->sequence));
      held = held_.erase(held);
      continue;
    }
    const auto prompt =
        std::span(sequence.tokens).first(static_cast<size_t>(sequence.prompt_length));
    const bool waits = std::any_of(held_.begin(), held_.end(), [&](const Held& other) {
      return other.is_sought && other.sequence->params->salt == sequence.params->salt &&
             common_length(prompt, other.sequence->tokens) >=
                 static_cast<size_t>(first_page + 1) * kPageTokens;
    });
    if (!waits) {
      held->is_sought = true;
      store_->find(sequence.id, prompt, sequence.params->salt, first_page);
    }
    ++held;
  }
}

// Copies pages that the store has room for.
void Engine::give_wanted() {
  std::deque<WantedPages> all;
  {
    const std::lock_guard<std::mutex> lock(inbox_mutex_);
    all.swap(wanted_);
  }
  for (const WantedPages& wanted : all) {
    const auto places = kv_->places_of(wanted.tokens, wanted.salt, wanted.refs);
    std::vector<PageBytes> pages(places.size());
    for (size_t p = 0; p < places.size(); ++p) {
      if (places[p] < 0) continue;
      const int group = wanted.refs[p].group;
      pages[p].size = static_cast<size_t>(memory_.page[static_cast<size_t>(group)]);
      pages[p].data = std::make_unique_for_overwrite<uint8_t[]>(pages[p].size);
      backend_->read_pages(group, {&places[p], 1}, pages[p].data.get());
    }
    store_->put(std::move(pages));
  }
}

// Tells the store what there is of a text.
void Engine::offer(std::span<const int32_t> tokens, uint64_t salt) {
  if (store_ == nullptr) return;
  const auto complete = tokens.first(tokens.size() / kPageTokens * kPageTokens);
  const std::vector<PageRef> refs = kv_->worth_storing(complete, salt);
  if (!refs.empty()) store_->offer(complete, salt, refs);
}

void Engine::check_page(const PageRef& ref) const {
  check(ref.page >= 0 && ref.group >= 0 && ref.group < kv_->n_groups(), "no page ", ref.page,
        " of KV group ", ref.group, ": there are ", kv_->n_groups(), " groups");
}

void Engine::deliver(FoundPages found) {
  check(found.refs.size() == found.bytes.size(), found.refs.size(), " pages came with ",
        found.bytes.size(), " contents");
  for (size_t p = 0; p < found.refs.size(); ++p) {
    check_page(found.refs[p]);
    const int64_t expected = memory_.page[static_cast<size_t>(found.refs[p].group)];
    check(found.bytes[p].size() == static_cast<size_t>(expected), "a page of group ",
          found.refs[p].group, " has ", expected, " bytes, got ", found.bytes[p].size());
  }
  const std::lock_guard<std::mutex> lock(inbox_mutex_);
  found_.push_back(std::move(found));
}

void Engine::want(WantedPages wanted) {
  for (const PageRef& ref : wanted.refs) check_page(ref);
  const std::lock_guard<std::mutex> lock(inbox_mutex_);
  wanted_.push_back(std::move(wanted));
}

Event Engine::event_of(const Sequence& sequence) const {
  Event event;
  event.sequence = sequence.id;
  event.cached_tokens = std::max(0, sequence.cached_tokens);
  return event;
}

// Its last event is made; its pages and its slot go back once no step in flight uses them.
void Engine::end(Sequence& sequence, FinishReason reason, std::vector<Event>& events,
                 std::string error) {
  sequence.ended = true;
  sequence.keeps_pages = reason != FinishReason::error;
  sequences_.erase(sequence.id);
  if (drafts_ && sequence.target == nullptr) drafts_->end(sequence.id);
  // The event of its last tokens says so, if there is one.
  if (events.empty() || events.back().sequence != sequence.id) events.push_back(event_of(sequence));
  events.back().finish = reason;
  events.back().error = std::move(error);
  if (sequence.in_flight == 0) retire(sequence);
}

void Engine::retire(Sequence& sequence) {
  if (std::erase_if(held_, [&](const Held& held) { return held.sequence.get() == &sequence; })) {
    held_changed_ = true;
    return;
  }
  if (sequence.slot >= 0 && !fatal_) backend_->close_slot(sequence.slot);
  std::vector<int32_t> kept;  // of the text, to be offered once its last pages are cached
  if (store_ != nullptr && options_.prefix_cache && sequence.keeps_pages &&
      sequence.target == nullptr && sequence.computed >= kPageTokens) {
    kept.assign(sequence.tokens.begin(), sequence.tokens.begin() + sequence.computed);
  }
  const uint64_t salt = sequence.params->salt;
  scheduler_->remove(sequence, sequence.keeps_pages);
  if (!kept.empty()) offer(kept, salt);
}

void Engine::launch(StepPlan plan) {
  for (const int slot : plan.closed_slots) backend_->close_slot(slot);
  for (const Sequence* sequence : plan.opened) {
    const auto tokens = std::span<const int32_t>(sequence->tokens);
    const auto length = static_cast<size_t>(sequence->prompt_length);
    backend_->open_slot(sequence->slot, tokens.first(length), tokens.subspan(length));
  }
  StepArrays arrays;
  for (const Slice& slice : plan.slices) {
    arrays.append(slice);
    for (int g = 0; g < kv_->n_groups(); ++g) {
      tables_->assign(g, slice.sequence->slot,
                      slice.sequence->pages.tables[static_cast<size_t>(g)]);
    }
  }
  {
    const std::lock_guard<std::mutex> lock(inbox_mutex_);
    for (const Slice& slice : plan.slices) computing_.push_back(slice.sequence->id);
    abandon_.store(std::all_of(computing_.begin(), computing_.end(),
                               [&](int64_t id) { return cancelled_.contains(id); }),
                   std::memory_order_relaxed);
  }
  const StepId id = backend_->submit(arrays.view(*tables_), abandon_);
  tables_->clear_dirty();
  kv_->submitted(id);
  Scheduler::advance(plan);
  read(id, plan);
  flights_.push_back({.id = id, .plan = std::move(plan), .rows = {}, .rows_of_slice = {}});
}

// Has the logits and the activations of a step copied to where they are wanted.
void Engine::read(StepId step, const StepPlan& plan) {
  int keep = 0;
  for (const Slice& slice : plan.slices) {
    const ReadTarget* const target = slice.sequence->target.get();
    if (target == nullptr) continue;
    if (!slice.scored.empty()) {
      const auto& wanted = target->positions;
      const auto place =
          std::lower_bound(wanted.begin(), wanted.end(), slice.scored.front()) - wanted.begin();
      backend_->read_logits(step, slice.first_row, static_cast<int>(slice.scored.size()),
                            target->logits + place * config_.vocab_size);
    }
    const auto positions = traced(slice);
    if (positions.empty()) continue;
    const Trace& trace = *trace_of(slice);
    const int64_t place = positions.data() - trace.positions.data();
    for (size_t l = 0; l < trace.layers.size(); ++l) {
      for (int a = 0; a < kActivations; ++a) {
        const auto activation = static_cast<Activation>(a);
        uint8_t* const array = trace.arrays[l][static_cast<size_t>(a)];
        if (array == nullptr) continue;
        const int layer = trace.layers[l];
        backend_->read(step, keep, activation, layer,
                       array + place * activation_bytes(config_, activation, layer, trace.keys));
      }
    }
    ++keep;
  }
}

// Whether everything is known that its masks depend on.
bool Engine::can_sample(const Flight& flight) const {
  return std::none_of(flight.plan.slices.begin(), flight.plan.slices.end(), [](const Slice& slice) {
    const Sequence& sequence = *slice.sequence;
    const int unseen = sequence.ahead - 1;  // tokens before the one that is to be chosen
    return slice.samples && sequence.constrained && !sequence.ended && unseen > 0 &&
           sequence.free <= unseen;
  });
}

void Engine::sample(Flight& flight, std::vector<Event>& events) {
  const size_t words = mask_words(config_.vocab_size);
  // Masks of constrained sequences come first, as they are filled together.
  std::vector<int64_t> masked;
  std::vector<size_t> masked_slices;
  for (size_t s = 0; s < flight.plan.slices.size(); ++s) {
    const Slice& slice = flight.plan.slices[s];
    const Sequence& sequence = *slice.sequence;
    if (slice.samples && !sequence.ended && sequence.constrained &&
        sequence.free <= sequence.ahead - 1) {
      masked.push_back(sequence.id);
      masked_slices.push_back(s);
    }
  }
  std::vector<uint32_t> masks(masked.size() * words, ~uint32_t{0});
  std::vector<int> mask_of_slice(flight.plan.slices.size(), -1);
  if (!masked.empty()) {
    const auto start = std::chrono::steady_clock::now();
    auto errors = constraints_->fill(masked, masks, words);
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    counters_.phases[static_cast<size_t>(Phase::constrain)] += spent.count();
    for (size_t i = 0; i < masked.size(); ++i) {
      Sequence& sequence = *flight.plan.slices[masked_slices[i]].sequence;
      mask_of_slice[masked_slices[i]] = static_cast<int>(i);
      if (!errors[i].empty()) {
        events.push_back(event_of(sequence));
        end(sequence, FinishReason::error, events, std::move(errors[i]));
      }
    }
  }
  std::vector<TokenBias> biases;
  const RequestParams* with_biases = nullptr;  // whose biases were added last
  int bias_begin = 0;
  for (size_t s = 0; s < flight.plan.slices.size(); ++s) {
    const Slice& slice = flight.plan.slices[s];
    const Sequence& sequence = *slice.sequence;
    const size_t before = flight.rows.size();
    if (!sequence.ended) {
      RowSampling row = {.row = slice.first_row, .slot = sequence.slot, .rule = sequence.rule};
      if (sequence.target == nullptr) {
        row.rule.n_logprobs = sequence.params->prompt_logprobs;
        for (const int32_t position : slice.scored) {
          row.target = sequence.tokens[static_cast<size_t>(position) + 1];
          flight.rows.push_back(row);
          ++row.row;
        }
      }
      if (slice.samples) {
        row.target = kNoToken;
        row.rule.n_logprobs = sequence.rule.n_logprobs;
        const RequestParams& params = *sequence.params;
        if (!params.biases.empty()) {
          if (with_biases != &params) {
            bias_begin = static_cast<int>(biases.size());
            biases.insert(biases.end(), params.biases.begin(), params.biases.end());
            with_biases = &params;
          }
          row.bias_begin = bias_begin;
          row.bias_end = static_cast<int>(biases.size());
        }
        row.mask = mask_of_slice[s];
        const int index = sequence.generated() + sequence.ahead - 1;
        const auto* const own = index < params.stop.min_tokens ? sequence.unending_mask.get()
                                                               : sequence.allowed_mask.get();
        if (own != nullptr) {
          if (row.mask < 0) {
            row.mask = static_cast<int>(masks.size() / words);
            masks.insert(masks.end(), words, ~uint32_t{0});
          }
          uint32_t* const mask = masks.data() + static_cast<size_t>(row.mask) * words;
          for (size_t w = 0; w < words; ++w) mask[w] &= (*own)[w];
        }
        for (size_t k = 0; k <= slice.draft.size(); ++k) {
          row.guess = k < slice.draft.size() ? slice.draft[k] : kNoToken;
          flight.rows.push_back(row);
          ++row.row;
        }
      }
    }
    flight.rows_of_slice.push_back(static_cast<int>(flight.rows.size() - before));
  }
  backend_->sample(flight.id, {.rows = flight.rows, .masks = masks, .biases = biases});
  flight.is_sampled = true;
}

// A sequence is over with its last token, or when its context is full.
FinishReason Engine::finish_of(const Sequence& sequence, bool may_stop) const {
  if (may_stop && ends_with(*sequence.params, sequence.tokens.back())) return FinishReason::stop;
  const int limit = sequence.params->stop.max_tokens;
  if ((limit >= 0 && sequence.generated() >= limit) ||
      sequence.tokens.size() >= static_cast<size_t>(options_.context_length)) {
    return FinishReason::length;
  }
  return FinishReason::none;
}

namespace {

const char* error_of(ops::SampleStatus status) {
  return status == ops::SampleStatus::empty_mask
             ? "no token is allowed: the constraint and the parameters leave none"
             : "the logits are not finite: the checkpoint is damaged or its values are out of "
               "range";
}

}  // namespace

// Takes what a step made of a sequence: the scores of its prompt, the token after its last one, and
// those after each guess, as long as the guesses are what was chosen. Returns how many are new.
int Engine::take_slice(const Slice& slice, std::span<const ops::SampledRow* const> scored,
                       std::span<const ops::SampledRow* const> sampled,
                       std::vector<Event>& events) {
  Sequence& sequence = *slice.sequence;
  const size_t first_event = events.size();
  const auto fail = [&](const char* error) {
    events.resize(first_event);
    end(sequence, FinishReason::error, events, error);
    return 0;
  };
  if (!scored.empty()) {
    sequence.prompt_scores.resize(static_cast<size_t>(sequence.prompt_length) - 1);
    for (size_t i = 0; i < scored.size(); ++i) {
      if (scored[i]->status != ops::SampleStatus::ok) return fail(error_of(scored[i]->status));
      // Of a logit of -inf, which a model without infinite weights does not make.
      if (!std::isfinite(scored[i]->logprob)) return fail(error_of(ops::SampleStatus::non_finite));
      sequence.prompt_scores[static_cast<size_t>(slice.scored[i])] = *scored[i];
    }
  }
  Event event = event_of(sequence);
  FinishReason finish = FinishReason::none;
  for (size_t k = 0; k < sampled.size(); ++k) {
    const ops::SampledRow* const row = sampled[k];
    if (row == nullptr) break;
    if (row->status != ops::SampleStatus::ok) {
      // What came before it stands.
      if (event.tokens.empty()) return fail(error_of(row->status));
      events.push_back(std::move(event));
      end(sequence, FinishReason::error, events, error_of(row->status));
      return static_cast<int>(events.back().tokens.size());
    }
    sequence.tokens.push_back(row->token);
    event.tokens.push_back(row->token);
    if (sequence.rule.n_logprobs >= 0) {
      event.logprobs.push_back(row->logprob);
      event.top.push_back(alternatives(*row));
    }
    finish = finish_of(sequence, true);
    if (k < slice.draft.size() && row->token == slice.draft[k]) ++counters_.accepted_tokens;
    if (finish != FinishReason::none) break;
  }
  const auto count = static_cast<int>(event.tokens.size());
  if (count > 1) {  // guesses that stand are in the cache: all but the last of the tokens
    sequence.computed = sequence.submitted = static_cast<int>(sequence.tokens.size()) - 1;
  }
  if (count > 0 && drafts_) drafts_->observe(sequence.id, sequence.tokens, count);
  if (!sequence.is_continued() && sequence.computed == sequence.prompt_length) {
    finish = sequence.target != nullptr ? FinishReason::stop : FinishReason::length;
  }
  if (sequence.params->prompt_logprobs >= 0 && !sequence.reported &&
      sequence.computed >= sequence.prompt_length) {
    sequence.reported = true;
    for (const ops::SampledRow& score : sequence.prompt_scores) {
      event.prompt_logprobs.push_back(score.logprob);
      event.prompt_top.push_back(alternatives(score));
    }
  }
  if (count > 0 || finish != FinishReason::none || !event.prompt_logprobs.empty()) {
    events.push_back(std::move(event));
    if (finish != FinishReason::none) end(sequence, finish, events);
  }
  return count;
}

// What constraints say after what was accepted.
void Engine::ask(std::span<const Accepted> accepted, std::vector<Event>& events) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<Verdict> verdicts = constraints_->accept(accepted);
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
  counters_.phases[static_cast<size_t>(Phase::constrain)] += spent.count();
  for (size_t i = 0; i < accepted.size(); ++i) {
    Sequence& sequence = *sequences_.at(accepted[i].sequence);
    if (!verdicts[i].error.empty()) {
      events.push_back(event_of(sequence));
      end(sequence, FinishReason::error, events, std::move(verdicts[i].error));
      continue;
    }
    sequence.free = std::max(0, verdicts[i].free);
    if (!verdicts[i].forced.empty()) force(sequence, verdicts[i], events);
  }
}

// Tokens that are decided on join a sequence; what steps in flight would choose instead is dropped.
void Engine::force(Sequence& sequence, const Verdict& verdict, std::vector<Event>& events) {
  Event event = event_of(sequence);
  event.origin = verdict.counted ? Origin::grammar : Origin::format;
  FinishReason finish = FinishReason::none;
  for (const int32_t token : verdict.forced) {
    if (token < 0 || token >= config_.vocab_size) {
      events.push_back(std::move(event));
      end(sequence, FinishReason::error, events,
          concat("the constraint forces token id ", token, ", outside the vocabulary of ",
                 config_.vocab_size));
      return;
    }
    if (sequence.tokens.size() >= static_cast<size_t>(options_.context_length)) {
      finish = FinishReason::length;
      break;
    }
    sequence.tokens.push_back(token);
    event.tokens.push_back(token);
    if (!verdict.counted) ++sequence.uncounted;
    if (sequence.rule.n_logprobs >= 0) {
      event.logprobs.push_back(0.0f);
      event.top.emplace_back();
    }
    finish = finish_of(sequence, verdict.counted);
    if (finish != FinishReason::none) break;
  }
  for (Flight& flight : flights_) {
    for (Slice& slice : flight.plan.slices) {
      if (slice.sequence != &sequence || !slice.samples) continue;
      if (flight.is_sampled) {
        events.push_back(std::move(event));
        end(sequence, FinishReason::error, events,
            "the constraint forces a token after it has said that the next ones are free");
        return;
      }
      slice.samples = false;
      --sequence.ahead;
    }
  }
  if (sequence.slot >= 0) backend_->append_output(sequence.slot, event.tokens);
  if (drafts_) {
    drafts_->observe(sequence.id, sequence.tokens, static_cast<int>(event.tokens.size()));
  }
  events.push_back(std::move(event));
  if (finish != FinishReason::none) end(sequence, finish, events);
}

// Waits for a step and takes what it made.
void Engine::land(Flight flight, std::vector<Event>& events) {
  const StepResult result = backend_->wait(flight.id);
  kv_->waited(flight.id);
  {
    const std::lock_guard<std::mutex> lock(inbox_mutex_);
    computing_.erase(computing_.begin(),
                     computing_.begin() + static_cast<std::ptrdiff_t>(flight.plan.slices.size()));
  }
  ++counters_.steps;
  std::vector<Accepted> accepted;
  std::vector<std::pair<int64_t, int>> news;  // constrained sequences, and their new tokens
  size_t next_row = 0;
  for (size_t s = 0; s < flight.plan.slices.size(); ++s) {
    const Slice& slice = flight.plan.slices[s];
    Sequence& sequence = *slice.sequence;
    --sequence.in_flight;
    const size_t begin = next_row;
    const size_t end_row = begin + static_cast<size_t>(flight.rows_of_slice[s]);
    next_row = end_row;
    if (slice.samples && !sequence.ended) {
      --sequence.ahead;
      sequence.drafted = false;
    }
    counters_.drafted_tokens += static_cast<int64_t>(slice.draft.size());
    if (sequence.ended || result.abandoned) {
      if (sequence.ended && sequence.in_flight == 0) retire(sequence);
      continue;
    }
    const int of_prompt = std::clamp(sequence.prompt_length - slice.first, 0, slice.tokens);
    counters_.prompt_tokens += of_prompt;
    if (result.finite_tokens[s] < slice.tokens) {
      end(sequence, FinishReason::error, events, error_of(ops::SampleStatus::non_finite));
      continue;
    }
    sequence.computed = slice.first + slice.tokens;
    std::vector<const ops::SampledRow*> scored, sampled;
    for (size_t row = begin; row < end_row; ++row) {
      const ops::SampledRow* const made = result.sampled[row] != 0 ? &result.rows[row] : nullptr;
      (flight.rows[row].target != kNoToken ? scored : sampled).push_back(made);
    }
    const int64_t id = sequence.id;
    const int count = take_slice(slice, scored, sampled, events);
    counters_.generated_tokens += count;
    if (!sequences_.contains(id)) continue;  // it has ended
    if (sequence.constrained && count > 0) news.emplace_back(id, count);
    if (options_.prefix_cache && sequence.target == nullptr) {
      if (of_prompt > 0) {
        kv_->commit_all(sequence.pages, sequence.tokens, sequence.computed);
      } else {
        kv_->commit(sequence.pages, sequence.tokens, sequence.computed);
      }
      if (store_ != nullptr && !sequence.offered && sequence.computed >= sequence.prompt_length) {
        sequence.offered = true;
        offer(std::span(sequence.tokens).first(static_cast<size_t>(sequence.prompt_length)),
              sequence.params->salt);
      }
    }
  }
  for (const auto& [id, count] : news) {
    const auto tokens = std::span<const int32_t>(sequences_.at(id)->tokens);
    accepted.push_back({id, tokens.last(static_cast<size_t>(count))});
  }
  if (!accepted.empty()) ask(accepted, events);
}

std::vector<Event> Engine::step() {
  if (fatal_) {
    drop_inbox();
    std::rethrow_exception(fatal_);
  }
  const auto start = std::chrono::steady_clock::now();
  const int64_t prompt_tokens = counters_.prompt_tokens;
  const int64_t generated_tokens = counters_.generated_tokens;
  std::vector<Event> events;
  try {
    options_.files.guard([&] {
      take_inbox(events);
      if (store_ != nullptr) {
        take_found();
        seek_held();
        give_wanted();
      }
      while (flights_.size() <= static_cast<size_t>(options_.max_steps_ahead) &&
             (flights_.empty() || flights_.back().is_sampled)) {
        StepPlan plan = scheduler_->next(!flights_.empty());
        if (plan.empty()) break;
        launch(std::move(plan));
        if (can_sample(flights_.back())) sample(flights_.back(), events);
      }
      if (!flights_.empty()) {
        Flight flight = std::move(flights_.front());
        flights_.pop_front();
        land(std::move(flight), events);
        if (!flights_.empty() && !flights_.front().is_sampled) sample(flights_.front(), events);
      }
      drop_adapters();
      return true;
    });
  } catch (...) {
    drop_all(std::current_exception());
    throw;
  }
  const auto made = static_cast<int>(counters_.generated_tokens - generated_tokens);
  const auto read = static_cast<int>(counters_.prompt_tokens - prompt_tokens);
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
  if (read > 0) {
    counters_.prefill.add(read, spent.count());
  } else if (made > 0) {
    counters_.decode.add(made, spent.count());
  }
  publish();
  return events;
}

// What cannot be pinned to one sequence ends all of them.
void Engine::drop_all(const std::exception_ptr& cause) {
  try {
    std::rethrow_exception(cause);
  } catch (const BackendError&) {
    fatal_ = cause;
  } catch (...) {
  }
  for (const Flight& flight : flights_) {
    try {
      backend_->wait(flight.id);
    } catch (...) {  // the first cause is told
    }
    kv_->waited(flight.id);
  }
  flights_.clear();
  sequences_.clear();
  const auto drop = [&](const auto& sequences) {
    while (!sequences.empty()) {
      Sequence& sequence = *sequences.back();
      if (drafts_) drafts_->end(sequence.id);
      sequence.keeps_pages = false;
      retire(sequence);
    }
  };
  for (const Held& held : held_) {
    if (drafts_) drafts_->end(held.sequence->id);
  }
  held_.clear();
  drop(scheduler_->running());
  drop(scheduler_->waiting());
  {
    const std::lock_guard<std::mutex> lock(inbox_mutex_);
    computing_.clear();
  }
  publish();
}

// What came after the device had failed: nobody will take it.
void Engine::drop_inbox() {
  std::vector<std::unique_ptr<Sequence>> submitted;  // these are destroyed without the lock
  std::deque<FoundPages> found;
  std::deque<WantedPages> wanted;
  const std::lock_guard<std::mutex> lock(inbox_mutex_);
  submitted.swap(submitted_);
  found.swap(found_);
  wanted.swap(wanted_);
  new_adapters_.clear();
  cancelled_.clear();
}

bool Engine::idle() {
  const std::lock_guard<std::mutex> lock(inbox_mutex_);
  return submitted_.empty() && found_.empty() && wanted_.empty() && new_adapters_.empty() &&
         removed_adapters_.empty() && scheduler_->idle();
}

EngineStats Engine::stats() {
  const std::lock_guard<std::mutex> lock(inbox_mutex_);
  EngineStats stats = published_;
  stats.waiting += static_cast<int>(submitted_.size());
  return stats;
}

}  // namespace gptoss
