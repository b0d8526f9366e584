// Steps on CUDA devices: kernels, copies and their order are queued, and waited for once.
#include "backend/backend.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <exception>
#include <functional>
#include <iostream>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>

#include "core/check.h"
#include "core/kv_page.h"
#include "cuda/plan.h"
#include "cuda/stage.h"
#include "ops/sample.h"

namespace gptoss::cuda {
namespace {

static_assert(kKernelPageTokens == kPageTokens);
static_assert(kMaxTop == kMaxLogprobs);
static_assert(static_cast<int>(ops::SampleStatus::non_finite) == 1);
static_assert(static_cast<int>(ops::SampleStatus::empty_mask) == 2);
static_assert(sizeof(BiasEntry) == sizeof(TokenBias));

// How often work is asked after, once a card has failed, that may wait for that card and so never
// end: for some five seconds, which is more than two steps take. Counted and not timed, as a
// process may be stopped meanwhile.
constexpr int kPatience = 5000;
constexpr std::chrono::milliseconds kLongNap{1};
// Between two looks at cards that are not waited for themselves, and two at those that are.
constexpr std::chrono::milliseconds kLookInterval{10};
constexpr std::chrono::microseconds kNap{50};

// Launches and small kernels weigh more than the weights of further tokens; not measured.
constexpr StepCost kStepCost = {.fixed = 0.8, .per_token = 0.2};

// Of experts on the CPU each further token reads others, as there.
constexpr StepCost kCpuExpertsCost = {.fixed = 0.6, .per_token = 0.4};

SampleRow sample_row(const RowSampling& row) {
  const ops::SamplingRule& rule = row.rule;
  const bool greedy = rule.temperature == 0.0f;
  return {.row = row.row,
          .slot = row.slot,
          .guess = row.guess,
          .mask = row.mask,
          .bias_begin = row.bias_begin,
          .bias_end = row.bias_end,
          .target = row.target,
          .top_k = rule.top_k,
          .n_logprobs = rule.n_logprobs,
          .greedy = greedy ? 1 : 0,
          .exponent_scale = greedy ? 1.0f : ops::exponent_scale(rule.temperature),
          .min_p = rule.min_p,
          .repetition_penalty = rule.repetition_penalty,
          .presence_penalty = rule.presence_penalty,
          .frequency_penalty = rule.frequency_penalty,
          .has_penalties = ops::has_penalties(rule) ? 1 : 0,
          .top_p_fraction = rule.top_p < 1.0f ? ops::top_p_fraction(rule.top_p) : 0,
          .seed = rule.seed,
          .all_top_p = rule.top_p < 1.0f ? 0 : 1,
          .unused = 0};
}

// The last part of ops/sample.h, which the platform's logarithm belongs to.
ops::SampledRow sampled_row(const SampleOut& out, const SampleRow& row) {
  ops::SampledRow result;
  result.status = static_cast<ops::SampleStatus>(out.status);
  if (result.status != ops::SampleStatus::ok) return result;
  result.token = out.token;
  if (row.n_logprobs < 0 && row.target == kNoToken) return result;
  constexpr double kLn2 = 0x1.62e42fefa39efp-1;
  const double log_total = std::log(static_cast<double>(out.mass)) - kLn2 * ops::kMassBits;
  const auto logprob = [&](float x) {
    const double distance = static_cast<double>(x) - static_cast<double>(out.largest_logit);
    return static_cast<float>(distance - log_total);
  };
  result.logprob = logprob(out.logit);
  result.n_top = out.n_top;
  for (int i = 0; i < out.n_top; ++i) {
    result.top[i] = {out.top[i].token, logprob(out.top[i].logit)};
  }
  return result;
}

// A step between submit() and the end of wait().
struct Flight {
  StepId id = 0;
  int n_sequences = 0;
  int n_logit_rows = 0;
  std::vector<SampleRow> rows;
  bool abandoned = false;
  std::exception_ptr error;  // comes out of wait()
};

// What is alike on all cards, for those that are: "8.0", or "8.0 up to layer 11, 8.6 up to layer
// 23".
std::string capabilities(const std::vector<std::unique_ptr<Card>>& cards, const Split& split) {
  const auto of = [&](size_t i) {
    return concat(cards[i]->device().major, ".", cards[i]->device().minor);
  };
  std::string text = of(0);
  bool are_alike = true;
  for (size_t i = 1; i < cards.size(); ++i) are_alike = are_alike && of(i) == of(0);
  if (are_alike) return text;
  text.clear();
  for (size_t i = 0; i < cards.size(); ++i) {
    text += concat(i == 0 ? "" : ", ", of(i), " up to layer ", split.parts[i].end - 1);
  }
  return text;
}

class CudaBackend final : public Backend {
 public:
  CudaBackend(Weights weights, const BackendOptions& options)
      : config_(weights.config),
        scheme_(scheme_of(config_, options)),
        has_int8_inputs_(has_int8_inputs(weights, scheme_)),
        source_(std::move(weights)) {
    choose_cards(options);
    check_weights_fit(*source_, scheme_, split_);
    if (options.room.check_kv_cache) check_kv_cache_fits(options.room);
    formats_.emplace(*source_, scheme_);
    if (scheme_.cpu_experts > 0) {
      host_experts_ = cpu::make_host_experts(*source_, scheme_.cpu_experts, options);
    }
  }

  ~CudaBackend() override {
    // A card's memory is not given back while another one copies from it or into it.
    try {
      leave_what_goes_on(settle());
    } catch (...) {  // no memory to find out with
      for (const auto& card : cards_) card->leave(true);
      leave_kept();
    }
  }
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

  std::string description() const override {
    std::string where;
    for (size_t i = 0; i < cards_.size(); ++i) {
      const Part& part = split_.parts[i];
      where += concat(", ", cards_[i]->device().name);
      if (cards_.size() > 1) {
        where += concat(" (", label_of(cards_[i]->device()), ", layers ", part.begin, " to ",
                        part.end - 1, ")");
      }
    }
    return concat("cuda", where, ", ", formats());
  }
  std::string arithmetic() const override {
    return concat("cuda ", capabilities(cards_, split_), ", ", formats());
  }
  const BackendTraits& traits() const override { return traits_; }
  StepCost cost() const override { return scheme_.cpu_experts > 0 ? kCpuExpertsCost : kStepCost; }
  int cpu_experts() const override { return scheme_.cpu_experts; }
  std::vector<LayerPlace> layer_places() const override {
    std::vector<LayerPlace> places;
    if (stages_.size() < 2) return places;
    for (const auto& stage : stages_) {
      places.push_back({name_of(stage->card().device()), stage->part().begin, stage->part().end,
                        stage->weight_bytes()});
    }
    return places;
  }

  MemoryPlan plan(const StepLimits& limits) const override {
    Split split = split_;
    for (size_t i = 0; i < cards_.size(); ++i) split.cards[i] = cards_[i]->room();
    return plan_of(*source_, scheme_, split, limits);
  }

  void prepare(const StepLimits& limits, std::span<const int> n_pages) override {
    limits_ = limits;
    if (host_experts_) host_experts_->prepare(limits.max_tokens);
    const StageOptions options = {.config = config_,
                                  .scheme = scheme_,
                                  .source = *source_,
                                  .has_int8_inputs = has_int8_inputs_,
                                  .limits = limits,
                                  .n_pages = n_pages,
                                  .host_experts = host_experts_.get(),
                                  .turn = turn_};
    for (size_t i = 0; i < cards_.size(); ++i) {
      Card& card = *cards_[i];
      card.run([&] { stages_.push_back(std::make_unique<Stage>(card, split_.parts[i], options)); });
    }
    last().card().run([&] { states_sent_.emplace(last().card().context()); });
    source_.reset();
  }

  void open_slot(int slot, std::span<const int32_t> prompt,
                 std::span<const int32_t> output) override {
    on_last([&] {
      constexpr SlotState kNew = {.last_token = kNoToken, .unused = 0, .index = 0};
      last().stream().upload_copy(slot_state(slot), &kNew, sizeof(kNew));
      last().stream().clear(slot_counts(slot), config_.vocab_size * int64_t{sizeof(uint32_t)});
      count(slot, prompt, false);
      count(slot, output, true);
    });
  }
  void append_output(int slot, std::span<const int32_t> tokens) override {
    on_last([&] { count(slot, tokens, true); });
  }
  void close_slot(int) override {}

  void copy_pages(std::span<const PageCopy> copies) override {
    on_each([&](Stage& stage) {
      for (const PageCopy& copy : copies) {
        stage.stream().copy(stage.page(copy.group, copy.to), stage.page(copy.group, copy.from),
                            stage.page_bytes(copy.group));
      }
    });
  }
  std::string kv_layout() const override {
    return concat("cuda ", name_of(scheme_.kv), " 2 x ", config_.n_kv_heads, " x ", kPageTokens,
                  " x ", config_.head_dim);
  }
  void read_pages(int group, std::span<const int32_t> pages, uint8_t* bytes) override {
    move_pages(group, pages, [&](const Stage& stage, CUdeviceptr page, int64_t offset) {
      stage.stream().download(bytes + offset, page, stage.page_bytes(group));
    });
  }
  void write_pages(int group, std::span<const int32_t> pages, const uint8_t* bytes) override {
    move_pages(group, pages, [&](const Stage& stage, CUdeviceptr page, int64_t offset) {
      stage.stream().upload(page, bytes + offset, stage.page_bytes(group));
    });
  }

  StepId submit(const StepInput& input, const std::atomic<bool>& abandon) override {
    throw_if_lost();
    const auto start = std::chrono::steady_clock::now();
    const StepId id = ++last_id_;
    Flight& flight = flight_of(id);
    flight.id = id;
    flight.n_sequences = static_cast<int>(input.slots.size());
    flight.n_logit_rows = static_cast<int>(input.logit_rows.size());
    flight.rows.clear();
    flight.error = nullptr;
    flight.abandoned = abandon.load(std::memory_order_relaxed);
    // What is queued behind a step that failed would begin with what that one has not made.
    for (const Flight& other : flights_) {
      if (!other.error) continue;
      flight.error = other.error;
      tables_are_stale_ = true;
      return id;
    }
    kept_.clear();  // behind a failed step copies into it may still be queued
    const int f = flight_index(id);
    guard(flight, [&] {
      const bool needs_states = !flight.abandoned && stages_.size() > 1 &&
                                std::ranges::find(input.tokens, kLastSampled) != input.tokens.end();
      upload_tables(f, *input.tables);
      if (!flight.abandoned) {
        for (const Keep& keep : input.keeps) kept_.emplace_back(config_, keep);
      }
      if (needs_states) send_states();
      for (size_t i = 0; i < stages_.size(); ++i) {
        Stage& stage = *stages_[i];
        // What is kept is copied into memory that is not pinned, which may take until the work
        // ahead has ended: so that is none that waits for another card.
        if (!kept_.empty() && stages_.size() > 1) wait_for(i == 0 ? last() : *stages_[i - 1]);
        stage.card().run([&] {
          if (i == 0 && needs_states) stage.stream().after(*states_sent_);
          if (i > 0) stage.stream().after(stages_[i - 1]->done(f));
          if (!flight.abandoned) {
            const Step step = stage.upload(f, input);
            stage.run(f, step, input, kept_);
            if (!stage.part().is_last()) {
              stage.hand_over(*stages_[i + 1], flight_index(id - 1), step.n_tokens);
            } else {
              const FlightMemory& memory = stage.flight(f);
              stage.stream().download(memory.host_finite.data(), memory.finite.address(),
                                      flight.n_sequences * int64_t{sizeof(int32_t)});
            }
          }
          stage.done(f).record(stage.stream());
        });
      }
    });
    add_time(Phase::begin_step, start);
    return id;
  }

  void sample(StepId id, const SampleInput& input) override {
    Flight& flight = flight_of(id);
    if (flight.error || flight.abandoned || input.rows.empty()) return;
    const auto start = std::chrono::steady_clock::now();
    FlightMemory& memory = last().flight(flight_index(id));
    const auto bias_bytes = static_cast<int64_t>(input.biases.size_bytes());
    guard(flight, [&] { make_room_for_biases(memory, bias_bytes); });
    if (flight.error) return;
    guard_last(flight, [&] {
      const int n_rows = static_cast<int>(input.rows.size());
      check(n_rows <= limits_.max_logit_rows, "[cuda] at most ", limits_.max_logit_rows,
            " rows can be sampled, got ", n_rows);
      // A sequence's rows follow each other, each from what the one before has chosen.
      std::vector<int32_t> units;
      for (int i = 0; i < n_rows; ++i) {
        const RowSampling& row = input.rows[static_cast<size_t>(i)];
        const bool alone = row.target != kNoToken;
        if (i == 0 || alone || input.rows[static_cast<size_t>(i) - 1].guess == kNoToken) {
          units.push_back(i);
        }
        flight.rows.push_back(sample_row(row));
      }
      const int n_units = static_cast<int>(units.size());
      units.push_back(n_rows);
      send(memory.host_sample_rows, memory.sample_rows, std::span<const SampleRow>(flight.rows));
      send(memory.host_units, memory.units, std::span<const int32_t>(units));
      send(memory.host_masks, memory.masks, input.masks);
      last().stream().upload_copy(memory.biases.address(), input.biases.data(), bias_bytes);
      last().module().run(last().stream(),
                          SampleArgs{.logits = last().memory().work.logits.as<const float>(),
                                     .ranges = last().logit_ranges(flight.n_logit_rows),
                                     .rows = memory.sample_rows.as<const SampleRow>(),
                                     .units = memory.units.as<const int32_t>(),
                                     .masks = memory.masks.as<const uint32_t>(),
                                     .biases = memory.biases.as<const BiasEntry>(),
                                     .counts = last().memory().slots.counts.as<uint32_t>(),
                                     .slots = last().memory().slots.states.as<SlotState>(),
                                     .changed = last().memory().work.changed_logits.as<float>(),
                                     .candidates = last().memory().work.candidates.as<int32_t>(),
                                     .out = memory.samples.as<SampleOut>(),
                                     .n_units = n_units,
                                     .vocab_size = config_.vocab_size});
      last().stream().download(memory.host_samples.data(), memory.samples.address(),
                               n_rows * int64_t{sizeof(SampleOut)});
      last().done(flight_index(id)).record(last().stream());
    });
    add_time(Phase::sample, start);
  }

  StepResult wait(StepId id) override {
    Flight& flight = flight_of(id);
    const auto start = std::chrono::steady_clock::now();
    if (!flight.error) {
      throw_if_lost();
      guard(flight, [&] {
        for (const auto& stage : stages_) {
          const Event& done = stage->done(flight_index(id));
          wait_for(*stage, [&] { done.wait(); }, [&] { return done.is_done(); });
          stage->rethrow(flight_index(id));
        }
      });
    }
    if (flight.error) {
      // What was queued before the error still reads and writes what the next step will have. Where
      // a device is lost there is none, and work of the others that waits for it may never end.
      if (!lost_) {
        settle();
        note_failure();
      }
      add_time(Phase::device, start);
      std::rethrow_exception(std::exchange(flight.error, nullptr));
    }
    add_time(Phase::device, start);
    StepResult result;
    result.abandoned = flight.abandoned;
    if (flight.abandoned) return result;
    const FlightMemory& memory = last().flight(flight_index(id));
    const auto* const finite = reinterpret_cast<const int32_t*>(memory.host_finite.data());
    result.finite_tokens.assign(finite, finite + flight.n_sequences);
    const auto* const samples = reinterpret_cast<const SampleOut*>(memory.host_samples.data());
    for (size_t i = 0; i < flight.rows.size(); ++i) {
      const bool reached = samples[i].sampled != 0;
      result.sampled.push_back(reached ? 1 : 0);
      result.rows.push_back(reached ? sampled_row(samples[i], flight.rows[i]) : ops::SampledRow{});
    }
    return result;
  }

  void read_logits(StepId id, int first_row, int n_rows, float* logits) override {
    Flight& flight = flight_of(id);
    if (flight.error || flight.abandoned) return;
    guard(flight, [&] {
      const int64_t row = config_.vocab_size * int64_t{sizeof(float)};
      const DeviceMemory& from = last().memory().work.logits;
      // First, as a copy into the caller's memory may take until the work ahead has ended, and must
      // not be left behind where that fails. From then on the card waits for itself alone.
      wait_for(last());
      last().card().run([&] {
        last().stream().download(logits, from.address() + static_cast<CUdeviceptr>(first_row * row),
                                 n_rows * row);
        last().stream().wait();
      });
    });
  }

  void read(StepId id, int keep, Activation activation, int layer, void* values) override {
    Flight& flight = flight_of(id);
    if (flight.error || flight.abandoned) return;
    const auto stage =
        std::ranges::find_if(stages_, [&](const auto& one) { return layer < one->part().end; });
    guard(flight, [&] {
      wait_for(**stage);
      kept_[static_cast<size_t>(keep)].copy_to(values, activation, layer);
    });
  }

  PhaseSeconds phase_seconds() const override { return seconds_; }

 private:
  std::string formats() const {
    std::string text = concat("KV cache ", name_of(scheme_.kv), ", inputs of matmuls ",
                              scheme_.act == Act::f32 ? "f32" : "bf16");
    if (scheme_.dense == Format::q8) text += ", dense weights and their inputs int8";
    if (host_experts_) {
      text += concat(", experts of the first ", scheme_.cpu_experts, " layers on the CPU (",
                     host_experts_->arithmetic(), ")");
    }
    const int in_q8_0 = formats_->count(Format::q8_0);
    if (in_q8_0 > 0) {
      text += concat(", ", in_q8_0, " dense weights in q8_0 with inputs ",
                     scheme_.act == Act::f32 ? "f32" : "int8");
    }
    return text;
  }
  // Cards, and which layers each of them has. Where one is enough, the others are not opened.
  void choose_cards(const BackendOptions& options) {
    const bool are_named = !options.devices.empty();
    std::vector<std::unique_ptr<Card>> cards;
    std::vector<DeviceRoom> rooms;
    std::exception_ptr first_error;
    for (const DeviceInfo& device : find_devices(options.devices)) {
      try {
        cards.push_back(std::make_unique<Card>(device));
      } catch (const std::runtime_error&) {  // full, or another's alone: others may do
        if (are_named) throw;
        if (!first_error) first_error = std::current_exception();
        continue;
      }
      rooms.push_back(cards.back()->room());
      if (!are_named && fits_alone(*source_, scheme_, options.room, rooms.back())) break;
    }
    if (cards.empty()) std::rethrow_exception(first_error);
    split_ = split_of(*source_, scheme_, options, rooms, are_named);
    scheme_.cpu_experts = split_.cpu_experts;
    for (const int i : split_.indices) {
      cards_.push_back(std::move(cards[static_cast<size_t>(i)]));
    }
  }

  void check_kv_cache_fits(const Room& room) const {
    const auto plan = [&](const StepLimits& limits) {
      return plan_of(*source_, scheme_, split_, limits);
    };
    try {
      room.check_kv_cache(plan);
    } catch (const OutOfMemory& error) {
      const std::string each = shares_text(plan(room.limits));
      throw OutOfMemory(
          concat("[cuda] ",
                 scheme_.cpu_experts == 0
                     ? ""
                     : concat("with the experts of ", scheme_.cpu_experts, " layers on the CPU, "),
                 error.what(), each.empty() ? "" : concat(" (", each, ")")));
    }
  }

  int flight_index(StepId id) const { return static_cast<int>(id % (kStepsAhead + 1)); }
  Flight& flight_of(StepId id) { return flights_[static_cast<size_t>(flight_index(id))]; }
  CUdeviceptr slot_state(int slot) const {
    return last().memory().slots.states.address() +
           static_cast<CUdeviceptr>(slot) * sizeof(SlotState);
  }
  CUdeviceptr slot_counts(int slot) const {
    return last().memory().slots.counts.address() +
           static_cast<CUdeviceptr>(slot) * static_cast<CUdeviceptr>(config_.vocab_size) *
               sizeof(uint32_t);
  }

  // Some tokens of a slot at a time, as many as there is room for.
  void count(int slot, std::span<const int32_t> tokens, bool is_output) {
    const SlotMemory& slots = last().memory().slots;
    const size_t room = static_cast<size_t>(slots.tokens.size_bytes()) / sizeof(int32_t);
    while (!tokens.empty()) {
      const std::span<const int32_t> part = tokens.first(std::min(room, tokens.size()));
      last().stream().upload_copy(slots.tokens.address(), part.data(),
                                  static_cast<int64_t>(part.size_bytes()));
      last().module().run(last().stream(),
                          CountTokensArgs{.tokens = slots.tokens.as<const int32_t>(),
                                          .counts = reinterpret_cast<uint32_t*>(slot_counts(slot)),
                                          .slot = reinterpret_cast<SlotState*>(slot_state(slot)),
                                          .n = static_cast<int32_t>(part.size()),
                                          .is_output = is_output ? 1 : 0});
      tokens = tokens.subspan(part.size());
    }
  }

  template <class T>
  void send(const PinnedMemory& host, const DeviceMemory& device, std::span<const T> values) {
    if (values.empty()) return;
    check(static_cast<int64_t>(values.size_bytes()) <= device.size_bytes(),
          "[cuda] a step has room for ", device.size_bytes(), " bytes, got ", values.size_bytes());
    std::memcpy(host.data(), values.data(), values.size_bytes());
    last().stream().upload(device.address(), host.data(),
                           static_cast<int64_t>(values.size_bytes()));
  }

  // Memory is not given back before the model is: that may wait for all work of the card.
  void make_room_for_biases(FlightMemory& memory, int64_t bytes) {
    if (memory.biases.size_bytes() >= bytes) return;
    wait_for(last());  // so may an allocation
    last().card().run([&] {
      DeviceMemory larger(last().card().context(), 2 * bytes, "biases of tokens");
      memory.outgrown.push_back(std::exchange(memory.biases, std::move(larger)));
    });
  }

  // To all cards before a step can fail: of the tables only what has changed is told, once. Where
  // that itself fails, all is sent with the next step.
  void upload_tables(int flight, const BlockTables& tables) {
    std::vector<BlockTables::Range> whole;
    if (std::exchange(tables_are_stale_, true)) whole = tables.all();
    const std::span<const BlockTables::Range> ranges = whole.empty() ? tables.dirty() : whole;
    for (const auto& stage : stages_) {
      stage->card().run([&] { stage->upload_tables(flight, tables, ranges); });
    }
    tables_are_stale_ = false;
  }

  // What slots have sampled, to the first card, where the next tokens are embedded.
  void send_states() {
    last().card().run([&] {
      const Stage& first = *stages_.front();
      const DeviceMemory& states = last().memory().slots.states;
      last().stream().send(first.card().context(), first.memory().slots.states.address(),
                           states.address(), states.size_bytes());
      states_sent_->record(last().stream());
    });
  }

  // f(stage, address, offset) for each stage's piece of these pages: where it lies, and in the
  // bytes of all pages.
  template <class F>
  void move_pages(int group, std::span<const int32_t> pages, F&& f) {
    int64_t whole = 0;
    for (const auto& stage : stages_) whole += stage->page_bytes(group);
    int64_t begin = 0;
    at_once([&] {
      for (const auto& stage : stages_) {
        wait_for(*stage);  // as in read_logits()
        stage->card().run([&] {
          const Drain drained{stage->stream()};  // the bytes are the caller's
          int64_t offset = begin;
          for (const int32_t index : pages) {
            if (stage->page_bytes(group) > 0) f(*stage, stage->page(group, index), offset);
            offset += whole;
          }
          stage->stream().wait();
        });
        begin += stage->page_bytes(group);
      }
    });
  }

  Stage& last() { return *stages_.back(); }
  const Stage& last() const { return *stages_.back(); }

  // Waits for a stage by wait(), or where there are several by asking is_done() again and again:
  // one card's work may wait for another's, and where that one has failed it may never end.
  template <class Wait, class IsDone>
  void wait_for(const Stage& stage, Wait&& wait, IsDone&& is_done) const {
    if (stages_.size() == 1) {
      stage.card().run(wait);
      return;
    }
    using Clock = std::chrono::steady_clock;
    Clock::time_point last_look = Clock::now();
    for (;;) {
      bool done = false;
      stage.card().run([&] { done = is_done(); });
      if (done) return;
      if (Clock::now() - last_look > kLookInterval) {
        for (const auto& card : cards_) {
          if (const auto failure = card->failure()) throw BackendError(*failure);
        }
        last_look = Clock::now();
      }
      if (host_experts_) {
        std::this_thread::sleep_for(kNap);  // the CPU has experts to compute
      } else {
        std::this_thread::yield();
      }
    }
  }
  // For all that was queued there.
  void wait_for(const Stage& stage) const {
    wait_for(stage, [&] { stage.stream().wait(); }, [&] { return stage.stream().query(); });
  }

  // Waits until no card has work any more, or, once one has failed, as long as the others' work
  // would take that does not wait for it. [card]: whether its work has ended.
  std::vector<bool> settle() const {
    std::vector<bool> have_ended(cards_.size(), false);
    bool has_failed = lost_.has_value();
    for (int asked = 0;;) {
      for (size_t i = 0; i < cards_.size(); ++i) {
        if (have_ended[i]) continue;
        const WorkState state = cards_[i]->stream().state();
        have_ended[i] = state != WorkState::pending;
        has_failed = has_failed || state == WorkState::failed;
      }
      if (std::ranges::all_of(have_ended, std::identity())) return have_ended;
      if (!has_failed || cards_.size() == 1) {  // one alone waits for nobody
        std::this_thread::sleep_for(kNap);
        continue;
      }
      if (++asked > kPatience) return have_ended;
      std::this_thread::sleep_for(kLongNap);
    }
  }

  // What work may still read or write that has not ended stays as it is, until the process ends:
  // that of its card, and of those that the card sends to. So does what is on a card that still has
  // such work of another model: giving memory back would wait for it.
  void leave_what_goes_on(const std::vector<bool>& have_ended) {
    std::string left;
    for (size_t i = 0; i < cards_.size(); ++i) {
      const size_t before = (i + cards_.size() - 1) % cards_.size();
      if (have_ended[i] && have_ended[before] && !cards_[i]->has_left_work()) continue;
      cards_[i]->leave(have_ended[i]);
      left += concat(left.empty() ? "" : ", ", name_of(cards_[i]->device()));
    }
    if (left.empty()) return;
    leave_kept();
    std::cerr << concat(
        "gptoss: work that waits for a device that failed has not ended: until this "
        "process ends, the closed model keeps its memory on ",
        left, "\n");
  }
  // Copies into them may be queued.
  void leave_kept() { static_cast<void>(new (std::nothrow) std::vector<Kept>(std::move(kept_))); }

  // What went wrong on a card, whoever was waited for, is the end as well.
  void note_failure() {
    for (const auto& card : cards_) {
      if (!lost_) lost_ = card->failure();
    }
  }
  void throw_if_lost() const {
    if (lost_) throw BackendError(*lost_);
  }

  // Runs f. What a device says of it, or of what was queued before, is the end.
  template <class F>
  void at_once(F&& f) {
    throw_if_lost();
    try {
      f();
    } catch (const BackendError& error) {
      lost_ = cause(error.what());
      throw BackendError(*lost_);
    }
  }
  // A copy fails for what is wrong at either end: the device whose own work failed is the one that
  // is lost. None is waited for, as another's work may not end without that one.
  std::string cause(const std::string& message) const {
    if (cards_.size() < 2 || !cards_.front()->context().is_own()) return message;
    std::vector<std::string> failures;
    for (const auto& card : cards_) {
      const std::optional<std::string> failure = card->failure();
      if (!failure) continue;
      // Of several the one that was noticed comes first.
      const bool is_noticed = card->is_named_in(message);
      failures.insert(is_noticed ? failures.begin() : failures.end(),
                      is_noticed ? message : *failure);
    }
    if (failures.empty()) return message;
    std::string text = failures.front();
    for (size_t i = 1; i < failures.size(); ++i) text += concat("; ", failures[i]);
    return text;
  }
  template <class F>
  void on_last(F&& f) {
    at_once([&] { last().card().run(f); });
  }
  // f(stage), in the context of each.
  template <class F>
  void on_each(F&& f) {
    at_once([&] {
      for (const auto& stage : stages_) stage->card().run([&] { f(*stage); });
    });
  }

  // Likewise, but errors come out of the step's wait().
  template <class F>
  void guard(Flight& flight, F&& f) {
    try {
      at_once(f);
    } catch (...) {
      flight.error = std::current_exception();
    }
  }
  template <class F>
  void guard_last(Flight& flight, F&& f) {
    guard(flight, [&] { last().card().run(f); });
  }

  void add_time(Phase phase, std::chrono::steady_clock::time_point start) {
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    seconds_[static_cast<size_t>(phase)] += spent.count();
  }

  const ModelConfig config_;
  Scheme scheme_;
  const bool has_int8_inputs_;
  const BackendTraits traits_{.max_steps_ahead = kStepsAhead,
                              .reads = true,
                              .steers = true,
                              .formats = {Format::bf16, Format::q8, Format::q8_0, Format::mxfp4},
                              .batch_sizes = {}};
  std::optional<Weights> source_;              // until prepare()
  std::optional<DeviceWeights> formats_;       // without memory
  std::unique_ptr<HostExperts> host_experts_;  // null: the devices have them all
  std::mutex turn_;                            // of the host's experts
  StepLimits limits_{};
  Split split_;
  std::vector<Kept> kept_;                      // [keep], of the step that was submitted last
  std::vector<std::unique_ptr<Card>> cards_;    // of the split
  std::vector<std::unique_ptr<Stage>> stages_;  // one on each
  std::optional<Event> states_sent_;            // on the last card
  std::array<Flight, kStepsAhead + 1> flights_;
  bool tables_are_stale_ = false;  // on some card
  StepId last_id_ = 0;
  std::optional<std::string> lost_;  // why the device cannot be used any more
  PhaseSeconds seconds_{};
};

}  // namespace

BackendInfo info() {
  try {
    const std::vector<DeviceInfo> devices = find_devices();
    std::string text;
    for (const DeviceInfo& device : devices) {
      text += concat(devices.size() > 1 ? concat(label_of(device), ": ") : "", device.name,
                     ", compute capability ", device.major, ".", device.minor, ", ",
                     device.memory >> 20, " MiB", devices.size() > 1 ? "; " : ", ");
    }
    return {"cuda", true, concat(text, "driver for CUDA ", version_text(Driver::get().version()))};
  } catch (const std::exception& error) {
    return {"cuda", false, error.what()};
  }
}

std::unique_ptr<Backend> make(Weights weights, const BackendOptions& options) {
  return std::make_unique<CudaBackend>(std::move(weights), options);
}

}  // namespace gptoss::cuda
