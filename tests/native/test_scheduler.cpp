// The engine and its scheduler over a backend that hashes what block tables lead to: with any
// number of steps in flight, every sequence gets the tokens that it would get alone.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <tuple>
#include <vector>

#include "core/check.h"
#include "cpu/sample.h"
#include "engine/engine.h"
#include "harness.h"
#include "testing/fake_backend.h"

namespace gptoss::test {
namespace {

using testing::FakeBackend;
using testing::FakeOptions;
using Ids = std::vector<int32_t>;

constexpr int kVocab = 97;
constexpr int32_t kEos = 96;

ModelConfig fake_config(const FakeOptions& options, int context) {
  ModelConfig config{};
  config.vocab_size = options.vocab_size;
  config.max_position_embeddings = context;
  for (const KvGroup& group : options.groups) {
    if (group.window > 0) config.sliding_window = group.window;
    config.n_layers += group.n_layers;
    config.is_window_layer.insert(config.is_window_layer.end(), static_cast<size_t>(group.n_layers),
                                  group.window > 0);
  }
  return config;
}

struct FakeEngine {
  FakeBackend* backend;  // the engine's
  std::unique_ptr<Engine> engine;

  FakeEngine(const FakeOptions& options, int context, EngineOptions engine_options) {
    auto made = std::make_unique<FakeBackend>(options);
    backend = made.get();
    engine_options.context_length = context;
    engine = std::make_unique<Engine>(std::move(made), fake_config(options, context), Ids{kEos},
                                      engine_options);
    for (const int adapter : {1, 2}) {
      engine->add_adapter(-adapter, adapter, std::make_shared<const Adapter>());
    }
    for (const Event& event : engine->step()) {
      GPTOSS_CHECK(event.sequence < 0 && event.finish == FinishReason::stop);
    }
  }
};

uint64_t mix(uint64_t a, uint64_t b) { return Random(a * 1000003 + b).bits() ^ Random(b).bits(); }

void forbid(uint32_t* words, int32_t token) { words[token / 32] &= ~(uint32_t{1} << (token % 32)); }

// A constraint that is a function of a seed and the output: at some lengths it forces tokens, at
// others it masks, else the next token is free. At one of them it may fail.
struct Rule {
  uint64_t seed = 0;
  int fails_at = -1;

  int kind(size_t length) const { return static_cast<int>(mix(seed, length) % 8); }

  Verdict verdict(const Ids& output) const {
    Verdict verdict;
    size_t length = output.size();
    if (static_cast<int>(length) == fails_at) {
      verdict.error = "the rule fails";
      return verdict;
    }
    if (kind(length) == 0) {
      const uint64_t bits = mix(seed + 1, length);
      verdict.counted = bits % 2 == 0;
      for (uint64_t i = 0; i <= bits / 2 % 3; ++i) {
        verdict.forced.push_back(static_cast<int32_t>(mix(bits, i) % kVocab));
      }
      length += verdict.forced.size();
    }
    while (kind(length) >= 3 && verdict.free < 20 && static_cast<int>(length) != fails_at) {
      ++verdict.free;
      ++length;
    }
    return verdict;
  }
  void mask(const Ids& output, uint32_t* words) const {
    const auto residue = static_cast<int32_t>(mix(seed + 2, output.size()) % 3);
    for (int32_t token = 0; token < kVocab; ++token) {
      if (token % 3 != residue) forbid(words, token);
    }
  }
};

class RuleConstraints final : public Constraints {
 public:
  std::map<int64_t, Rule> rules;
  std::map<int64_t, Ids> outputs;
  int calls = 0;

  std::vector<Verdict> accept(std::span<const Accepted> accepted) override {
    ++calls;
    std::vector<Verdict> verdicts;
    for (const Accepted& entry : accepted) {
      Ids& output = outputs[entry.sequence];
      output.insert(output.end(), entry.tokens.begin(), entry.tokens.end());
      verdicts.push_back(rules.at(entry.sequence).verdict(output));
      const Ids& forced = verdicts.back().forced;
      output.insert(output.end(), forced.begin(), forced.end());
    }
    return verdicts;
  }
  std::vector<std::string> fill(std::span<const int64_t> sequences, std::span<uint32_t> masks,
                                size_t words) override {
    ++calls;
    for (size_t i = 0; i < sequences.size(); ++i) {
      rules.at(sequences[i]).mask(outputs[sequences[i]], masks.data() + i * words);
    }
    return std::vector<std::string>(sequences.size());
  }
};

struct Job {
  Ids prompt;
  std::shared_ptr<RequestParams> params = std::make_shared<RequestParams>();
  uint64_t seed = 0;
  std::optional<Rule> rule;
};

struct Outcome {
  Ids tokens;
  FinishReason finish = FinishReason::none;
  std::vector<float> logprobs;
  std::vector<float> prompt_logprobs;
  std::string error;
  int finishes = 0;
};

cpu::SampleScratch scratch;

ops::SampledRow choose(const FakeOptions& options, const Ids& tokens, const Job& job,
                       const uint32_t* mask, int32_t target = -1) {
  const std::vector<float> logits = testing::fake_logits(options, tokens, job.params->adapter);
  std::map<int32_t, int32_t> counted;
  for (size_t i = 0; i < tokens.size(); ++i) {
    counted[tokens[i]] += i >= job.prompt.size() ? 1 : 0;
  }
  std::vector<TokenCount> counts;
  for (const auto& [token, count] : counted) counts.push_back({token, count});
  ops::SamplingRule rule = job.params->rule;
  rule.seed = job.seed;
  if (target >= 0) rule.n_logprobs = job.params->prompt_logprobs;
  ops::SampleRow row{};
  row.logits = logits.data();
  row.vocab_size = options.vocab_size;
  row.rule = &rule;
  row.index = target >= 0 ? 0 : tokens.size() - job.prompt.size();
  row.counts = counts;
  row.biases = job.params->biases;
  row.mask = mask;
  row.target = target;
  return cpu::sample(cpu::kScalarKernels, row, scratch);
}

Ids prefix(const Ids& ids, size_t length) {
  return {ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(length)};
}

// What a job gets that is computed alone, token by token.
class Alone {
 public:
  Alone(const FakeOptions& options, const Job& job, int context)
      : options_(options), job_(job), stop_(job.params->stop), context_(context) {}

  Outcome run() {
    if (job_.rule) ask();
    if (outcome_.finish == FinishReason::none) score_prompt();
    if (outcome_.finish == FinishReason::none && stop_.max_tokens == 0) {
      outcome_.finish = FinishReason::length;
    }
    while (outcome_.finish == FinishReason::none) {
      const std::vector<uint32_t> mask = next_mask();
      const ops::SampledRow row = choose(options_, tokens_, job_, mask.data());
      if (row.status != ops::SampleStatus::ok) {
        outcome_.finish = FinishReason::error;
        break;
      }
      push(row.token, row.logprob, true);
      outcome_.finish = finish_of(true);
      if (job_.rule && outcome_.finish == FinishReason::none) ask();
    }
    return outcome_;
  }

 private:
  void score_prompt() {
    const Ids& prompt = job_.prompt;
    bool is_finite = std::find(prompt.begin(), prompt.end(), options_.poison) == prompt.end();
    for (size_t i = 1; i < prompt.size() && job_.params->prompt_logprobs >= 0; ++i) {
      const ops::SampledRow row = choose(options_, prefix(prompt, i), job_, nullptr, prompt[i]);
      is_finite = is_finite && row.status == ops::SampleStatus::ok;
      outcome_.prompt_logprobs.push_back(row.logprob);
    }
    if (!is_finite) outcome_.finish = FinishReason::error;
  }
  void push(int32_t token, float logprob, bool counted) {
    tokens_.push_back(token);
    outcome_.tokens.push_back(token);
    if (job_.params->rule.n_logprobs >= 0) outcome_.logprobs.push_back(logprob);
    generated_ += counted ? 1 : 0;
  }
  FinishReason finish_of(bool may_stop) const {
    const Ids& stops = stop_.token_ids;
    if (may_stop && (std::find(stops.begin(), stops.end(), tokens_.back()) != stops.end() ||
                     (!stop_.ignore_eos && tokens_.back() == kEos))) {
      return FinishReason::stop;
    }
    const bool full = tokens_.size() >= static_cast<size_t>(context_) ||
                      (stop_.max_tokens >= 0 && generated_ >= stop_.max_tokens);
    return full ? FinishReason::length : FinishReason::none;
  }
  void ask() {
    const Verdict verdict = job_.rule->verdict(outcome_.tokens);
    if (!verdict.error.empty()) outcome_.finish = FinishReason::error;
    free_ = verdict.free;
    for (const int32_t token : verdict.forced) {
      if (tokens_.size() >= static_cast<size_t>(context_)) {
        outcome_.finish = FinishReason::length;
        return;
      }
      push(token, 0.0f, verdict.counted);
      outcome_.finish = finish_of(verdict.counted);
      if (outcome_.finish != FinishReason::none) return;
    }
  }
  std::vector<uint32_t> next_mask() const {
    std::vector<uint32_t> mask(mask_words(kVocab), ~uint32_t{0});
    const Ids& allowed = job_.params->allowed_token_ids;
    for (int32_t token = 0; token < kVocab && !allowed.empty(); ++token) {
      if (std::find(allowed.begin(), allowed.end(), token) == allowed.end()) {
        forbid(mask.data(), token);
      }
    }
    if (generated_ < stop_.min_tokens) {
      for (const int32_t token : stop_.token_ids) forbid(mask.data(), token);
      if (!stop_.ignore_eos) forbid(mask.data(), kEos);
    }
    if (job_.rule && free_ == 0) job_.rule->mask(outcome_.tokens, mask.data());
    return mask;
  }

  const FakeOptions& options_;
  const Job& job_;
  const StopRule& stop_;
  const int context_;
  Ids tokens_ = job_.prompt;
  Outcome outcome_;
  int generated_ = 0, free_ = 0;
};

Outcome alone(const FakeOptions& options, const Job& job, int context) {
  return Alone(options, job, context).run();
}

void take(const std::vector<Event>& events, std::map<int64_t, Outcome>& outcomes) {
  for (const Event& event : events) {
    Outcome& outcome = outcomes[event.sequence];
    GPTOSS_CHECK(outcome.finishes == 0, "an event after the last one, sequence ", event.sequence);
    outcome.tokens.insert(outcome.tokens.end(), event.tokens.begin(), event.tokens.end());
    outcome.logprobs.insert(outcome.logprobs.end(), event.logprobs.begin(), event.logprobs.end());
    outcome.prompt_logprobs.insert(outcome.prompt_logprobs.end(), event.prompt_logprobs.begin(),
                                   event.prompt_logprobs.end());
    outcome.finish = event.finish;
    outcome.error = event.error;
    outcome.finishes += event.finish != FinishReason::none;
  }
}

Ids random_ids(Random& random, int length) {
  Ids ids(static_cast<size_t>(length));
  for (int32_t& id : ids) id = random.below(kVocab - 1);
  return ids;
}

Job random_job(Random& random, const std::vector<Ids>& beginnings, int context) {
  Job job;
  job.prompt = beginnings[static_cast<size_t>(random.below(static_cast<int>(beginnings.size())))];
  job.prompt.resize(static_cast<size_t>(1 + random.below(static_cast<int>(job.prompt.size()))));
  const Ids more = random_ids(random, random.below(20));
  job.prompt.insert(job.prompt.end(), more.begin(), more.end());
  job.prompt.resize(std::min(job.prompt.size(), static_cast<size_t>(context) - 1));
  RequestParams& params = *job.params;
  params.stop.max_tokens = random.below(8) == 0 ? -1 : 1 + random.below(30);
  params.rule.temperature =
      random.below(2) == 0 ? 0.0f : 0.5f + 0.25f * static_cast<float>(random.below(4));
  if (random.below(4) == 0) params.rule.top_p = 0.9f;
  if (random.below(4) == 0) params.rule.top_k = 1 + random.below(20);
  if (random.below(4) == 0) params.rule.repetition_penalty = 1.3f;
  if (random.below(6) == 0) params.rule.frequency_penalty = 0.5f;
  if (random.below(4) == 0) params.rule.n_logprobs = random.below(4);
  if (random.below(6) == 0) params.biases = {{random.below(kEos), 3.0f}, {kEos, -2.0f}};
  if (random.below(6) == 0) params.stop.token_ids = {random.below(kVocab), random.below(kVocab)};
  if (random.below(6) == 0) params.allowed_token_ids = random_ids(random, 30);
  if (random.below(4) == 0) params.stop.ignore_eos = true;
  if (random.below(4) == 0 && params.stop.max_tokens > 0) {
    params.stop.min_tokens = random.below(params.stop.max_tokens);
  }
  if (random.below(8) == 0) {
    params.prompt_logprobs = random.below(3);
    if (random.below(2) == 0) params.stop.max_tokens = params.stop.min_tokens = 0;
  }
  if (random.below(4) == 0) params.adapter = 1 + random.below(2);
  params.salt = static_cast<uint64_t>(params.adapter);
  job.seed = random.bits();
  if (params.stop.max_tokens != 0 && random.below(3) == 0) {
    job.rule =
        Rule{.seed = random.bits(), .fails_at = random.below(6) == 0 ? random.below(12) : -1};
  }
  return job;
}

void check_logits(const FakeOptions& options, const Job& job, const std::vector<float>& rows) {
  for (size_t p = 0; p < job.prompt.size(); ++p) {
    const auto expected = testing::fake_logits(options, prefix(job.prompt, p + 1), 0);
    GPTOSS_CHECK(same_bits(expected, std::span(rows).subspan(p * kVocab, kVocab)), "position ", p);
  }
}

void check_outcome(const Outcome& got, const Outcome& expected, bool was_cancelled) {
  const bool aborted = got.finish == FinishReason::abort;
  GPTOSS_CHECK(got.finishes == 1);
  GPTOSS_CHECK(!aborted || was_cancelled);
  GPTOSS_CHECK(aborted || got.finish == expected.finish, static_cast<int>(got.finish), " ",
               got.error, " and not ", static_cast<int>(expected.finish));
  GPTOSS_CHECK(got.tokens.size() <= expected.tokens.size() &&
                   (aborted || got.tokens.size() == expected.tokens.size()),
               got.tokens.size(), " tokens and not ", expected.tokens.size(), ", finish ",
               static_cast<int>(got.finish), " ", got.error);
  for (size_t i = 0; i < got.tokens.size(); ++i) {
    GPTOSS_CHECK(got.tokens[i] == expected.tokens[i], "token ", i);
  }
  for (size_t i = 0; i < got.logprobs.size(); ++i) {
    GPTOSS_CHECK(got.logprobs[i] == expected.logprobs[i], "log-probability ", i);
  }
  if (got.finish == FinishReason::stop || got.finish == FinishReason::length) {
    GPTOSS_CHECK(got.prompt_logprobs == expected.prompt_logprobs, "of the prompt");
  }
}

// A store in memory that answers when it is told to and, with a seed other than 0, forgets at
// random. Of one text all pages must have the same bytes, whoever has computed them.
class MemoryStore final : public PageStore {
 public:
  explicit MemoryStore(uint64_t seed) : forgets_(seed != 0), random_(seed) {}

  void attach(Engine& engine) {
    engine_ = &engine;
    finds_.clear();
    offers_.clear();
    wanted_.reset();
    engine.set_page_store(this);
  }
  // Pages of the first group that there are of a prompt, from the first one on.
  int count(const Ids& prompt, uint64_t salt) {
    const std::lock_guard<std::mutex> lock(mutex_);
    int pages = 0;
    while ((pages + 1) * kPageTokens <= static_cast<int>(prompt.size()) &&
           pages_.contains(key(prompt, salt, {pages, 0}))) {
      ++pages;
    }
    return pages;
  }

  void find(int64_t sequence, std::span<const int32_t> prompt, uint64_t salt,
            int first_page) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    finds_.push_back({sequence, {prompt.begin(), prompt.end()}, salt, first_page});
  }
  void taken() override { ++taken_; }
  void offer(std::span<const int32_t> tokens, uint64_t salt,
             std::span<const PageRef> refs) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    offers_.push_back({{tokens.begin(), tokens.end()}, salt, {refs.begin(), refs.end()}});
  }
  void put(std::vector<PageBytes> pages) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    GPTOSS_CHECK(wanted_ && wanted_->refs.size() == pages.size());
    for (size_t i = 0; i < pages.size(); ++i) {
      if (pages[i].data == nullptr) continue;
      const uint8_t* const data = pages[i].data.get();
      std::vector<uint8_t> bytes(data, data + pages[i].size);
      const auto [entry, is_new] =
          pages_.try_emplace(key(wanted_->tokens, wanted_->salt, wanted_->refs[i]), bytes);
      GPTOSS_CHECK(is_new || entry->second == bytes, "page ", wanted_->refs[i].page,
                   " differs from one of the same text");
      ++stored_;
    }
    wanted_.reset();
  }

  bool is_busy() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return !finds_.empty() || (!offers_.empty() && !wanted_);
  }
  // Answers something.
  void pump() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (forgets_ && !pages_.empty() && random_.below(8) == 0) {
      pages_.erase(std::next(pages_.begin(), random_.below(static_cast<int>(pages_.size()))));
    }
    if (!wanted_ && !offers_.empty()) {
      Offer& offer = offers_.front();
      WantedPages wanted = {.tokens = offer.tokens, .salt = offer.salt, .refs = {}};
      while (!offer.refs.empty() && wanted.refs.size() < 3) {
        if (!pages_.contains(key(offer.tokens, offer.salt, offer.refs.front())) ||
            random_.below(4) == 0) {
          wanted.refs.push_back(offer.refs.front());
        }
        offer.refs.erase(offer.refs.begin());
      }
      if (offer.refs.empty()) offers_.pop_front();
      if (!wanted.refs.empty()) {
        wanted_ = wanted;
        engine_->want(std::move(wanted));
      }
    }
    if (finds_.empty()) return;
    const Find find = finds_.front();
    finds_.pop_front();
    const int pages = static_cast<int>(find.prompt.size()) / kPageTokens;
    std::vector<PageRef> refs;
    for (int page = find.first_page; page < pages; ++page) refs.push_back({page, 0});
    // Of a window more than is needed; perhaps of a page that nobody has.
    for (int page = 0; page < pages; ++page) refs.push_back({page, 1});
    std::erase_if(refs, [&](const PageRef& ref) {
      return !pages_.contains(key(find.prompt, find.salt, ref));
    });
    for (size_t begin = 0; begin < refs.size();) {
      const auto n = std::min(refs.size() - begin, static_cast<size_t>(1 + random_.below(3)));
      deliver(find, std::span(refs).subspan(begin, n), false);
      begin += n;
    }
    deliver(find, {}, true);
  }
  int delivered() const { return delivered_; }
  int stored() const { return stored_; }
  void check_all_taken() const { GPTOSS_CHECK(taken_ == deliveries_); }

 private:
  using Key = std::tuple<Ids, uint64_t, int>;
  struct Find {
    int64_t sequence;
    Ids prompt;
    uint64_t salt;
    int first_page;
  };
  struct Offer {
    Ids tokens;
    uint64_t salt;
    std::vector<PageRef> refs;
  };

  static Key key(const Ids& tokens, uint64_t salt, const PageRef& ref) {
    return {prefix(tokens, static_cast<size_t>(ref.page + 1) * kPageTokens), salt, ref.group};
  }
  void deliver(const Find& find, std::span<const PageRef> refs, bool is_last) {
    auto owner = std::make_shared<std::vector<std::vector<uint8_t>>>();
    for (const PageRef& ref : refs) owner->push_back(pages_.at(key(find.prompt, find.salt, ref)));
    FoundPages found{};
    found.sequence = find.sequence;
    found.refs.assign(refs.begin(), refs.end());
    found.bytes.assign(owner->begin(), owner->end());
    found.is_last = is_last;
    found.owner = owner;
    ++deliveries_;
    delivered_ += static_cast<int>(refs.size());
    engine_->deliver(std::move(found));
  }

  Engine* engine_ = nullptr;
  const bool forgets_;
  Random random_;
  std::mutex mutex_;  // guards what follows
  std::map<Key, std::vector<uint8_t>> pages_;
  std::deque<Find> finds_;
  std::deque<Offer> offers_;
  std::optional<WantedPages> wanted_;
  std::atomic<int> taken_{0};
  int deliveries_ = 0, delivered_ = 0, stored_ = 0;
};

// Everything at random, from a seed. `ahead` steps in flight. With a store the same beginnings come
// in every life, and other jobs.
void run_scenario(uint64_t seed, int ahead, MemoryStore* store = nullptr, uint64_t life = 0) {
  Random random(seed);
  FakeOptions options;
  options.seed = seed;
  options.max_steps_ahead = ahead;
  const int layout = random.below(4);
  if (layout == 0) options.groups = {{.window = 0, .n_layers = 1}};
  if (layout == 1) options.groups = {{.window = 0, .n_layers = 1}, {.window = 70, .n_layers = 1}};
  if (random.below(5) == 0) options.nan_logits = random.below(kVocab - 1);
  if (random.below(5) == 0) options.poison = random.below(kVocab - 1);
  const int context = 64 * (1 + random.below(3)) + random.below(64);
  const int needed = KvCache::pages_for(context);
  const int pages = needed + random.below(3 * needed);
  FakeEngine fake(options, context,
                  {.max_step_tokens = 1 + random.below(100),
                   .max_sequences = 1 + random.below(6),
                   .prefix_cache = random.below(4) != 0,
                   .kv_memory_bytes = int64_t{pages} * kPageTokens * int64_t{sizeof(uint64_t)},
                   .speculative = random.below(3) == 0});
  Engine& engine = *fake.engine;
  RuleConstraints constraints;
  engine.set_constraints(&constraints);
  std::vector<Ids> beginnings;
  for (int i = 0; i < 3; ++i) beginnings.push_back(random_ids(random, 1 + random.below(context)));
  if (store != nullptr) {
    store->attach(engine);
    random = Random(mix(seed, life));
  }

  std::map<int64_t, Job> jobs;
  std::map<int64_t, Outcome> outcomes;
  std::map<int64_t, std::vector<float>> logits;
  std::set<int64_t> cancelled;
  const int n_jobs = 1 + random.below(10);
  int64_t next = 1;
  for (int quiet_steps = 0;
       next <= n_jobs || !engine.idle() || (store != nullptr && store->is_busy());) {
    while (store != nullptr && random.below(3) == 0) store->pump();
    while (next <= n_jobs && (engine.idle() || random.below(3) == 0)) {
      Job job = random_job(random, beginnings, context);
      if (random.below(12) == 0) {
        job.rule.reset();
        if (random.below(3) == 0) job.prompt.resize(static_cast<size_t>(context), 1);
        std::vector<float>& rows = logits[next];
        rows.resize(job.prompt.size() * kVocab);
        Ids positions;
        for (size_t p = 0; p < job.prompt.size(); ++p) positions.push_back(static_cast<int32_t>(p));
        const int chunk = 1 + random.below(engine.max_step_tokens());
        engine.submit_read(next, job.prompt, {positions, chunk, rows.data(), nullptr},
                           std::make_shared<RequestParams>());
      } else {
        if (job.rule) constraints.rules[next] = *job.rule;
        const int stored = store == nullptr ? 0 : store->count(job.prompt, job.params->salt);
        engine.submit(next, job.prompt, job.params, job.seed, job.rule.has_value(), stored);
      }
      jobs[next++] = std::move(job);
    }
    if (next > 1 && random.below(25) == 0) {
      const int64_t id = 1 + random.below(static_cast<int>(next) - 1);
      engine.cancel(id);
      cancelled.insert(id);
    }
    const auto events = engine.step();
    quiet_steps = events.empty() ? quiet_steps + 1 : 0;
    GPTOSS_CHECK(quiet_steps < 500, "nothing happens any more");
    take(events, outcomes);
  }
  for (const auto& [id, job] : jobs) {
    const Outcome& got = outcomes[id];
    if (!logits.contains(id)) {
      check_outcome(got, alone(options, job, context), cancelled.contains(id));
    } else if (got.finish == FinishReason::stop) {
      check_logits(options, job, logits.at(id));
    } else {
      GPTOSS_CHECK(cancelled.contains(id) || options.poison != kNoToken);
    }
  }
  // All is given back: what is not free is cached.
  const EngineStats stats = engine.stats();
  for (const PageStats& group : stats.pages) GPTOSS_CHECK(group.free + group.cached == group.total);
  GPTOSS_CHECK(stats.running == 0 && stats.waiting == 0);
  if (store != nullptr) store->check_all_taken();
}

// GPTOSS_TEST_SCENARIOS: how many; one number alone runs in TSan's time.
int n_scenarios() {
  const char* const text = std::getenv("GPTOSS_TEST_SCENARIOS");
  return text == nullptr ? 10000 : std::atoi(text);
}

GPTOSS_TEST(sequences_get_the_tokens_that_they_get_alone_with_any_steps_in_flight) {
  for (int seed = 1; seed <= n_scenarios(); ++seed) {
    try {
      run_scenario(static_cast<uint64_t>(seed), seed % 3);
    } catch (const std::exception& error) {
      GPTOSS_CHECK(false, "scenario ", seed, ", ", seed % 3, " steps ahead: ", error.what());
    }
  }
}

std::map<int64_t, Outcome> run_jobs(Engine& engine, const std::vector<Job>& jobs) {
  for (size_t i = 0; i < jobs.size(); ++i) {
    engine.submit(static_cast<int64_t>(i + 1), jobs[i].prompt, jobs[i].params, jobs[i].seed);
  }
  std::map<int64_t, Outcome> outcomes;
  while (!engine.idle()) take(engine.step(), outcomes);
  return outcomes;
}

// Masks every token and forces none.
class MaskAll final : public Constraints {
 public:
  int asked = 0, filled = 0;

  std::vector<Verdict> accept(std::span<const Accepted> accepted) override {
    asked += static_cast<int>(accepted.size());
    return std::vector<Verdict>(accepted.size());
  }
  std::vector<std::string> fill(std::span<const int64_t> sequences, std::span<uint32_t> masks,
                                size_t words) override {
    filled += static_cast<int>(sequences.size());
    for (size_t i = 0; i < sequences.size(); ++i) forbid(masks.data() + i * words, 0);
    return std::vector<std::string>(sequences.size());
  }
};

StopRule exactly(int max_tokens) {
  return {.max_tokens = max_tokens, .min_tokens = 0, .token_ids = {}, .ignore_eos = true};
}

GPTOSS_TEST(constrained_sequences_are_submitted_ahead_and_lose_no_step) {
  for (const int ahead : {0, 1, 2}) {
    int64_t steps[2];
    for (const bool constrained : {false, true}) {
      FakeOptions options;
      options.max_steps_ahead = ahead;
      FakeEngine fake(options, 256, {.max_step_tokens = 64, .max_sequences = 4});
      MaskAll constraints;
      fake.engine->set_constraints(&constraints);
      for (int64_t id = 1; id <= 4; ++id) {
        auto params = std::make_shared<RequestParams>();
        params->stop = exactly(40);
        Random random(static_cast<uint64_t>(id));
        fake.engine->submit(id, random_ids(random, 10), params, 1, constrained && id % 2 == 0);
      }
      std::map<int64_t, Outcome> outcomes;
      while (!fake.engine->idle()) take(fake.engine->step(), outcomes);
      for (const auto& [id, outcome] : outcomes) {
        GPTOSS_CHECK(outcome.tokens.size() == 40);
        if (constrained && id % 2 == 0) {
          GPTOSS_CHECK(std::count(outcome.tokens.begin(), outcome.tokens.end(), 0) == 0);
        }
      }
      // Nobody is asked about sequences without a constraint.
      GPTOSS_CHECK(constraints.filled == (constrained ? 80 : 0));
      GPTOSS_CHECK(constraints.asked == (constrained ? 80 : 0));
      steps[constrained ? 1 : 0] = fake.backend->steps();
    }
    GPTOSS_CHECK(steps[0] == steps[1], "ahead ", ahead, ": ", steps[1], " and not ", steps[0]);
  }
}

// A stream's longest wait for a token while something long is computed beside it, in plain steps.
double longest_wait(int ahead, bool scored) {
  FakeOptions options;
  options.max_steps_ahead = ahead;
  options.groups = {{.window = 0, .n_layers = 1}};
  FakeEngine fake(options, 8192, {.max_step_tokens = 512, .max_sequences = 4});
  auto stream = std::make_shared<RequestParams>();
  stream->stop = exactly(1500);
  fake.engine->submit(1, {1, 2, 3}, stream, 1);
  for (int i = 0; i < 5; ++i) fake.engine->step();
  Random random(5);
  const Ids prompt = random_ids(random, 4000);
  std::vector<float> row(kVocab);
  if (scored) {
    fake.engine->submit_read(2, prompt, {{3999}, 512, row.data(), nullptr},
                             std::make_shared<RequestParams>());
  } else {
    auto params = std::make_shared<RequestParams>();
    params->stop = exactly(1);
    fake.engine->submit(2, prompt, params, 1);
  }
  double last = fake.backend->clock();
  double longest = 0;
  for (bool done = false; !done;) {
    GPTOSS_CHECK(!fake.engine->idle());
    for (const Event& event : fake.engine->step()) {
      if (event.sequence == 2) {
        done = done || event.finish != FinishReason::none;
        continue;
      }
      longest = std::max(longest, fake.backend->clock() - last);
      last = fake.backend->clock();
    }
  }
  return longest / options.cost.of(1);
}

GPTOSS_TEST(a_long_prompt_makes_a_stream_wait_no_longer_than_five_steps) {
  for (const int ahead : {0, 1, 2}) {
    for (const bool scored : {false, true}) {
      const double wait = longest_wait(ahead, scored);
      GPTOSS_CHECK(wait > 1.0 && wait <= 5.0, "ahead ", ahead, ": ", wait);
    }
  }
}

GPTOSS_TEST(logits_that_are_not_finite_end_their_own_sequence) {
  for (const int ahead : {0, 1, 2}) {
    for (const bool poisoned : {false, true}) {
      FakeOptions options;
      options.max_steps_ahead = ahead;
      (poisoned ? options.poison : options.nan_logits) = 95;
      FakeEngine fake(options, 256, {.max_step_tokens = 32, .max_sequences = 8});
      std::vector<Job> jobs;
      for (uint64_t i = 0; i < 8; ++i) {
        Random random(i + 7);
        Job job;
        job.prompt = random_ids(random, 80);
        for (int32_t& token : job.prompt) token %= 95;
        job.params->stop = exactly(20);
        job.params->biases = {{95, -100.0f}};
        jobs.push_back(job);
      }
      // Its last token, or one in the middle of its prompt, in a chunk that gives no logits.
      jobs[3].prompt[poisoned ? 40 : 79] = 95;
      const auto outcomes = run_jobs(*fake.engine, jobs);
      for (size_t i = 0; i < jobs.size(); ++i) {
        const Outcome& got = outcomes.at(static_cast<int64_t>(i) + 1);
        if (i == 3) {
          GPTOSS_CHECK(got.finish == FinishReason::error && got.tokens.empty());
          GPTOSS_CHECK(got.error.find("checkpoint") != std::string::npos, got.error);
        } else {
          GPTOSS_CHECK(got.finish == FinishReason::length &&
                       got.tokens == alone(options, jobs[i], 256).tokens);
        }
      }
      // No page of it that is not finite was cached: a second one computes it again, and fails too.
      const int64_t before = fake.engine->stats().cached_tokens;
      fake.engine->submit(100, jobs[3].prompt, jobs[3].params, 0);
      std::map<int64_t, Outcome> again;
      while (!fake.engine->idle()) take(fake.engine->step(), again);
      GPTOSS_CHECK(again.at(100).finish == FinishReason::error);
      if (poisoned) GPTOSS_CHECK(fake.engine->stats().cached_tokens - before <= 40);
    }
  }
}

GPTOSS_TEST(after_a_fatal_error_every_call_fails_with_its_cause) {
  for (const int ahead : {0, 1, 2}) {
    FakeOptions options;
    options.max_steps_ahead = ahead;
    options.fails_in_step = 4;
    FakeEngine fake(options, 256, {.max_step_tokens = 32, .max_sequences = 4});
    auto params = std::make_shared<RequestParams>();
    params->stop = exactly(30);
    fake.engine->submit(1, {1, 2, 3}, params, 1);
    fake.engine->submit(2, {1, 2, 4}, params, 1);
    bool thrown = false;
    for (int steps = 0; steps < 5 && !thrown; ++steps) {
      try {
        fake.engine->step();
      } catch (const BackendError& error) {
        thrown = std::string(error.what()) == "the fake device is lost";
      }
    }
    GPTOSS_CHECK(thrown && fake.engine->idle());
    fake.engine->submit(3, {1}, params, 1);
    GPTOSS_CHECK_THROWS(BackendError, fake.engine->step());
    GPTOSS_CHECK(fake.engine->idle());  // whoever steps it while it is not would go on for ever
    FoundPages found{};
    found.is_last = true;
    fake.engine->deliver(std::move(found));
    fake.engine->want({.tokens = {}, .salt = 0, .refs = {}});
    GPTOSS_CHECK_THROWS(BackendError, fake.engine->step());
    GPTOSS_CHECK(fake.engine->idle());
  }
}

GPTOSS_TEST(pages_of_another_adapter_are_not_shared) {
  FakeOptions options;
  std::vector<Job> jobs;
  for (const int adapter : {0, 1, 0, 1, 2}) {
    Random random(3);
    Job job;
    job.prompt = random_ids(random, 150);
    job.params->stop = exactly(12);
    job.params->adapter = adapter;
    job.params->salt = static_cast<uint64_t>(adapter);
    jobs.push_back(job);
  }
  FakeEngine fake(options, 256, {.max_step_tokens = 256, .max_sequences = 1});
  const auto outcomes = run_jobs(*fake.engine, jobs);
  for (size_t i = 0; i < jobs.size(); ++i) {
    GPTOSS_CHECK(outcomes.at(static_cast<int64_t>(i) + 1).tokens ==
                 alone(options, jobs[i], 256).tokens);
  }
  GPTOSS_CHECK(fake.engine->stats().cached_tokens == 2 * 149);
  // The fake would notice: with one salt for all, the tokens are others.
  for (Job& job : jobs) job.params->salt = 0;
  FakeEngine unsalted(options, 256, {.max_step_tokens = 256, .max_sequences = 1});
  GPTOSS_CHECK(run_jobs(*unsalted.engine, jobs).at(2).tokens !=
               alone(options, jobs[1], 256).tokens);
}

GPTOSS_TEST(an_adapter_leaves_when_the_last_sequence_that_has_it_has_ended) {
  for (const int ahead : {0, 1, 2}) {
    FakeOptions options;
    options.max_steps_ahead = ahead;
    FakeEngine fake(options, 256, {.max_step_tokens = 64, .max_sequences = 2});
    std::vector<Job> jobs;
    for (const int adapter : {1, 2, 1, 1}) {  // two of them wait
      Random random(5 + adapter);
      Job job;
      job.prompt = random_ids(random, 70);
      job.params->stop = exactly(9);
      job.params->adapter = adapter;
      job.params->salt = static_cast<uint64_t>(adapter);
      jobs.push_back(job);
    }
    int64_t next = 1;
    for (const Job& job : jobs) fake.engine->submit(next++, job.prompt, job.params, job.seed);
    std::map<int64_t, Outcome> outcomes;
    take(fake.engine->step(), outcomes);
    fake.engine->remove_adapter(1);
    fake.engine->remove_adapter(1);
    fake.engine->remove_adapter(7);
    GPTOSS_CHECK_THROWS(std::invalid_argument,
                        fake.engine->submit(9, jobs[0].prompt, jobs[0].params, 1));
    GPTOSS_CHECK_THROWS(std::invalid_argument,
                        fake.engine->check_request(jobs[0].prompt, *jobs[0].params));
    while (!fake.engine->idle()) {
      GPTOSS_CHECK(fake.backend->adapters() == (std::set<int>{1, 2}));
      take(fake.engine->step(), outcomes);
    }
    GPTOSS_CHECK(fake.backend->adapters() == std::set<int>{2});
    for (size_t i = 0; i < jobs.size(); ++i) {
      check_outcome(outcomes.at(static_cast<int64_t>(i) + 1), alone(options, jobs[i], 256), false);
    }
    // One that nobody has goes at once; its id may not come again while it is there.
    fake.engine->remove_adapter(2);
    GPTOSS_CHECK(!fake.engine->idle());
    GPTOSS_CHECK(fake.engine->step().empty() && fake.backend->adapters().empty());
    GPTOSS_CHECK(fake.engine->idle());
    fake.engine->add_adapter(10, 3, std::make_shared<const Adapter>());
    GPTOSS_CHECK_THROWS(std::invalid_argument, fake.engine->add_adapter(11, 3, nullptr));
    fake.engine->remove_adapter(3);  // before it is there
    GPTOSS_CHECK(fake.engine->step().size() == 1 && fake.backend->adapters().empty());
  }
}

// What the fake is there to notice, done to it by hand.
struct ByHand {
  FakeBackend backend{[] {
    FakeOptions options;
    options.groups = {{.window = 0, .n_layers = 1}};
    options.max_steps_ahead = 1;
    return options;
  }()};
  BlockTables tables{2, {4}};
  std::atomic<bool> abandon{false};
  Ids adapters;  // of the one sequence of a step; empty: none

  ByHand() {
    const int pages[] = {8};
    backend.prepare(
        {.max_tokens = 64, .max_sequences = 2, .max_logit_rows = 4, .max_pages_per_sequence = 4},
        pages);
    const int32_t prompt[] = {5, 6};
    backend.open_slot(0, prompt, {});
    backend.open_slot(1, prompt, {});
  }
  void put(int slot, int32_t page) { tables.assign(0, slot, std::span(&page, 1)); }
  StepId submit(int slot, const Ids& tokens) {
    const Ids offsets = {0, static_cast<int32_t>(tokens.size())};
    const Ids positions = {0};
    const Ids slots = {slot};
    const Ids rows = {offsets[1] - 1};
    const StepId id =
        backend.submit({tokens, offsets, positions, slots, adapters, rows, &tables}, abandon);
    tables.clear_dirty();
    const RowSampling row = {.row = 0, .slot = slot, .rule = {}};
    backend.sample(id, {.rows = {&row, 1}, .masks = {}, .biases = {}});
    return id;
  }
  int32_t run(int slot, const Ids& tokens) {
    return backend.wait(submit(slot, tokens)).rows[0].token;
  }
};

GPTOSS_TEST(the_fake_backend_notices_a_range_that_was_left_out) {
  ByHand hand;
  hand.put(0, 1);
  hand.run(0, {9, 9});
  hand.put(0, 7);
  hand.tables.clear_dirty();
  hand.run(0, {5, 6});  // goes to page 1, where the device's table still leads
  uint64_t there[kPageTokens], missing[kPageTokens];
  const int32_t pages[] = {1, 7};
  hand.backend.read_pages(0, {pages, 1}, reinterpret_cast<uint8_t*>(there));
  hand.backend.read_pages(0, {pages + 1, 1}, reinterpret_cast<uint8_t*>(missing));
  GPTOSS_CHECK(there[0] != missing[0] && missing[0] == missing[63]);
}

GPTOSS_TEST(the_fake_backend_notices_what_its_contract_forbids) {
  {
    ByHand hand;  // two sequences write a page
    hand.put(0, 0);
    hand.put(1, 0);
    hand.submit(0, {5});
    GPTOSS_CHECK_THROWS(std::logic_error, hand.submit(1, {5}));
  }
  {
    ByHand hand;  // a page or a slot is taken away while a step that uses it is in flight
    hand.put(0, 0);
    hand.submit(0, {5});
    const PageCopy copy = {.group = 0, .from = 3, .to = 0};
    GPTOSS_CHECK_THROWS(std::logic_error, hand.backend.copy_pages({&copy, 1}));
    GPTOSS_CHECK_THROWS(std::logic_error, hand.backend.close_slot(0));
  }
  {
    ByHand hand;  // nothing was sampled yet
    hand.put(0, 0);
    GPTOSS_CHECK_THROWS(std::logic_error, hand.run(0, {kLastSampled}));
  }
  {
    ByHand hand;
    hand.backend.close_slot(1);
    hand.put(1, 0);
    GPTOSS_CHECK_THROWS(std::logic_error, hand.submit(1, {5}));
    GPTOSS_CHECK_THROWS(std::logic_error, hand.backend.close_slot(1));
    GPTOSS_CHECK_THROWS(std::logic_error, hand.submit(0, {5}));  // has no page
  }
  {
    ByHand hand;  // adapters
    hand.put(0, 0);
    hand.adapters = {4};
    GPTOSS_CHECK_THROWS(std::logic_error, hand.submit(0, {5}));
  }
  {
    ByHand hand;
    hand.put(0, 0);
    hand.backend.add_adapter(4, nullptr);
    GPTOSS_CHECK_THROWS(std::logic_error, hand.backend.add_adapter(4, nullptr));
    hand.adapters = {4};
    hand.submit(0, {5});
    GPTOSS_CHECK_THROWS(std::logic_error, hand.backend.remove_adapter(4));
    GPTOSS_CHECK_THROWS(std::logic_error, hand.backend.remove_adapter(5));
  }
}

GPTOSS_TEST(pages_from_a_store_give_the_tokens_that_computing_gives) {
  int delivered = 0, stored = 0;
  for (int seed = 1; seed <= n_scenarios() / 4; ++seed) {
    MemoryStore store(static_cast<uint64_t>(seed));
    for (int life = 1; life <= 3; ++life) {
      try {
        run_scenario(static_cast<uint64_t>(seed), seed % 3, &store, static_cast<uint64_t>(life));
      } catch (const std::exception& error) {
        GPTOSS_CHECK(false, "scenario ", seed, ", life ", life, ", ", seed % 3,
                     " steps ahead: ", error.what());
      }
    }
    delivered += store.delivered();
    stored += store.stored();
  }
  GPTOSS_CHECK(delivered > 0 && stored > 0);
}

Job plain_job(const Ids& prompt, int new_tokens) {
  Job job;
  job.prompt = prompt;
  job.params->stop = exactly(new_tokens);
  return job;
}

// Steps an engine until nothing is left to do, its store's answers included.
std::map<int64_t, Outcome> run_with_store(Engine& engine, MemoryStore& store,
                                          const std::vector<Job>& jobs) {
  std::map<int64_t, Outcome> outcomes;
  int64_t next = 1;
  for (const Job& job : jobs) {
    engine.submit(next++, job.prompt, job.params, job.seed, false,
                  store.count(job.prompt, job.params->salt));
  }
  while (!engine.idle() || store.is_busy()) {
    take(engine.step(), outcomes);
    store.pump();
  }
  return outcomes;
}

GPTOSS_TEST(a_prompt_that_is_stored_is_not_computed_again) {
  const FakeOptions options;
  Random random(5);
  const Ids prompt = random_ids(random, 256);
  Ids longer = prompt;
  longer.push_back(3);
  const std::vector<Job> jobs = {plain_job(longer, 5), plain_job(longer, 5), plain_job(prompt, 5)};
  MemoryStore store(0);  // a seed of 0 never forgets
  for (const int expected : {0, 256}) {
    FakeEngine fake(options, 512, {.max_step_tokens = 64, .max_sequences = 4});
    store.attach(*fake.engine);
    const int before = store.delivered();
    const auto outcomes = run_with_store(*fake.engine, store, jobs);
    for (size_t i = 0; i < jobs.size(); ++i) {
      check_outcome(outcomes.at(static_cast<int64_t>(i) + 1), alone(options, jobs[i], 512), false);
    }
    const EngineStats stats = fake.engine->stats();
    // The first two share all but the last token, the third all but its own last one.
    GPTOSS_CHECK(stats.cached_tokens == expected + 256 + 255, stats.cached_tokens);
    // One reads for all: four pages, and two of the window before their end.
    GPTOSS_CHECK(expected == 0 || store.delivered() - before == 6, store.delivered() - before);
  }
}

GPTOSS_TEST(a_store_may_answer_from_a_thread_of_its_own) {
  const FakeOptions options;
  Random random(6);
  std::vector<Job> jobs;
  const Ids beginning = random_ids(random, 300);
  for (int i = 0; i < 12; ++i) {
    Ids prompt = prefix(beginning, static_cast<size_t>(100 + random.below(200)));
    const Ids more = random_ids(random, random.below(150));
    prompt.insert(prompt.end(), more.begin(), more.end());
    jobs.push_back(plain_job(prompt, 3));
  }
  MemoryStore store(0);
  for (int life = 0; life < 3; ++life) {
    FakeEngine fake(options, 512, {.max_step_tokens = 100, .max_sequences = 3});
    store.attach(*fake.engine);
    std::atomic<bool> done{false};
    std::thread thread([&] {
      while (!done) {
        store.pump();
        std::this_thread::yield();
      }
    });
    std::map<int64_t, Outcome> outcomes;
    int64_t next = 1;
    for (const Job& job : jobs) {
      fake.engine->submit(next++, job.prompt, job.params, job.seed, false,
                          store.count(job.prompt, 0));
      take(fake.engine->step(), outcomes);
    }
    while (!fake.engine->idle() || store.is_busy() || fake.engine->stats().waiting > 0) {
      take(fake.engine->step(), outcomes);
    }
    done = true;
    thread.join();
    for (size_t i = 0; i < jobs.size(); ++i) {
      check_outcome(outcomes.at(static_cast<int64_t>(i) + 1), alone(options, jobs[i], 512), false);
    }
  }
}

GPTOSS_TEST(pages_of_the_wrong_size_or_group_are_refused) {
  FakeEngine fake({}, 256, {.max_sequences = 1});
  Engine& engine = *fake.engine;
  const std::vector<uint8_t> bytes(static_cast<size_t>(engine.memory().page[0]));
  const auto found = [&](PageRef ref, size_t size) {
    FoundPages pages{};
    pages.refs = {ref};
    pages.bytes = {std::span(bytes).first(size)};
    return pages;
  };
  engine.deliver(found({0, 1}, bytes.size()));
  GPTOSS_CHECK_THROWS(std::invalid_argument, engine.deliver(found({0, 0}, bytes.size() - 1)));
  GPTOSS_CHECK_THROWS(std::invalid_argument, engine.deliver(found({0, 2}, bytes.size())));
  GPTOSS_CHECK_THROWS(std::invalid_argument, engine.deliver(found({-1, 0}, bytes.size())));
  GPTOSS_CHECK_THROWS(std::invalid_argument,
                      engine.want({.tokens = {}, .salt = 0, .refs = {{0, -1}}}));
}

}  // namespace
}  // namespace gptoss::test
