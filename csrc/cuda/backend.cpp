// Steps on a CUDA device: kernels, copies and their order are queued, and waited for once.
#include "backend/backend.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <utility>

#include "core/check.h"
#include "core/kv_page.h"
#include "cuda/cpu_experts.h"
#include "cuda/forward.h"
#include "cuda/graphs.h"
#include "cuda/memory.h"
#include "cuda/module.h"
#include "cuda/plan.h"
#include "cuda/step_memory.h"
#include "cuda/weights.h"
#include "ops/sample.h"

namespace gptoss::cuda {
namespace {

static_assert(kKernelPageTokens == kPageTokens);
static_assert(kMaxTop == kMaxLogprobs);
static_assert(static_cast<int>(ops::SampleStatus::non_finite) == 1);
static_assert(static_cast<int>(ops::SampleStatus::empty_mask) == 2);
static_assert(sizeof(BiasEntry) == sizeof(TokenBias));

// Launches and small kernels weigh more than the weights of further tokens; not measured.
constexpr StepCost kStepCost = {.fixed = 0.8, .per_token = 0.2};

// Of experts on the CPU each further token reads others, as there.
constexpr StepCost kCpuExpertsCost = {.fixed = 0.6, .per_token = 0.4};

// Of gpt-oss-20b one has some 150 kernels; what that takes on a device was not measured.
constexpr int kMostGraphs = 48;
// Prompts and larger batches take longer than their launches, and are seldom twice of one size.
constexpr int kMostGraphTokens = 64;

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
  // `sleeps`: in wait(), as the experts need the CPUs.
  Flight(const Context& context, bool sleeps) : done(context, sleeps) {}

  StepId id = 0;
  int n_sequences = 0;
  int n_logit_rows = 0;
  std::vector<SampleRow> rows;
  bool abandoned = false;
  std::exception_ptr error;  // comes out of wait()
  Event done;
};

class CudaBackend final : public Backend {
 public:
  CudaBackend(Weights weights, const BackendOptions& options)
      : config_(weights.config),
        scheme_(scheme_of(config_, options)),
        has_int8_inputs_(has_int8_inputs(weights, scheme_)),
        context_(find_device()),
        source_(std::move(weights)) {
    const Context::Scope scope(context_);
    // They take memory themselves, so what is free is looked at behind them.
    stream_.emplace(context_);
    module_.emplace(context_, embedded_kernels());
    if (options.cpu_experts == kFewestCpuExperts && options.room.limits.max_tokens > 0) {
      scheme_.cpu_experts = count_cpu_experts(*source_, scheme_, options.room, usable());
    }
    check_weights_fit(*source_, scheme_, context_.device(), usable());
    if (options.room.check_kv_cache) check_kv_cache_fits(options.room);
    weights_.emplace(*source_, scheme_);
    if (scheme_.cpu_experts > 0) {
      host_experts_ = cpu::make_host_experts(*source_, scheme_.cpu_experts, options);
    }
  }

  std::string description() const override {
    return concat("cuda, ", context_.device().name, ", ", formats());
  }
  std::string arithmetic() const override {
    const DeviceInfo& device = context_.device();
    return concat("cuda ", device.major, ".", device.minor, ", ", formats());
  }
  const BackendTraits& traits() const override { return traits_; }
  StepCost cost() const override { return scheme_.cpu_experts > 0 ? kCpuExpertsCost : kStepCost; }
  int cpu_experts() const override { return scheme_.cpu_experts; }

  MemoryPlan plan(const StepLimits& limits) const override {
    const Context::Scope scope(context_);
    return plan_of(*source_, scheme_, limits, usable());
  }

  void prepare(const StepLimits& limits, std::span<const int> n_pages) override {
    const Context::Scope scope(context_);
    weights_.emplace(context_, *stream_, *module_, *source_, scheme_);
    source_.reset();
    limits_ = limits;
    memory_ = StepMemory(context_, config_, scheme_, has_int8_inputs_, limits, kStepsAhead + 1);
    const std::vector<KvGroup> groups = kv_groups(config_);
    for (size_t g = 0; g < groups.size(); ++g) {
      page_bytes_.push_back(page_bytes(config_, scheme_.kv, groups[g]));
      pages_.emplace_back(context_, std::max<int64_t>(1, n_pages[g] * page_bytes_[g]),
                          "the KV cache");
    }
    for (size_t i = 0; i < memory_.flights.size(); ++i) {
      flights_.push_back(std::make_unique<Flight>(context_, scheme_.cpu_experts > 0));
    }
    stream_->clear(memory_.slots.states.address(), memory_.slots.states.size_bytes());
    for (const DeviceMemory* counts :
         {&memory_.work.arrived, &memory_.work.splits_arrived, &memory_.work.down_arrived}) {
      if (counts->size_bytes() > 0) stream_->clear(counts->address(), counts->size_bytes());
    }
    const std::vector<float> rotations =
        make_rotations(config_, limits.max_pages_per_sequence * kPageTokens);
    stream_->upload(memory_.slots.rotations.address(), rotations.data(),
                    static_cast<int64_t>(rotations.size() * sizeof(float)));
    if (scheme_.cpu_experts > 0) {
      const std::vector<float> ones(static_cast<size_t>(limits.max_tokens), 1.0f);
      stream_->upload(memory_.work.ones.address(), ones.data(), memory_.work.ones.size_bytes());
      cpu_experts_.emplace(context_, *stream_, *host_experts_, config_, scheme_, limits.max_tokens,
                           kStepsAhead + 1);
    }
    stream_->wait();
    forward_.emplace(config_, scheme_, *weights_, memory_, pages_, *module_, *stream_);
    const char* const text = std::getenv("GPTOSS_CUDA_GRAPHS");
    const int most = text == nullptr || *text == '\0' ? kMostGraphs : std::atoi(text);
    if (most > 0) {
      graphs_.emplace(context_, *stream_, *module_, most * forward_->n_segments());
    }
  }

  void open_slot(int slot, std::span<const int32_t> prompt,
                 std::span<const int32_t> output) override {
    at_once([&] {
      constexpr SlotState kNew = {.last_token = kNoToken, .unused = 0, .index = 0};
      stream_->upload(slot_state(slot), &kNew, sizeof(kNew));
      stream_->clear(slot_counts(slot), config_.vocab_size * int64_t{sizeof(uint32_t)});
      count(slot, prompt, false);
      count(slot, output, true);
    });
  }
  void append_output(int slot, std::span<const int32_t> tokens) override {
    at_once([&] { count(slot, tokens, true); });
  }
  void close_slot(int) override {}

  void copy_pages(std::span<const PageCopy> copies) override {
    at_once([&] {
      for (const PageCopy& copy : copies) {
        stream_->copy(page(copy.group, copy.to), page(copy.group, copy.from),
                      page_bytes_[static_cast<size_t>(copy.group)]);
      }
    });
  }
  std::string kv_layout() const override {
    return concat("cuda ", name_of(scheme_.kv), " 2 x ", config_.n_kv_heads, " x ", kPageTokens,
                  " x ", config_.head_dim);
  }
  void read_pages(int group, std::span<const int32_t> pages, uint8_t* bytes) override {
    at_once([&] {
      const int64_t size = page_bytes_[static_cast<size_t>(group)];
      for (const int32_t index : pages) {
        stream_->download(bytes, page(group, index), size);
        bytes += size;
      }
      stream_->wait();
    });
  }
  void write_pages(int group, std::span<const int32_t> pages, const uint8_t* bytes) override {
    at_once([&] {
      const int64_t size = page_bytes_[static_cast<size_t>(group)];
      for (const int32_t index : pages) {
        stream_->upload(page(group, index), bytes, size);
        bytes += size;
      }
      stream_->wait();  // `bytes` is the caller's
    });
  }

  StepId submit(const StepInput& input, const std::atomic<bool>& abandon) override {
    throw_if_lost();
    const auto start = std::chrono::steady_clock::now();
    const StepId id = ++last_;
    Flight& flight = flight_of(id);
    flight.id = id;
    flight.n_sequences = static_cast<int>(input.slots.size());
    flight.n_logit_rows = static_cast<int>(input.logit_rows.size());
    flight.rows.clear();
    flight.error = nullptr;
    flight.abandoned = abandon.load(std::memory_order_relaxed);
    if (cpu_experts_) cpu_experts_->begin(flight_index(id), static_cast<int>(input.tokens.size()));
    guard(flight, [&] {
      FlightMemory& memory = flight_memory(id);
      upload_tables(memory, *input.tables);
      if (flight.abandoned) return flight.done.record(*stream_);
      const Step step = upload(memory, input);
      int highest_position = 0;
      for (size_t s = 0; s < input.slots.size(); ++s) {
        highest_position =
            std::max(highest_position, input.first_positions[s] + input.sequence_offsets[s + 1] -
                                           input.sequence_offsets[s] - 1);
      }
      StepShape shape = {.segment = 0,
                         .flight = flight_index(id),
                         .n_tokens = step.n_tokens,
                         .n_sequences = step.n_sequences,
                         .n_logit_rows = step.n_logit_rows,
                         .n_splits = forward_->count_splits(step.n_tokens, highest_position),
                         .row_pages = {}};
      for (int group = 0; group < input.tables->n_groups(); ++group) {
        shape.row_pages[static_cast<size_t>(group)] = input.tables->row_pages(group);
      }
      const auto queue = [&] {
        forward_->run(step, shape.row_pages, shape.n_splits, shape.segment);
        if (shape.segment + 1 < forward_->n_segments()) return;
        module_->run(*stream_, FiniteArgs{.step = step,
                                          .x = memory_.work.x.as<const float>(),
                                          .finite = memory.finite.as<int32_t>(),
                                          .hidden = config_.hidden_size});
      };
      for (; shape.segment < forward_->n_segments(); ++shape.segment) {
        if (shape.segment > 0) {
          cpu_experts_->queue(shape.flight, shape.segment - 1, memory_.work);
        }
        if (graphs_ && step.n_tokens <= kMostGraphTokens) {
          graphs_->run(shape, queue);
        } else {
          queue();
        }
      }
      stream_->download(memory.host_finite.data(), memory.finite.address(),
                        flight.n_sequences * int64_t{sizeof(int32_t)});
      flight.done.record(*stream_);
    });
    add_time(Phase::begin_step, start);
    return id;
  }

  void sample(StepId id, const SampleInput& input) override {
    Flight& flight = flight_of(id);
    if (flight.error || flight.abandoned || input.rows.empty()) return;
    const auto start = std::chrono::steady_clock::now();
    guard(flight, [&] {
      FlightMemory& memory = flight_memory(id);
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
      if (!input.biases.empty()) {
        const auto bytes = static_cast<int64_t>(input.biases.size_bytes());
        if (memory.biases.size_bytes() < bytes) {
          memory.biases = DeviceMemory(context_, 2 * bytes, "biases of tokens");
        }
        stream_->upload(memory.biases.address(), input.biases.data(), bytes);
      }
      module_->run(*stream_, SampleArgs{.logits = memory_.work.logits.as<const float>(),
                                        .ranges = forward_->logit_ranges(flight.n_logit_rows),
                                        .rows = memory.sample_rows.as<const SampleRow>(),
                                        .units = memory.units.as<const int32_t>(),
                                        .masks = memory.masks.as<const uint32_t>(),
                                        .biases = memory.biases.as<const BiasEntry>(),
                                        .counts = memory_.slots.counts.as<uint32_t>(),
                                        .slots = memory_.slots.states.as<SlotState>(),
                                        .changed = memory_.work.changed_logits.as<float>(),
                                        .candidates = memory_.work.candidates.as<int32_t>(),
                                        .out = memory.samples.as<SampleOut>(),
                                        .n_units = n_units,
                                        .vocab_size = config_.vocab_size});
      stream_->download(memory.host_samples.data(), memory.samples.address(),
                        n_rows * int64_t{sizeof(SampleOut)});
      flight.done.record(*stream_);
    });
    add_time(Phase::sample, start);
  }

  StepResult wait(StepId id) override {
    Flight& flight = flight_of(id);
    const auto start = std::chrono::steady_clock::now();
    if (!flight.error) {
      throw_if_lost();
      guard(flight, [&] {
        flight.done.wait();
        if (cpu_experts_) cpu_experts_->rethrow(flight_index(id));
      });
    }
    if (flight.error) {
      // What was queued before the error still reads and writes what the next step will have.
      stream_->drain();
      add_time(Phase::device, start);
      std::rethrow_exception(std::exchange(flight.error, nullptr));
    }
    add_time(Phase::device, start);
    StepResult result;
    result.abandoned = flight.abandoned;
    if (flight.abandoned) return result;
    const FlightMemory& memory = flight_memory(id);
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
      stream_->download(logits,
                        memory_.work.logits.address() + static_cast<CUdeviceptr>(first_row * row),
                        n_rows * row);
      stream_->wait();
    });
  }

  void read(StepId, int, Activation, int, void*) override {
    throw BackendError("[cuda] what is inside a layer is not kept on the device");
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
    const int in_q8_0 = weights_->count(Format::q8_0);
    if (in_q8_0 > 0) {
      text += concat(", ", in_q8_0, " dense weights in q8_0 with inputs ",
                     scheme_.act == Act::f32 ? "f32" : "int8");
    }
    return text;
  }
  // In a Scope.
  void check_kv_cache_fits(const Room& room) const {
    const int64_t bytes = usable();
    try {
      room.check_kv_cache(
          [&](const StepLimits& limits) { return plan_of(*source_, scheme_, limits, bytes); });
    } catch (const OutOfMemory& error) {
      throw OutOfMemory(
          concat("[cuda] ",
                 scheme_.cpu_experts == 0
                     ? ""
                     : concat("with the experts of ", scheme_.cpu_experts, " layers on the CPU, "),
                 error.what()));
    }
  }
  int64_t usable() const { return usable_bytes(context_.free_memory(), context_.device().memory); }

  int flight_index(StepId id) const { return static_cast<int>(id % (kStepsAhead + 1)); }
  Flight& flight_of(StepId id) { return *flights_[static_cast<size_t>(flight_index(id))]; }
  FlightMemory& flight_memory(StepId id) {
    return memory_.flights[static_cast<size_t>(flight_index(id))];
  }
  CUdeviceptr page(int group, int32_t index) const {
    const auto g = static_cast<size_t>(group);
    return pages_[g].address() + static_cast<CUdeviceptr>(index * page_bytes_[g]);
  }
  CUdeviceptr slot_state(int slot) const {
    return memory_.slots.states.address() + static_cast<CUdeviceptr>(slot) * sizeof(SlotState);
  }
  CUdeviceptr slot_counts(int slot) const {
    return memory_.slots.counts.address() + static_cast<CUdeviceptr>(slot) *
                                                static_cast<CUdeviceptr>(config_.vocab_size) *
                                                sizeof(uint32_t);
  }

  // Some tokens of a slot at a time, as many as there is room for.
  void count(int slot, std::span<const int32_t> tokens, bool is_output) {
    const size_t room = static_cast<size_t>(memory_.slots.tokens.size_bytes()) / sizeof(int32_t);
    while (!tokens.empty()) {
      const std::span<const int32_t> part = tokens.first(std::min(room, tokens.size()));
      stream_->upload(memory_.slots.tokens.address(), part.data(),
                      static_cast<int64_t>(part.size_bytes()));
      module_->run(*stream_,
                   CountTokensArgs{.tokens = memory_.slots.tokens.as<const int32_t>(),
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
    stream_->upload(device.address(), host.data(), static_cast<int64_t>(values.size_bytes()));
  }

  Step upload(const FlightMemory& memory, const StepInput& input) {
    const int n_tokens = static_cast<int>(input.tokens.size());
    const int n_sequences = static_cast<int>(input.slots.size());
    const int n_logit_rows = static_cast<int>(input.logit_rows.size());
    check(n_tokens <= limits_.max_tokens && n_sequences <= limits_.max_sequences &&
              n_logit_rows <= limits_.max_logit_rows,
          "[cuda] a step has at most ", limits_.max_tokens, " tokens, ", limits_.max_sequences,
          " sequences and ", limits_.max_logit_rows, " rows of logits, got ", n_tokens, ", ",
          n_sequences, " and ", n_logit_rows);
    const InputLayout layout(n_tokens, n_sequences, n_logit_rows);
    uint8_t* const host = memory.host_input.data();
    const auto ints = [&](int64_t offset) { return reinterpret_cast<int32_t*>(host + offset); };
    std::ranges::copy(input.tokens, ints(0));
    std::ranges::copy(input.sequence_offsets, ints(layout.sequence_offsets));
    std::ranges::copy(input.first_positions, ints(layout.first_positions));
    std::ranges::copy(input.slots, ints(layout.sequence_slots));
    std::ranges::copy(input.logit_rows, ints(layout.logit_rows));
    for (size_t s = 0; s < input.slots.size(); ++s) {
      for (int t = input.sequence_offsets[s]; t < input.sequence_offsets[s + 1]; ++t) {
        ints(layout.positions)[t] = input.first_positions[s] + t - input.sequence_offsets[s];
        ints(layout.token_slots)[t] = input.slots[s];
      }
    }
    stream_->upload(memory.input.address(), host, layout.bytes);
    const auto device = [&](int64_t offset) { return memory.input.as<const int32_t>(offset); };
    return {.tokens = device(0),
            .positions = device(layout.positions),
            .token_slots = device(layout.token_slots),
            .sequence_offsets = device(layout.sequence_offsets),
            .first_positions = device(layout.first_positions),
            .sequence_slots = device(layout.sequence_slots),
            .logit_rows = device(layout.logit_rows),
            .slots = memory_.slots.states.as<const SlotState>(),
            .n_tokens = n_tokens,
            .n_sequences = n_sequences,
            .n_logit_rows = n_logit_rows};
  }

  // What has changed since the last step.
  void upload_tables(const FlightMemory& memory, const BlockTables& tables) {
    for (const BlockTables::Range& range : tables.dirty()) {
      const auto g = static_cast<size_t>(range.group);
      const int64_t row = int64_t{range.slot} * tables.row_pages(range.group);
      const int64_t offset = (row + range.begin) * int64_t{sizeof(int32_t)};
      const int64_t bytes = (range.end - range.begin) * int64_t{sizeof(int32_t)};
      check(offset + bytes <= memory_.slots.tables[g].size_bytes(),
            "[cuda] rows of a block table are longer than planned: ", tables.row_pages(range.group),
            " pages");
      const auto entries = tables.row(range.group, range.slot)
                               .subspan(static_cast<size_t>(range.begin),
                                        static_cast<size_t>(range.end - range.begin));
      uint8_t* const staged = memory.host_tables[g].data() + offset;
      std::memcpy(staged, entries.data(), entries.size_bytes());
      stream_->upload(memory_.slots.tables[g].address() + static_cast<CUdeviceptr>(offset), staged,
                      bytes);
    }
  }

  void throw_if_lost() const {
    if (lost_) throw BackendError(*lost_);
  }

  // Runs f in the context. What the device says of it, or of what was queued before, is its end.
  template <class F>
  void at_once(F&& f) {
    throw_if_lost();
    try {
      const Context::Scope scope(context_);
      f();
    } catch (const BackendError& error) {
      lost_ = error.what();
      throw;
    }
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

  void add_time(Phase phase, std::chrono::steady_clock::time_point start) {
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    seconds_[static_cast<size_t>(phase)] += spent.count();
  }

  const ModelConfig config_;
  Scheme scheme_;
  const bool has_int8_inputs_;
  const Context context_;
  const BackendTraits traits_{.max_steps_ahead = kStepsAhead,
                              .formats = {Format::bf16, Format::q8, Format::q8_0, Format::mxfp4},
                              .batch_sizes = {}};
  std::optional<Stream> stream_;
  std::optional<Module> module_;
  std::optional<Weights> source_;              // until prepare()
  std::optional<DeviceWeights> weights_;       // until then formats alone
  std::unique_ptr<HostExperts> host_experts_;  // null: the device has them all
  StepLimits limits_{};
  std::vector<int64_t> page_bytes_;  // [group]
  std::vector<DeviceMemory> pages_;  // [group]
  StepMemory memory_;
  std::optional<Forward> forward_;
  std::optional<StepGraphs> graphs_;
  std::optional<CpuExperts> cpu_experts_;  // with host_experts_
  std::vector<std::unique_ptr<Flight>> flights_;
  StepId last_ = 0;
  std::optional<std::string> lost_;  // why the device cannot be used any more
  PhaseSeconds seconds_{};
};

}  // namespace

BackendInfo info() {
  try {
    const DeviceInfo device = find_device();
    return {"cuda", true,
            concat(device.name, ", compute capability ", device.major, ".", device.minor, ", ",
                   device.memory >> 20, " MiB, driver for CUDA ",
                   version_text(Driver::get().version()))};
  } catch (const std::exception& error) {
    return {"cuda", false, error.what()};
  }
}

std::unique_ptr<Backend> make(Weights weights, const BackendOptions& options) {
  return std::make_unique<CudaBackend>(std::move(weights), options);
}

}  // namespace gptoss::cuda
