// The CPU's backend step by step, as the engine uses it.
#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "backend/backend.h"
#include "engine/kv_cache.h"
#include "harness.h"
#include "small_model.h"

namespace gptoss::test {
namespace {

using Ids = std::vector<int32_t>;

constexpr int kSlots = 3;
constexpr StepLimits kLimits = {
    .max_tokens = 100, .max_sequences = kSlots, .max_logit_rows = 8, .max_pages_per_sequence = 4};
constexpr int kPages = 16;

Ids some_tokens(uint64_t seed, int length) {
  Random random(seed);
  Ids tokens(static_cast<size_t>(length));
  for (int32_t& token : tokens) token = random.below(97);
  return tokens;
}

// A backend whose slots have the pages that they are given.
struct Steps {
  ModelConfig config = small_config();
  std::unique_ptr<Backend> backend;
  BlockTables tables{kSlots, {4, ring()}};
  std::atomic<bool> abandon{false};
  StepId step = 0;
  std::vector<Keep> keeps;
  std::vector<Steer> steers;
  std::vector<float> logits = std::vector<float>(8 * 97);

  explicit Steps(bool int8_kv_cache = false) {
    backend = make_backend(
        "cpu", small_weights(config),
        {.threads = 2, .precision = Precision::automatic, .int8_kv_cache = int8_kv_cache});
    const int pages[] = {kPages, kPages};
    backend->prepare(kLimits, pages);
  }
  int ring() const { return KvCache::ring_pages(kv_groups(config)[1], kLimits.max_tokens); }

  // Pages first_page, first_page + 1, ... of both groups.
  void open(int slot, int32_t first_page, const Ids& prompt, const Ids& output = {}) {
    backend->open_slot(slot, prompt, output);
    for (int g = 0; g < 2; ++g) {
      Ids pages(static_cast<size_t>(tables.row_pages(g)));
      std::iota(pages.begin(), pages.end(), first_page);
      tables.assign(g, slot, pages);
    }
  }

  struct Part {
    int slot;
    Ids tokens;
    int first_position;
    ops::SamplingRule rule = {.temperature = 0.0f};
  };
  // Computes the parts together; logits and a token after each part's last one.
  StepResult run(const std::vector<Part>& parts) {
    Ids tokens, offsets = {0}, positions, slots, rows;
    std::vector<RowSampling> sampling;
    for (const Part& part : parts) {
      tokens.insert(tokens.end(), part.tokens.begin(), part.tokens.end());
      offsets.push_back(static_cast<int32_t>(tokens.size()));
      positions.push_back(part.first_position);
      slots.push_back(part.slot);
      sampling.push_back(
          {.row = static_cast<int32_t>(rows.size()), .slot = part.slot, .rule = part.rule});
      rows.push_back(offsets.back() - 1);
    }
    step = backend->submit({tokens, offsets, positions, slots, {}, rows, &tables, keeps, steers},
                           abandon);
    tables.clear_dirty();
    backend->read_logits(step, 0, static_cast<int>(rows.size()), logits.data());
    backend->sample(step, {.rows = sampling, .masks = {}, .biases = {}});
    return backend->wait(step);
  }
  std::span<const float> row(int index) const {
    return std::span(logits).subspan(static_cast<size_t>(index) * 97, 97);
  }
};

GPTOSS_TEST(pages_that_are_written_elsewhere_hold_what_was_read) {
  for (const bool int8_kv_cache : {false, true}) {
    const Ids prompt = some_tokens(4, 90);
    Steps here(int8_kv_cache);
    here.open(0, 0, prompt);
    const int32_t next = here.run({{0, prompt, 0}}).rows[0].token;

    // The same, but for the two pages that it has: they come from there, and go to other places.
    Steps there(int8_kv_cache);
    there.open(1, 5, prompt, {next});
    const auto page_bytes = there.backend->plan(kLimits).page;
    GPTOSS_CHECK(here.backend->kv_layout() == there.backend->kv_layout());
    for (int g = 0; g < 2; ++g) {
      std::vector<uint8_t> bytes(static_cast<size_t>(2 * page_bytes[static_cast<size_t>(g)]));
      const int32_t from[] = {0, 1};
      const int32_t to[] = {5, 6};
      here.backend->read_pages(g, from, bytes.data());
      there.backend->write_pages(g, to, bytes.data());
    }
    const StepResult a = here.run({{0, {next}, 90}});
    const StepResult b = there.run({{1, {next}, 90}});
    GPTOSS_CHECK(same_bits(here.row(0), there.row(0)));
    GPTOSS_CHECK(a.rows[0].token == b.rows[0].token);
  }
  GPTOSS_CHECK(Steps(false).backend->kv_layout() != Steps(true).backend->kv_layout());
}

GPTOSS_TEST(a_step_goes_on_from_what_a_slot_sampled_last) {
  const Ids prompt = some_tokens(5, 30);
  Steps by_slot, by_token;
  for (Steps* steps : {&by_slot, &by_token}) steps->open(2, 0, prompt);
  int32_t last = by_token.run({{2, prompt, 0}}).rows[0].token;
  by_slot.run({{2, prompt, 0}});
  for (int position = 30; position < 40; ++position) {
    const int32_t token = by_slot.run({{2, {kLastSampled}, position}}).rows[0].token;
    last = by_token.run({{2, {last}, position}}).rows[0].token;
    GPTOSS_CHECK(token == last && same_bits(by_slot.row(0), by_token.row(0)));
  }
  // Tokens that were decided on are the last ones, too.
  const Ids forced = {3, 4};
  by_slot.backend->append_output(2, forced);
  by_slot.run({{2, {kLastSampled}, 40}});
  by_token.run({{2, {4}, 40}});
  GPTOSS_CHECK(same_bits(by_slot.row(0), by_token.row(0)));
}

GPTOSS_TEST(a_slot_counts_what_it_was_opened_with_and_what_it_got) {
  const Ids prompt = some_tokens(6, 20);
  ops::SamplingRule rule = {.temperature = 1.0f, .repetition_penalty = 1.5f};
  rule.frequency_penalty = 0.7f;
  rule.seed = 9;
  Steps whole, opened_later;
  whole.open(0, 0, prompt);
  Ids output = {whole.run({{0, prompt, 0, rule}}).rows[0].token};
  for (int i = 0; i < 8; ++i) {
    output.push_back(whole.run({{0, {output.back()}, 20 + i, rule}}).rows[0].token);
  }
  const Ids forced = {1, 1, 2};
  whole.backend->append_output(0, forced);
  Ids all = output;
  all.insert(all.end(), forced.begin(), forced.end());
  // As after a preemption: all of it is computed again, and loaded anew.
  Ids tokens = prompt;
  tokens.insert(tokens.end(), all.begin(), all.end());
  opened_later.open(1, 3, prompt, all);
  const StepResult later = opened_later.run({{1, tokens, 0, rule}});
  Ids rest(tokens.begin() + 28, tokens.end());
  const StepResult now = whole.run({{0, rest, 28, rule}});
  GPTOSS_CHECK(same_bits(whole.row(0), opened_later.row(0)));
  GPTOSS_CHECK(now.rows[0].token == later.rows[0].token);
}

// Scored rows of a sequence run beside its sampled one, on all threads (seen by ThreadSanitizer).
GPTOSS_TEST(scored_rows_leave_the_slot_alone) {
  const Ids prompt = some_tokens(11, 40);
  ops::SamplingRule rule = {.temperature = 1.0f, .repetition_penalty = 1.4f};
  rule.n_logprobs = 2;
  Steps steps;
  steps.open(0, 0, prompt);
  const Ids offsets = {0, 40}, positions = {0}, slots = {0}, rows = {33, 34, 35, 36, 37, 38, 39};
  const StepId id = steps.backend->submit(
      {prompt, offsets, positions, slots, {}, rows, &steps.tables}, steps.abandon);
  std::vector<RowSampling> sampling;
  for (int32_t row = 0; row < 7; ++row) {
    sampling.push_back({.row = row, .slot = 0, .rule = rule});
    if (row < 6) sampling.back().target = prompt[static_cast<size_t>(34 + row)];
  }
  steps.backend->sample(id, {.rows = sampling, .masks = {}, .biases = {}});
  const StepResult result = steps.backend->wait(id);
  for (size_t i = 0; i < 6; ++i) {
    GPTOSS_CHECK(result.rows[i].token == sampling[i].target && result.rows[i].logprob < 0.0f);
  }
  Steps alone;
  alone.open(0, 0, prompt);
  GPTOSS_CHECK(alone.run({{0, prompt, 0, rule}}).rows[0].token == result.rows[6].token);
}

GPTOSS_TEST(activations_can_be_looked_at) {
  const Ids a = some_tokens(7, 12);
  const Ids b = some_tokens(8, 5);
  Steps steps;
  const auto hidden = static_cast<size_t>(steps.config.hidden_size);
  const auto experts = static_cast<size_t>(steps.config.n_experts);
  const Ids last_layer = {steps.config.n_layers - 1};
  const uint32_t both = bit(Activation::residual) | bit(Activation::router_logits);
  steps.open(0, 0, a);
  steps.open(1, 4, b);
  const Ids of_a = {1, 3, 11}, of_b = {12, 13, 14, 15, 16};
  steps.keeps = {{of_a, last_layer, both, 0}, {of_b, last_layer, both, 0}};
  steps.run({{0, a, 0}, {1, b, 0}});
  const auto read = [&](int keep, Activation activation, size_t size) {
    std::vector<float> values(size);
    steps.backend->read(steps.step, keep, activation, last_layer[0], values.data());
    return values;
  };
  const auto first = read(0, Activation::residual, 3 * hidden);
  const auto together = read(1, Activation::residual, 5 * hidden);
  const auto routed = read(0, Activation::router_logits, 3 * experts);
  GPTOSS_CHECK(std::all_of(routed.begin(), routed.end(), [](float x) { return std::isfinite(x); }));
  GPTOSS_CHECK(!same_bits(std::span(first).first(hidden), std::span(together).first(hidden)));
  // They do not depend on what is computed beside them.
  const Ids all = {0, 1, 2, 3, 4};
  steps.keeps = {{all, last_layer, both, 0}};
  steps.run({{1, b, 0}});
  GPTOSS_CHECK(same_bits(read(0, Activation::residual, 5 * hidden), together));
  GPTOSS_CHECK(std::any_of(together.begin(), together.end(), [](float x) { return x != 0.0f; }));
  // What was not to be kept is not there.
  GPTOSS_CHECK_THROWS(std::invalid_argument, read(0, Activation::attention, 0));
}

GPTOSS_TEST(a_vector_is_added_to_one_sequence_alone) {
  const Ids a = some_tokens(7, 12);
  const Ids b = some_tokens(8, 5);
  Steps plain, steered;
  for (Steps* steps : {&plain, &steered}) {
    steps->open(0, 0, a);
    steps->open(1, 4, b);
  }
  const std::vector<float> vector(static_cast<size_t>(plain.config.hidden_size), 0.25f);
  steered.steers = {{.sequence = 1, .layer = 0, .vector = vector.data()}};
  plain.run({{0, a, 0}, {1, b, 0}});
  steered.run({{0, a, 0}, {1, b, 0}});
  GPTOSS_CHECK(same_bits(plain.row(0), steered.row(0)));
  GPTOSS_CHECK(!same_bits(plain.row(1), steered.row(1)));
}

GPTOSS_TEST(a_step_tells_from_where_on_activations_are_not_finite) {
  Steps steps;
  Weights weights = small_weights(steps.config);
  // The embedding of token 50 is not a number.
  std::vector<uint16_t> embedding(static_cast<size_t>(97 * steps.config.hidden_size));
  std::memcpy(embedding.data(), weights.embedding.data, embedding.size() * sizeof(uint16_t));
  embedding[static_cast<size_t>(50 * steps.config.hidden_size + 3)] = 0x7fc0;
  weights.embedding.data = embedding.data();
  steps.backend = make_backend("cpu", std::move(weights), {.threads = 2});
  const int pages[] = {kPages, kPages};
  steps.backend->prepare(kLimits, pages);
  Ids damaged(30, 7);
  damaged[21] = 50;
  const Ids sound(30, 7);
  steps.open(0, 0, damaged);
  steps.open(1, 4, sound);
  const StepResult result = steps.run({{0, damaged, 0}, {1, sound, 0}});
  GPTOSS_CHECK(result.finite_tokens == (Ids{21, 30}));
  GPTOSS_CHECK(result.rows[0].status == ops::SampleStatus::non_finite);
  GPTOSS_CHECK(result.rows[1].status == ops::SampleStatus::ok);
}

GPTOSS_TEST(a_plan_counts_what_is_allocated) {
  Steps steps;
  const MemoryPlan loaded = steps.backend->plan(kLimits);
  const auto rooms = device_rooms("cpu", {});
  const MemoryPlan before = plan_memory("cpu", shapes_of(steps.config, {}),
                                        {.precision = Precision::automatic}, kLimits, rooms);
  GPTOSS_CHECK(loaded.page == before.page && loaded.workspace == before.workspace);
  GPTOSS_CHECK(loaded.weights == before.weights && before.weights > 0);
  StepLimits more = kLimits;
  more.max_logit_rows += 10;
  GPTOSS_CHECK(steps.backend->plan(more).workspace - loaded.workspace ==
               10 * 97 * int64_t{sizeof(float)});
  // 64 tokens' keys and values of two heads of 16, in f16, of one layer and of two.
  GPTOSS_CHECK(loaded.page == (std::vector<int64_t>{64 * 2 * 2 * 16 * 2, 2 * 64 * 2 * 2 * 16 * 2}));
}

}  // namespace
}  // namespace gptoss::test
