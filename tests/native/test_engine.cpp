// The engine over a small random model in memory: however a request is cut, batched, preempted or
// interrupted, its tokens are those that it gets alone.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "backend/layers.h"
#include "core/check.h"
#include "cpu/isa/isa.h"
#include "engine/engine.h"
#include "harness.h"
#include "small_model.h"

namespace gptoss::test {
namespace {

constexpr int kMaxStepTokens = 24;

struct Setup {
  int threads = 2;
  Precision precision = Precision::reference;
  Format dense = Format::bf16;
  int context_length = 512;
  int max_sequences = 4;
  int64_t kv_pages = 0;  // 0: as many as the sequences can use
  bool prefix_cache = true;
  bool speculative = false;
};

// The CPU backend, with a call at the beginning of every step.
class HookedBackend final : public Backend {
 public:
  HookedBackend(std::unique_ptr<Backend> inner, std::function<void()> hook)
      : inner_(std::move(inner)), hook_(std::move(hook)) {}

  std::string description() const override { return inner_->description(); }
  std::string arithmetic() const override { return inner_->arithmetic(); }
  const BackendTraits& traits() const override { return inner_->traits(); }
  StepCost cost() const override { return inner_->cost(); }
  MemoryPlan plan(const StepLimits& limits) const override { return inner_->plan(limits); }
  void prepare(const StepLimits& limits, std::span<const int> n_pages) override {
    inner_->prepare(limits, n_pages);
  }
  void open_slot(int slot, std::span<const int32_t> prompt,
                 std::span<const int32_t> output) override {
    inner_->open_slot(slot, prompt, output);
  }
  void append_output(int slot, std::span<const int32_t> tokens) override {
    inner_->append_output(slot, tokens);
  }
  void close_slot(int slot) override { inner_->close_slot(slot); }
  void copy_pages(std::span<const PageCopy> copies) override { inner_->copy_pages(copies); }
  std::string kv_layout() const override { return inner_->kv_layout(); }
  void read_pages(int group, std::span<const int32_t> pages, uint8_t* bytes) override {
    inner_->read_pages(group, pages, bytes);
  }
  void write_pages(int group, std::span<const int32_t> pages, const uint8_t* bytes) override {
    inner_->write_pages(group, pages, bytes);
  }
  StepId submit(const StepInput& input, const std::atomic<bool>& abandon) override {
    hook_();
    return inner_->submit(input, abandon);
  }
  void sample(StepId step, const SampleInput& input) override { inner_->sample(step, input); }
  StepResult wait(StepId step) override { return inner_->wait(step); }
  void read_logits(StepId step, int first_row, int n_rows, float* logits) override {
    inner_->read_logits(step, first_row, n_rows, logits);
  }
  void read(StepId step, int keep, Activation activation, int layer, void* values) override {
    inner_->read(step, keep, activation, layer, values);
  }
  PhaseSeconds phase_seconds() const override { return inner_->phase_seconds(); }

 private:
  std::unique_ptr<Backend> inner_;
  std::function<void()> hook_;
};

StepLimits limits_of(const Setup& setup) {
  return {.max_tokens = kMaxStepTokens,
          .max_sequences = setup.max_sequences,
          .max_logit_rows = Engine::logit_rows(setup.max_sequences),
          .max_pages_per_sequence = KvCache::pages_for(setup.context_length)};
}

std::unique_ptr<Engine> make_engine(const Setup& setup = {}, std::function<void()> hook = {}) {
  const ModelConfig config = small_config();
  auto backend =
      make_backend("cpu", small_weights(config),
                   {.threads = setup.threads, .precision = setup.precision, .dense = setup.dense});
  const int64_t pages = setup.kv_pages > 0 ? setup.kv_pages : 8 * setup.max_sequences;
  const int64_t kv_bytes = pages * backend->plan(limits_of(setup)).page[0];
  if (hook) backend = std::make_unique<HookedBackend>(std::move(backend), std::move(hook));
  return std::make_unique<Engine>(std::move(backend), config, std::vector<int32_t>{96},
                                  EngineOptions{.context_length = setup.context_length,
                                                .max_step_tokens = kMaxStepTokens,
                                                .max_sequences = setup.max_sequences,
                                                .prefix_cache = setup.prefix_cache,
                                                .kv_memory_bytes = kv_bytes,
                                                .speculative = setup.speculative});
}

std::vector<int32_t> prompt(uint64_t seed, int length) {
  Random random(seed);
  std::vector<int32_t> tokens(static_cast<size_t>(length));
  for (int32_t& token : tokens) token = random.below(97);
  return tokens;
}

// A request's parameters, all in one place.
struct Params {
  int max_tokens = -1;
  float temperature = 1.0f, top_p = 1.0f, min_p = 0.0f;
  int top_k = 0;
  float repetition_penalty = 1.0f, presence_penalty = 0.0f, frequency_penalty = 0.0f;
  std::vector<TokenBias> logit_bias;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  uint64_t seed = 0;
  int logprobs = -1;
};

void submit(Engine& engine, int64_t id, const std::vector<int32_t>& tokens, const Params& params) {
  auto request = std::make_shared<RequestParams>();
  request->rule = {.temperature = params.temperature,
                   .top_p = params.top_p,
                   .min_p = params.min_p,
                   .top_k = params.top_k,
                   .repetition_penalty = params.repetition_penalty,
                   .presence_penalty = params.presence_penalty,
                   .frequency_penalty = params.frequency_penalty,
                   .seed = 0,
                   .n_logprobs = params.logprobs};
  request->stop = {.max_tokens = params.max_tokens,
                   .min_tokens = 0,
                   .token_ids = params.stop_token_ids,
                   .ignore_eos = params.ignore_eos};
  request->biases = params.logit_bias;
  engine.submit(id, tokens, request, params.seed);
}

Params params_of(int max_tokens, uint64_t seed = 0) {
  Params params;
  params.max_tokens = max_tokens;
  params.temperature = seed == 0 ? 0.0f : 1.0f;
  params.ignore_eos = true;
  params.seed = seed;
  return params;
}

using Tokens = std::map<int64_t, std::vector<int32_t>>;

void take(const std::vector<Event>& events, Tokens& tokens) {
  for (const Event& event : events) {
    if (event.tokens.empty()) continue;
    auto& mine = tokens[event.sequence];
    mine.insert(mine.end(), event.tokens.begin(), event.tokens.end());
  }
}

size_t count_tokens(const std::vector<Event>& events) {
  size_t count = 0;
  for (const Event& event : events) count += event.tokens.size();
  return count;
}

Tokens run_to_end(Engine& engine) {
  Tokens tokens;
  while (!engine.idle()) take(engine.step(), tokens);
  return tokens;
}

struct Job {
  uint64_t seed;
  int prompt_length, max_tokens;
};
constexpr Job kJobs[] = {{1, 40, 70}, {2, 150, 30}, {3, 64, 70},
                         {4, 1, 3},   {5, 200, 20}, {6, 33, 33}};

// What each job gets with the engine to itself.
const std::vector<std::vector<int32_t>>& alone() {
  static const std::vector<std::vector<int32_t>> results = [] {
    std::vector<std::vector<int32_t>> list;
    for (const Job& job : kJobs) {
      const auto engine = make_engine();
      submit(*engine, 1, prompt(job.seed, job.prompt_length), params_of(job.max_tokens, job.seed));
      list.push_back(run_to_end(*engine).begin()->second);
    }
    return list;
  }();
  return results;
}

std::vector<int64_t> submit_all(Engine& engine) {
  std::vector<int64_t> ids;
  for (const Job& job : kJobs) {
    ids.push_back(static_cast<int64_t>(ids.size()) + 100);
    submit(engine, ids.back(), prompt(job.seed, job.prompt_length),
           params_of(job.max_tokens, job.seed));
  }
  return ids;
}

void check_as_alone(const std::vector<int64_t>& ids, Tokens& found) {
  for (size_t i = 0; i < ids.size(); ++i) {
    GPTOSS_CHECK(found[ids[i]] == alone()[i], "job ", i, ": ", found[ids[i]].size(), " tokens of ",
                 alone()[i].size());
  }
}

bool all_pages_free(Engine& engine) {
  const EngineStats stats = engine.stats();
  return std::all_of(stats.pages.begin(), stats.pages.end(), [](const PageStats& group) {
    return group.free + group.cached == group.total;
  });
}

// Logits at all positions; what else the engine makes meanwhile goes to `others`.
std::vector<float> logits_of(Engine& engine, const std::vector<int32_t>& tokens, int chunk_tokens,
                             Tokens* others = nullptr) {
  constexpr int64_t kId = 987654;
  std::vector<float> logits(tokens.size() * 97);
  std::vector<int32_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), 0);
  engine.submit_read(kId, tokens, {positions, chunk_tokens, logits.data(), nullptr},
                     std::make_shared<RequestParams>());
  for (;;) {
    const std::vector<Event> events = engine.step();
    if (others != nullptr) take(events, *others);
    for (const Event& event : events) {
      if (event.sequence == kId) {
        GPTOSS_CHECK(event.finish == FinishReason::stop && event.tokens.empty());
        return logits;
      }
    }
  }
}

// AMX has a dense matmul of its own in the default mode.
GPTOSS_TEST(logits_do_not_depend_on_chunks_threads_or_isa) {
  const std::vector<int32_t> tokens = prompt(9, 180);
  struct Mode {
    Precision precision;
    Format dense;
  };
  for (const Mode mode :
       {Mode{Precision::reference, Format::bf16}, Mode{Precision::automatic, Format::bf16},
        Mode{Precision::automatic, Format::bf12}, Mode{Precision::automatic, Format::q8}}) {
    const Precision precision = mode.precision;
    std::vector<float> fused;
    for (const cpu::Isa& isa : cpu::isas()) {
      if (!isa.supported()) continue;
      const cpu::Kernels* const kernels = isa.kernels;
      set_variable("GPTOSS_ISA", kernels->name);
      const auto engine = make_engine({.threads = 1, .precision = precision, .dense = mode.dense});
      const auto threaded =
          make_engine({.threads = 3, .precision = precision, .dense = mode.dense});
      set_variable("GPTOSS_ISA", "");
      const std::vector<float> whole = logits_of(*engine, tokens, kMaxStepTokens);
      for (const float logit : whole) GPTOSS_CHECK(std::isfinite(logit), kernels->name);
      for (const int chunk : {1, 7}) {
        GPTOSS_CHECK(same_bits(logits_of(*engine, tokens, chunk), whole), kernels->name, " ",
                     chunk);
      }
      GPTOSS_CHECK(same_bits(logits_of(*threaded, tokens, 13), whole), kernels->name);
      const bool own_sums =
          precision == Precision::automatic && kernels->bf16.fast.run != kernels->bf16.exact.run;
      if (kernels == &cpu::kScalarKernels || own_sums) continue;
      if (fused.empty()) fused = whole;
      GPTOSS_CHECK(same_bits(whole, fused), kernels->name);
    }
  }
}

GPTOSS_TEST(requests_in_a_batch_get_the_tokens_that_they_get_alone) {
  const auto engine = make_engine();
  const std::vector<int64_t> ids = submit_all(*engine);
  Tokens found = run_to_end(*engine);
  check_as_alone(ids, found);
  GPTOSS_CHECK(engine->stats().preemptions == 0);
  GPTOSS_CHECK(engine->stats().running == 0 && engine->stats().waiting == 0);
  GPTOSS_CHECK(all_pages_free(*engine));
}

GPTOSS_TEST(preempted_requests_lose_nothing) {
  // 4 pages: the longest job alone needs 4, so that jobs push each other out.
  const auto engine = make_engine({.context_length = 256, .kv_pages = 4});
  const std::vector<int64_t> ids = submit_all(*engine);
  Tokens found = run_to_end(*engine);
  check_as_alone(ids, found);
  GPTOSS_CHECK(engine->stats().preemptions > 0);
  GPTOSS_CHECK(all_pages_free(*engine));
}

GPTOSS_TEST(a_cancelled_request_ends_and_disturbs_no_other) {
  const auto engine = make_engine({.max_sequences = 2});
  const std::vector<int64_t> ids = submit_all(*engine);
  Tokens found;
  for (int step = 0; step < 8; ++step) take(engine->step(), found);
  const size_t before = found[ids[0]].size();
  GPTOSS_CHECK(before > 0 && before < alone()[0].size());
  engine->cancel(ids[0]);  // running
  engine->cancel(ids[5]);  // waiting
  engine->cancel(12345);   // unknown
  while (!engine->idle()) take(engine->step(), found);
  GPTOSS_CHECK(found[ids[0]].size() == before);
  GPTOSS_CHECK(found[ids[5]].empty());
  for (const size_t i : {1, 2, 3, 4}) GPTOSS_CHECK(found[ids[i]] == alone()[i], "job ", i);
  GPTOSS_CHECK(all_pages_free(*engine));
}

GPTOSS_TEST(a_step_that_failed_ends_all_sequences_and_no_later_one) {
  int calls = 0;
  const auto engine = make_engine({}, [&] {
    if (++calls == 11) throw std::runtime_error("out of something");
  });
  submit_all(*engine);
  Tokens found;
  bool failed = false;
  while (!engine->idle()) {
    try {
      take(engine->step(), found);
    } catch (const std::runtime_error&) {
      failed = true;
      GPTOSS_CHECK(engine->idle() && all_pages_free(*engine));
    }
  }
  GPTOSS_CHECK(failed);
  const std::vector<int64_t> ids = submit_all(*engine);
  found = run_to_end(*engine);
  check_as_alone(ids, found);
  GPTOSS_CHECK(all_pages_free(*engine));
}

GPTOSS_TEST(a_step_is_abandoned_when_all_of_its_requests_are_cancelled) {
  Engine* target = nullptr;
  std::vector<int64_t> to_cancel;
  const auto engine = make_engine({}, [&] {
    for (const int64_t id : to_cancel) target->cancel(id);
  });
  target = engine.get();
  const auto seconds_in_layers = [&] {
    return engine->stats().phases[static_cast<size_t>(Phase::attend)];
  };
  const std::vector<int64_t> ids = submit_all(*engine);
  Tokens found;
  for (int step = 0; step < 10; ++step) take(engine->step(), found);
  // Without one of its requests the step goes on for the others.
  to_cancel = {ids[1]};
  double before = seconds_in_layers();
  GPTOSS_CHECK(count_tokens(engine->step()) > 0);
  GPTOSS_CHECK(seconds_in_layers() > before);
  to_cancel = ids;
  before = seconds_in_layers();
  GPTOSS_CHECK(count_tokens(engine->step()) == 0);
  GPTOSS_CHECK(seconds_in_layers() == before);  // not a layer more
  to_cancel.clear();
  GPTOSS_CHECK(count_tokens(engine->step()) == 0);
  GPTOSS_CHECK(engine->idle() && all_pages_free(*engine));

  submit(*engine, 7, prompt(kJobs[0].seed, kJobs[0].prompt_length),
         params_of(kJobs[0].max_tokens, kJobs[0].seed));
  found = run_to_end(*engine);
  GPTOSS_CHECK(found[7] == alone()[0]);

  to_cancel = {8};
  std::vector<float> logits(97);
  engine->submit_read(8, prompt(1, 50), {{49}, 10, logits.data(), nullptr},
                      std::make_shared<RequestParams>());
  std::vector<Event> events = engine->step();
  while (events.empty()) events = engine->step();
  GPTOSS_CHECK(events[0].sequence == 8 && events[0].finish == FinishReason::abort);
  GPTOSS_CHECK(all_pages_free(*engine));
}

// Layers that note what they are asked for, and want to stop in one of them.
class NotingLayers final : public Layers {
 public:
  std::vector<std::string> phases;
  std::atomic<bool> abandon{false};
  int stops_in_layer = -1;

  void begin(const StepInput&) override { phases.push_back("begin"); }
  void embed() override { phases.push_back("embed"); }
  void attention_in(int layer) override {
    phases.push_back("in " + std::to_string(layer));
    if (layer == stops_in_layer) abandon = true;
  }
  void attend(int) override { phases.push_back("attend"); }
  void attention_out(int) override { phases.push_back("out"); }
  void route(int) override { phases.push_back("route"); }
  void experts_in(int) override { phases.push_back("experts in"); }
  void experts_out(int) override { phases.push_back("experts out"); }
  void unembed() override { phases.push_back("unembed"); }
};

GPTOSS_TEST(a_pass_is_left_between_two_layers) {
  const std::vector<std::string> layer = {"attend", "out", "route", "experts in", "experts out"};
  for (const int stops : {-1, 0, 1}) {
    NotingLayers layers;
    layers.stops_in_layer = stops;
    PhaseSeconds seconds{};
    GPTOSS_CHECK(run_layers(layers, 3, {}, layers.abandon, seconds) == (stops < 0));
    std::vector<std::string> expected = {"begin", "embed"};
    for (int i = 0; i < (stops < 0 ? 3 : stops + 1); ++i) {
      expected.push_back("in " + std::to_string(i));
      expected.insert(expected.end(), layer.begin(), layer.end());
    }
    if (stops < 0) expected.push_back("unembed");
    GPTOSS_CHECK(layers.phases == expected);
  }
}

GPTOSS_TEST(requests_come_and_go_from_other_threads) {
  const auto engine = make_engine();
  std::atomic<bool> done{false};
  std::vector<int64_t> ids;
  std::thread other([&] {
    for (const Job& job : kJobs) {
      ids.push_back(static_cast<int64_t>(ids.size()));
      submit(*engine, ids.back(), prompt(job.seed, job.prompt_length),
             params_of(job.max_tokens, job.seed));
      submit(*engine, 1000 + ids.back(), prompt(77, 30), params_of(30));
      (void)engine->stats();
      std::this_thread::yield();
      engine->cancel(1000 + ids.back());
    }
    done = true;
  });
  Tokens found;
  while (!done || !engine->idle()) take(engine->step(), found);
  other.join();
  check_as_alone(ids, found);
}

// Twelve requests with one prompt, and as many that only begin with it.
std::vector<int64_t> submit_alike(Engine& engine, int prompt_length, int own_tokens) {
  std::vector<int64_t> ids;
  for (int i = 0; i < 12; ++i) {
    std::vector<int32_t> tokens = prompt(50, prompt_length);
    const std::vector<int32_t> own = prompt(60 + static_cast<uint64_t>(i), own_tokens);
    tokens.insert(tokens.end(), own.begin(), own.end());
    ids.push_back(i);
    submit(engine, i, tokens, params_of(10, 1 + static_cast<uint64_t>(i)));
  }
  return ids;
}

GPTOSS_TEST(prompts_that_come_together_are_computed_once) {
  for (const int length : {3, 40, 64, 130}) {
    for (const int own : {0, 17}) {
      Tokens expected;
      for (int i = 0; i < 12; ++i) {
        const auto single = make_engine();
        for (const int64_t id : submit_alike(*single, length, own)) {
          if (id != i) single->cancel(id);
        }
        expected.merge(run_to_end(*single));
      }
      const auto engine = make_engine({.max_sequences = 12});
      const std::vector<int64_t> ids = submit_alike(*engine, length, own);
      GPTOSS_CHECK(run_to_end(*engine) == expected, length, " + ", own);
      const EngineStats stats = engine->stats();
      GPTOSS_CHECK(stats.requested_tokens == 12 * (length + own));
      GPTOSS_CHECK(stats.prompt_tokens + stats.cached_tokens == stats.requested_tokens);
      // Of what all have in common one computed all, the others the last token at most. Where that
      // is a few tokens of more, nobody waits for them.
      const int64_t once = own == 0 ? length + 11 : length + 12 * own;
      if (own == 0 || length > own) GPTOSS_CHECK(stats.prompt_tokens == once, length, " + ", own);
      GPTOSS_CHECK(all_pages_free(*engine));
    }
  }
}

GPTOSS_TEST(who_waits_for_a_prompt_computes_it_when_the_other_is_gone) {
  const auto engine = make_engine();
  const std::vector<int32_t> tokens = prompt(50, 200);
  for (int64_t id = 0; id < 3; ++id) submit(*engine, id, tokens, params_of(5));
  submit(*engine, 3, prompt(51, 30), params_of(5));
  (void)engine->step();
  GPTOSS_CHECK(engine->stats().running == 1 && engine->stats().waiting == 3);
  (void)engine->step();
  engine->cancel(0);
  (void)engine->step();
  // The next one goes on from what the first left behind.
  GPTOSS_CHECK(engine->stats().running == 1 && engine->stats().waiting == 2);
  GPTOSS_CHECK(engine->stats().cached_tokens == 2 * kMaxStepTokens);
  const Tokens found = run_to_end(*engine);
  GPTOSS_CHECK(found.size() == 3 && found.at(1) == found.at(2) && found.at(1).size() == 5);
  GPTOSS_CHECK(all_pages_free(*engine));
}

GPTOSS_TEST(others_overtake_who_waits_for_a_prompt) {
  const auto engine = make_engine();
  submit(*engine, 0, prompt(50, 10), params_of(5));
  submit(*engine, 1, prompt(50, 10), params_of(5));
  submit(*engine, 2, prompt(51, 4), params_of(5));
  (void)engine->step();
  GPTOSS_CHECK(engine->stats().running == 2 && engine->stats().waiting == 1);
  (void)engine->step();
  GPTOSS_CHECK(engine->stats().running == 3);
}

GPTOSS_TEST(nobody_waits_without_a_prefix_cache) {
  const auto engine = make_engine({.prefix_cache = false});
  for (int64_t id = 0; id < 3; ++id) submit(*engine, id, prompt(50, 8), params_of(5));
  (void)engine->step();
  GPTOSS_CHECK(engine->stats().running == 3 && engine->stats().prompt_tokens == 24);
  (void)run_to_end(*engine);
  GPTOSS_CHECK(engine->stats().cached_tokens == 0);
  GPTOSS_CHECK(engine->stats().pages[0].free == engine->stats().pages[0].total);
}

GPTOSS_TEST(scoring_waits_for_its_turn_and_disturbs_nobody) {
  const auto engine = make_engine({.context_length = 256, .kv_pages = 4});
  const std::vector<int64_t> ids = submit_all(*engine);
  Tokens found;
  for (int step = 0; step < 6; ++step) take(engine->step(), found);
  GPTOSS_CHECK(engine->stats().running > 0);
  const std::vector<int32_t> tokens = prompt(9, 256);
  const auto roomy = make_engine();
  GPTOSS_CHECK(same_bits(logits_of(*engine, tokens, 24, &found), logits_of(*roomy, tokens, 24)));
  while (!engine->idle()) take(engine->step(), found);
  check_as_alone(ids, found);
  GPTOSS_CHECK(all_pages_free(*engine));
}

GPTOSS_TEST(rates_count_steps_by_their_kind) {
  const auto engine = make_engine();
  GPTOSS_CHECK(engine->stats().prefill.overall_tps() == 0.0);
  submit(*engine, 0, prompt(50, 20), params_of(5));
  (void)engine->step();
  GPTOSS_CHECK(engine->stats().prefill.overall_tps() > 0.0);
  GPTOSS_CHECK(engine->stats().decode.overall_tps() == 0.0);
  (void)run_to_end(*engine);
  GPTOSS_CHECK(engine->stats().decode.overall_tps() > 0.0);
  Rate rate;
  for (int i = 0; i < 100; ++i) rate.add(i < 36 ? 1 : 3, 0.5);
  GPTOSS_CHECK(is_near(rate.recent_tps(), 6.0, 1e-9));
  GPTOSS_CHECK(is_near(rate.overall_tps(), (36 + 64 * 3) / 50.0, 1e-9));
}

GPTOSS_TEST(several_threads_submit_cancel_and_look_while_the_engine_steps) {
  const auto engine = make_engine();
  std::atomic<int> running{3};
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (int64_t i = 0; i < 12; ++i) {
        const int64_t id = 100 * t + i;
        // Two in three begin alike; every other one is cancelled, sooner or later.
        submit(*engine, id, prompt(i % 3 == 0 ? 70 : 71, 40), params_of(8, 5));
        wrong += engine->stats().running > 4;
        for (int spin = 0; spin < i * 20; ++spin) std::this_thread::yield();
        if (i % 2 == 1) engine->cancel(id);
      }
      --running;
    });
  }
  Tokens found;
  while (running > 0 || !engine->idle()) take(engine->step(), found);
  for (std::thread& thread : threads) thread.join();
  GPTOSS_CHECK(wrong == 0);
  Tokens expected;
  const auto alone_engine = make_engine();
  submit(*alone_engine, 0, prompt(70, 40), params_of(8, 5));
  submit(*alone_engine, 1, prompt(71, 40), params_of(8, 5));
  expected = run_to_end(*alone_engine);
  for (int64_t t = 0; t < 3; ++t) {
    for (int64_t i = 0; i < 12; i += 2) {
      GPTOSS_CHECK(found[100 * t + i] == expected[i % 3 == 0 ? 0 : 1], t, " ", i);
    }
  }
  GPTOSS_CHECK(all_pages_free(*engine));
}

GPTOSS_TEST(several_engines_run_at_once) {
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      const auto engine = make_engine();
      const std::vector<int64_t> ids = submit_all(*engine);
      const Tokens found = run_to_end(*engine);
      for (size_t job = 0; job < ids.size(); ++job) wrong += found.at(ids[job]) != alone()[job];
    });
  }
  for (std::thread& thread : threads) thread.join();
  GPTOSS_CHECK(wrong == 0);
}

GPTOSS_TEST(a_request_ends_for_its_reason) {
  const auto engine = make_engine({.context_length = 70});
  const auto last_event = [&](const std::vector<int32_t>& tokens, const Params& params,
                              size_t& count) {
    submit(*engine, 1, tokens, params);
    std::vector<Event> events;
    while (!engine->idle()) {
      for (Event& event : engine->step()) events.push_back(std::move(event));
    }
    for (size_t i = 0; i + 1 < events.size(); ++i) {
      GPTOSS_CHECK(events[i].finish == FinishReason::none);
    }
    count = count_tokens(events);
    return events.back();
  };
  size_t count = 0;
  GPTOSS_CHECK(last_event(prompt(1, 5), params_of(7), count).finish == FinishReason::length);
  GPTOSS_CHECK(count == 7);
  GPTOSS_CHECK(last_event(prompt(1, 60), params_of(-1), count).finish == FinishReason::length);
  GPTOSS_CHECK(count == 10);  // the context is full
  Params stops = params_of(50);
  stops.logit_bias = {{13, 1000.0f}};
  stops.stop_token_ids = {13};
  GPTOSS_CHECK(last_event(prompt(1, 5), stops, count).finish == FinishReason::stop && count == 1);
  Params eos = params_of(9);
  eos.logit_bias = {{96, 1000.0f}};
  GPTOSS_CHECK(last_event(prompt(1, 5), eos, count).finish == FinishReason::length && count == 9);
  eos.ignore_eos = false;
  GPTOSS_CHECK(last_event(prompt(1, 5), eos, count).finish == FinishReason::stop && count == 1);
}

GPTOSS_TEST(bad_requests_are_refused) {
  const auto engine = make_engine({.context_length = 70});
  GPTOSS_CHECK_THROWS(std::invalid_argument, submit(*engine, 1, {}, params_of(1)));
  GPTOSS_CHECK_THROWS(std::invalid_argument, submit(*engine, 1, {97}, params_of(1)));
  GPTOSS_CHECK_THROWS(std::invalid_argument, submit(*engine, 1, {-1}, params_of(1)));
  GPTOSS_CHECK_THROWS(std::invalid_argument, submit(*engine, 1, prompt(1, 70), params_of(1)));
  const auto refuses = [&](auto change) {
    Params params = params_of(1);
    change(params);
    GPTOSS_CHECK_THROWS(std::invalid_argument, submit(*engine, 1, {1}, params));
  };
  refuses([](Params& p) { p.temperature = -1.0f; });
  refuses([](Params& p) { p.temperature = std::nanf(""); });
  refuses([](Params& p) { p.top_p = 0.0f; });
  refuses([](Params& p) { p.top_p = 1.1f; });
  refuses([](Params& p) { p.top_k = -1; });
  refuses([](Params& p) { p.min_p = 1.1f; });
  refuses([](Params& p) { p.repetition_penalty = 0.0f; });
  refuses([](Params& p) { p.logit_bias = {{97, 1.0f}}; });
  refuses([](Params& p) { p.stop_token_ids = {-1}; });
  refuses([](Params& p) { p.logprobs = kMaxLogprobs + 1; });
  refuses([](Params& p) { p.max_tokens = 0; });
  GPTOSS_CHECK(engine->idle());

  std::vector<float> logits(97);
  const auto refuses_positions = [&](std::vector<int32_t> positions, int chunk_tokens) {
    GPTOSS_CHECK_THROWS(
        std::invalid_argument,
        engine->submit_read(1, prompt(1, 5),
                            {std::move(positions), chunk_tokens, logits.data(), nullptr},
                            std::make_shared<RequestParams>()));
  };
  refuses_positions({5}, 1);
  refuses_positions({-1}, 1);
  refuses_positions({2, 1}, 1);
  refuses_positions({0}, 0);
  refuses_positions({0}, kMaxStepTokens + 1);
  GPTOSS_CHECK_THROWS(OutOfMemory, make_engine({.context_length = 512, .kv_pages = 7}));
  GPTOSS_CHECK_THROWS(std::invalid_argument, make_engine({.context_length = 513}));
}

// Requests whose output repeats itself: some of few tokens, so that guesses are often right and
// often wrong, with all that can change or end an output.
struct Repetitive {
  std::vector<int32_t> prompt;
  Params params;
};

std::vector<Repetitive> repetitive_requests() {
  std::vector<Repetitive> requests;
  for (uint64_t i = 0; i < 12; ++i) {
    Repetitive request{prompt(50 + i, 1 + static_cast<int>(i * 17)), params_of(60, i / 2)};
    request.params.logprobs = 0;
    for (int32_t token = 0; token < 2 + static_cast<int32_t>(i % 3); ++token) {
      if (i % 4 != 3) request.params.logit_bias.push_back({10 * token, 100.0f});
    }
    switch (i) {
      case 2:
        request.params.repetition_penalty = 1.3f;
        request.params.frequency_penalty = 0.05f;
        break;
      case 4:
        request.params.presence_penalty = -0.5f;
        request.params.top_p = 0.8f;
        break;
      case 5:
        request.params.max_tokens = -1;  // to the context's end
        break;
      case 6:
        request.params.logit_bias.push_back({7, 97.0f});
        request.params.stop_token_ids = {7};
        break;
      case 8:
        request.params.logprobs = 3;
        request.params.top_k = 2;
        break;
      case 9:
        request.params.logprobs = -1;
        request.params.max_tokens = 1;
        break;
      default:
        break;
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

// A token of an event, however many that has.
struct Made {
  int32_t token;
  FinishReason finish;
  float logprob;
  std::vector<TokenLogprob> top;
};

void append(const Event& event, std::vector<Made>& made) {
  for (size_t i = 0; i < event.tokens.size(); ++i) {
    const bool last = i + 1 == event.tokens.size();
    const bool scored = !event.logprobs.empty();
    made.push_back({event.tokens[i], last ? event.finish : FinishReason::none,
                    scored ? event.logprobs[i] : 0.0f,
                    scored ? event.top[i] : std::vector<TokenLogprob>()});
  }
}

void check_same_events(const std::vector<Made>& found, const std::vector<Made>& expected,
                       size_t request) {
  GPTOSS_CHECK(found.size() == expected.size(), "request ", request, ": ", found.size(), " of ",
               expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    const Made& a = found[i];
    const Made& b = expected[i];
    GPTOSS_CHECK(a.token == b.token && a.finish == b.finish, "request ", request, " token ", i);
    GPTOSS_CHECK(same_bits({&a.logprob, 1}, {&b.logprob, 1}) && a.top.size() == b.top.size());
    for (size_t n = 0; n < a.top.size(); ++n) {
      GPTOSS_CHECK(a.top[n].token == b.top[n].token);
      GPTOSS_CHECK(same_bits({&a.top[n].logprob, 1}, {&b.top[n].logprob, 1}));
    }
  }
}

// The tokens of each request.
using Events = std::vector<std::vector<Made>>;

Events run_repetitive(Engine& engine, int& steps, bool one_by_one,
                      const std::function<void()>& between_steps = {}) {
  const std::vector<Repetitive> requests = repetitive_requests();
  Events events(requests.size());
  const auto run = [&] {
    for (; !engine.idle(); ++steps) {
      for (const Event& event : engine.step()) {
        append(event, events[static_cast<size_t>(event.sequence)]);
      }
      if (between_steps) between_steps();
    }
  };
  steps = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    submit(engine, static_cast<int64_t>(i), requests[i].prompt, requests[i].params);
    if (one_by_one) run();
  }
  run();
  return events;
}

constexpr int kShortContext = 250;

const Events& plain_events() {
  static const Events events = [] {
    int steps = 0;
    return run_repetitive(*make_engine({.context_length = kShortContext}), steps, true);
  }();
  return events;
}

GPTOSS_TEST(speculation_changes_no_event_and_saves_steps) {
  const auto plain = make_engine({.context_length = kShortContext});
  int plain_steps = 0;
  run_repetitive(*plain, plain_steps, true);
  const int64_t generated = plain->stats().generated_tokens;
  for (const bool one_by_one : {true, false}) {
    const auto engine = make_engine({.context_length = kShortContext, .speculative = true});
    int steps = 0;
    const Events found = run_repetitive(*engine, steps, one_by_one);
    for (size_t i = 0; i < found.size(); ++i) check_same_events(found[i], plain_events()[i], i);
    const EngineStats stats = engine->stats();
    const int64_t wrong = stats.drafted_tokens - stats.accepted_tokens;
    GPTOSS_CHECK(stats.accepted_tokens > 25 && wrong > 10, stats.accepted_tokens, " ", wrong);
    GPTOSS_CHECK(all_pages_free(*engine));
    GPTOSS_CHECK(stats.generated_tokens == generated);
    GPTOSS_CHECK(stats.preemptions == 0);
    if (one_by_one) {
      GPTOSS_CHECK(steps == plain_steps - stats.accepted_tokens, steps, " ", plain_steps);
      // Nothing wrong stays in the cache, and nothing right is missing.
      for (Engine* const cached : {engine.get(), plain.get()}) {
        for (size_t i = 0; i < found.size(); ++i) {
          std::vector<int32_t> longer = repetitive_requests()[i].prompt;
          for (const Made& made : found[i]) longer.push_back(made.token);
          longer.resize(std::min<size_t>(longer.size(), 200));
          submit(*cached, static_cast<int64_t>(100 + i), longer, params_of(8));
        }
      }
      Tokens again = run_to_end(*engine);
      GPTOSS_CHECK(again == run_to_end(*plain));
      GPTOSS_CHECK(engine->stats().cached_tokens == plain->stats().cached_tokens);
    }
  }
}

GPTOSS_TEST(speculation_survives_preemption) {
  const auto engine =
      make_engine({.context_length = kShortContext, .kv_pages = 5, .speculative = true});
  int steps = 0;
  const Events found = run_repetitive(*engine, steps, false);
  for (size_t i = 0; i < found.size(); ++i) check_same_events(found[i], plain_events()[i], i);
  GPTOSS_CHECK(engine->stats().preemptions > 0 && engine->stats().accepted_tokens > 25);
  GPTOSS_CHECK(all_pages_free(*engine));
}

GPTOSS_TEST(cancelled_speculation_disturbs_no_other) {
  const auto engine = make_engine({.context_length = kShortContext, .speculative = true});
  int steps = 0;
  std::set<size_t> cancelled;
  const Events found = run_repetitive(*engine, steps, false, [&] {
    const auto victim = static_cast<size_t>(steps * 5 % 12);
    if (steps % 9 == 8 && cancelled.insert(victim).second) {
      engine->cancel(static_cast<int64_t>(victim));
    }
  });
  GPTOSS_CHECK(cancelled.size() > 3);
  int cut = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    std::vector<Made> expected = plain_events()[i];
    if (cancelled.contains(i) && found[i].size() < expected.size()) {
      ++cut;
      expected.resize(found[i].size());
    }
    check_same_events(found[i], expected, i);
  }
  GPTOSS_CHECK(cut > 0);
  GPTOSS_CHECK(all_pages_free(*engine));
}

// Says one token for ever.
Params chorus(int max_tokens) {
  Params params = params_of(max_tokens);
  params.logit_bias = {{13, 1000.0f}};
  return params;
}

GPTOSS_TEST(guesses_leave_the_step_to_prompts) {
  for (const int other : {0, 16}) {
    const auto engine = make_engine({.speculative = true});
    submit(*engine, 1, {13, 13, 13, 13}, chorus(100));
    GPTOSS_CHECK(count_tokens(engine->step()) == 1);
    if (other > 0) submit(*engine, 2, prompt(3, other), params_of(2));
    // 16 tokens leave room in the step, but a guess is not likely enough to pay in it.
    const size_t made = count_tokens(engine->step());
    GPTOSS_CHECK(made == 2, made, " beside ", other);
    GPTOSS_CHECK((engine->stats().drafted_tokens == 0) == (other > 0));
    while (!engine->idle()) engine->step();
  }
  const auto engine = make_engine({.speculative = true});
  submit(*engine, 1, {13, 13, 13, 13}, chorus(100));
  size_t most = 0;
  for (int step = 0; step < 8; ++step) most = std::max(most, count_tokens(engine->step()));
  GPTOSS_CHECK(most > 4 && most <= 1 + Drafter::kMaxTokens, most);
  submit(*engine, 2, prompt(3, 200), params_of(1));
  for (int step = 0; step < 200 / kMaxStepTokens; ++step) {
    GPTOSS_CHECK(count_tokens(engine->step()) == 1);
  }
}

GPTOSS_TEST(guesses_end_where_the_request_must) {
  for (const int max_tokens : {-1, 90}) {
    const auto engine = make_engine({.context_length = kShortContext, .speculative = true});
    submit(*engine, 1, std::vector<int32_t>(30, 13), chorus(max_tokens));
    Tokens found;
    int64_t steps = 0;
    for (; !engine->idle(); ++steps) take(engine->step(), found);
    const size_t expected = max_tokens > 0 ? 90 : kShortContext - 30;
    GPTOSS_CHECK(found.at(1) == std::vector<int32_t>(expected, 13));
    const EngineStats stats = engine->stats();
    GPTOSS_CHECK(stats.accepted_tokens > 60, stats.accepted_tokens);
    GPTOSS_CHECK(stats.drafted_tokens == stats.accepted_tokens);
    // The prompt takes two steps.
    GPTOSS_CHECK(steps == 1 + static_cast<int64_t>(expected) - stats.accepted_tokens, steps);
  }
}

GPTOSS_TEST(a_stop_token_among_the_guesses_ends_the_request) {
  // 13 three times, and then the stop token, as the prompt has it over and over.
  std::vector<int32_t> tokens;
  for (int i = 0; i < 32; ++i) tokens.push_back(i % 4 < 3 ? 13 : 7);
  Params params = params_of(50);
  params.logit_bias = {{13, 1000.0f}, {7, 975.0f}};
  params.frequency_penalty = 10.0f;
  params.stop_token_ids = {7};
  const auto engine = make_engine({.speculative = true});
  submit(*engine, 1, tokens, params);
  std::vector<Made> events;
  while (!engine->idle()) {
    for (const Event& event : engine->step()) append(event, events);
  }
  GPTOSS_CHECK(events.size() == 4 && events[3].token == 7, events.size());
  GPTOSS_CHECK(events[3].finish == FinishReason::stop && events[2].finish == FinishReason::none);
  GPTOSS_CHECK(engine->stats().accepted_tokens == 3);
  // What was guessed beyond the end is not cached.
  tokens.insert(tokens.end(), {13, 13, 13, 7, 13, 13, 13});
  submit(*engine, 2, tokens, params_of(1));
  run_to_end(*engine);
  GPTOSS_CHECK(engine->stats().cached_tokens == 35);
  GPTOSS_CHECK(all_pages_free(*engine));
}

KvCache make_cache(
    const ModelConfig& config, int n_full, int n_window,
    KvCache::CopyPage copy = [](const PageCopy&) {}) {
  const int n_pages[] = {n_full, n_window};
  return KvCache(kv_groups(config), kMaxStepTokens, n_pages, std::move(copy));
}

int ring_of(const ModelConfig& config) {
  return KvCache::ring_pages(kv_groups(config)[1], kMaxStepTokens);
}

const std::vector<int32_t>& full(const SequencePages& pages) { return pages.tables[0]; }
const std::vector<int32_t>& window(const SequencePages& pages) { return pages.tables[1]; }

std::vector<int32_t> count_up(int length, int first = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(length));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// Runs a sequence of these tokens through the cache as the engine does; returns what was reused.
int run_sequence(KvCache& cache, const std::vector<int32_t>& tokens, int step = kMaxStepTokens) {
  SequencePages pages;
  const int reused = cache.reuse(pages, tokens);
  const int length = static_cast<int>(tokens.size());
  pages.border = length;
  for (int done = reused; done < length;) {
    done = std::min(length, done + step);
    GPTOSS_CHECK(cache.extend(pages, done));
    cache.commit(pages, tokens, done);
  }
  cache.finish(pages, tokens, length);
  return reused;
}

GPTOSS_TEST(the_cache_gives_pages_whole_or_not_at_all) {
  const ModelConfig config = small_config();
  const int ring = ring_of(config);
  GPTOSS_CHECK(ring == 2);  // 19 + 24 tokens touch at most 2 pages
  KvCache cache = make_cache(config, 5, 2 * ring);
  SequencePages a;
  SequencePages b;
  GPTOSS_CHECK(cache.extend(a, 1) && full(a).size() == 1 && cache.available_pages(1) == 3);
  GPTOSS_CHECK(cache.extend(a, 64) && full(a).size() == 1);
  GPTOSS_CHECK(cache.extend(a, 65) && full(a).size() == 2 && cache.available_pages(1) == 2);
  GPTOSS_CHECK(cache.extend(a, 250) && full(a).size() == 4 && window(a).size() == 2);
  GPTOSS_CHECK(cache.available_pages(0) == 1 && cache.available_pages(1) == 2);
  GPTOSS_CHECK(!cache.extend(b, 65));  // one page is left
  GPTOSS_CHECK(full(b).empty() && cache.available_pages(0) == 1);
  GPTOSS_CHECK(cache.extend(b, 64));
  std::set<int32_t> pages(full(a).begin(), full(a).end());
  pages.insert(full(b).begin(), full(b).end());
  GPTOSS_CHECK(pages == (std::set<int32_t>{0, 1, 2, 3, 4}));
  cache.release(a);
  cache.release(b);
  GPTOSS_CHECK(a.tables.empty());
  GPTOSS_CHECK(cache.available_pages(0) == 5 && cache.available_pages(1) == 2 * ring);
}

GPTOSS_TEST(the_cache_finds_the_longest_known_beginning) {
  const ModelConfig config = small_config();
  int copies = 0;
  KvCache cache = make_cache(config, 40, 20, [&](const PageCopy& page) {
    GPTOSS_CHECK(page.from != page.to);
    ++copies;
  });
  const std::vector<int32_t> first = count_up(150);
  GPTOSS_CHECK(run_sequence(cache, first) == 0);
  GPTOSS_CHECK(run_sequence(cache, first) == 149);  // one token is always left to compute
  GPTOSS_CHECK(copies == 2);                        // the last page, of both kinds

  std::vector<int32_t> longer = first;
  longer.insert(longer.end(), {7, 8, 9});
  GPTOSS_CHECK(run_sequence(cache, longer) == 150);
  std::vector<int32_t> branch = first;
  branch[140] = 3;
  GPTOSS_CHECK(run_sequence(cache, branch) == 140);
  GPTOSS_CHECK(run_sequence(cache, count_up(150, 1)) == 0);
  GPTOSS_CHECK(cache.available_pages(0) == 40 && cache.available_pages(1) == 20);
}

GPTOSS_TEST(an_incomplete_page_can_be_copied_while_its_sequence_goes_on) {
  const ModelConfig config = small_config();
  KvCache cache = make_cache(config, 12, 12);
  const std::vector<int32_t> tokens = count_up(200);
  SequencePages first;
  GPTOSS_CHECK(cache.reuse(first, tokens) == 0 && cache.extend(first, 24));
  cache.commit_all(first, tokens, 20);
  cache.commit_all(first, tokens, 24);  // the same page again, further
  GPTOSS_CHECK(cache.known_length(tokens) == 24 && cache.available_pages(0) == 11);
  SequencePages second;
  GPTOSS_CHECK(cache.reuse(second, tokens) == 24);
  GPTOSS_CHECK(full(second)[0] != full(first)[0] && window(second)[0] != window(first)[0]);
  for (int done = 48; done <= 72; done += 24) {
    GPTOSS_CHECK(cache.extend(first, done));
    cache.commit(first, tokens, done);
  }
  // The second sequence takes the complete page over, and its own, committed before, is free again.
  GPTOSS_CHECK(cache.extend(second, 48));
  cache.commit_all(second, count_up(48), 48);
  GPTOSS_CHECK(cache.extend(second, 64));
  cache.commit(second, tokens, 64);
  GPTOSS_CHECK(full(second) == std::vector<int32_t>{full(first)[0]});
  GPTOSS_CHECK(cache.unused_pages(0) == 10 && cache.available_pages(0) == 10);
  cache.finish(first, tokens, 72);
  cache.release(second);
  GPTOSS_CHECK(cache.unused_pages(0) == 10 && cache.available_pages(0) == 12);
  GPTOSS_CHECK(cache.available_pages(1) == 12);
  GPTOSS_CHECK(cache.known_length(tokens) == 72);
}

GPTOSS_TEST(the_cache_goes_back_to_where_the_window_is_known) {
  const ModelConfig config = small_config();
  KvCache cache = make_cache(config, 60, 6);
  const std::vector<int32_t> tokens = count_up(1000);
  GPTOSS_CHECK(run_sequence(cache, tokens) == 0);
  // Six window pages for sixteen: that of page 10 is gone, and page 7's, at 512 tokens, is kept.
  std::vector<int32_t> branch(tokens.begin(), tokens.begin() + 700);
  branch.push_back(-1);
  GPTOSS_CHECK(run_sequence(cache, branch) == 512);
  std::vector<int32_t> early(tokens.begin(), tokens.begin() + 300);
  early.push_back(-1);
  GPTOSS_CHECK(run_sequence(cache, early) == 0);
  // Now this is the end of a prompt.
  early.push_back(-2);
  GPTOSS_CHECK(run_sequence(cache, early) == 301);
}

GPTOSS_TEST(the_cache_forgets_the_least_recently_used) {
  const ModelConfig config = small_config();
  KvCache cache = make_cache(config, 6, 8);
  GPTOSS_CHECK(run_sequence(cache, count_up(128)) == 0);
  GPTOSS_CHECK(run_sequence(cache, count_up(128, 1000)) == 0);
  GPTOSS_CHECK(run_sequence(cache, count_up(128)) == 127);
  GPTOSS_CHECK(run_sequence(cache, count_up(192, 2000)) == 0);  // needs a page of another
  GPTOSS_CHECK(run_sequence(cache, count_up(128)) == 127);
  GPTOSS_CHECK(run_sequence(cache, count_up(128, 1000)) < 127);
}

// Random sequences over few distinct beginnings, several at a time, in a cache that is too small
// for them: every page a sequence has must belong to it, or hold the very same tokens.
GPTOSS_TEST(the_cache_survives_random_traffic) {
  const ModelConfig config = small_config();
  const int ring = ring_of(config);
  constexpr int kSequences = 3;
  std::vector<std::vector<int32_t>> full_content(24);
  std::vector<std::vector<int32_t>> window_content(static_cast<size_t>(ring * kSequences + 2));
  KvCache cache = make_cache(config, static_cast<int>(full_content.size()),
                             static_cast<int>(window_content.size()), [&](const PageCopy& copy) {
                               auto& content = copy.group == 1 ? window_content : full_content;
                               content[static_cast<size_t>(copy.to)] =
                                   content[static_cast<size_t>(copy.from)];
                             });
  struct Live {
    std::vector<int32_t> tokens;
    SequencePages pages;
    int done = 0;
  };
  std::vector<Live> live;
  std::mt19937 random(7);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  // What the page must hold is all tokens up to its end, as far as they are computed.
  const auto verify = [&](const Live& sequence) {
    for (int position = 0; position < sequence.done; ++position) {
      const auto page = static_cast<size_t>(position / kPageTokens);
      const std::vector<int32_t> expected(sequence.tokens.begin(),
                                          sequence.tokens.begin() + position + 1);
      const auto holds = [&](const std::vector<int32_t>& content) {
        return content.size() >= expected.size() &&
               std::equal(expected.begin(), expected.end(), content.begin());
      };
      GPTOSS_CHECK(holds(full_content[static_cast<size_t>(full(sequence.pages)[page])]));
      if (position > sequence.done - config.sliding_window) {
        const int32_t window_page = window(sequence.pages)[page % window(sequence.pages).size()];
        GPTOSS_CHECK(window_page >= 0 && holds(window_content[static_cast<size_t>(window_page)]));
      }
    }
  };
  int reused = 0;
  for (int round = 0; round < 3000; ++round) {
    if (live.size() < kSequences && below(3) == 0) {
      Live sequence;
      const int length = 1 + below(300);
      const int kind = below(3);
      const int branch = below(300);
      for (int i = 0; i < length; ++i) {
        sequence.tokens.push_back(i < branch ? 1000 * kind + i : below(50000));
      }
      sequence.done = cache.reuse(sequence.pages, sequence.tokens);
      sequence.pages.border = length;
      GPTOSS_CHECK(sequence.done < length);
      reused += sequence.done;
      verify(sequence);
      live.push_back(std::move(sequence));
    }
    if (live.empty()) continue;
    const auto index = static_cast<size_t>(below(static_cast<int>(live.size())));
    Live& sequence = live[index];
    const int length = static_cast<int>(sequence.tokens.size());
    if (sequence.done == length) {
      cache.finish(sequence.pages, sequence.tokens, sequence.done);
      live.erase(live.begin() + static_cast<std::ptrdiff_t>(index));
      continue;
    }
    const int step = std::min(length - sequence.done, 1 + below(kMaxStepTokens));
    if (!cache.extend(sequence.pages, sequence.done + step)) {
      cache.release(sequence.pages);  // preempted
      live.erase(live.begin() + static_cast<std::ptrdiff_t>(index));
      continue;
    }
    for (int position = sequence.done; position < sequence.done + step; ++position) {
      const auto page = static_cast<size_t>(position / kPageTokens);
      const std::vector<int32_t> content(sequence.tokens.begin(),
                                         sequence.tokens.begin() + position + 1);
      full_content[static_cast<size_t>(full(sequence.pages)[page])] = content;
      const size_t slot = page % window(sequence.pages).size();
      window_content[static_cast<size_t>(window(sequence.pages)[slot])] = content;
    }
    sequence.done += step;
    if (below(2) == 0) {
      cache.commit(sequence.pages, sequence.tokens, sequence.done);
    } else {
      cache.commit_all(sequence.pages, sequence.tokens, sequence.done);
    }
    for (const Live& other : live) verify(other);
  }
  GPTOSS_CHECK(reused > 5000);
  for (Live& sequence : live) cache.release(sequence.pages);
  GPTOSS_CHECK(cache.available_pages(0) == cache.n_pages(0));
  GPTOSS_CHECK(cache.available_pages(1) == cache.n_pages(1));
}

}  // namespace
}  // namespace gptoss::test
