// Steps on the CPU: computed when they are submitted, sampled on all threads.
#include "backend/backend.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <unordered_map>
#include <utility>

#include "core/check.h"
#include "core/mapped_file.h"
#include "core/thread_pool.h"
#include "cpu/isa/isa.h"
#include "cpu/layers.h"
#include "cpu/sample.h"
#include "platform/platform.h"

namespace gptoss::cpu {
namespace {

// Memory left to the interpreter, the tokenizer and the system when the KV cache is sized.
constexpr int64_t kReservedBytes = int64_t{768} << 20;

// Mostly experts that no other token of the step needs: by bytes 0.27 to 0.37 for gpt-oss-20b.
// Timed at its size with random weights, on 2 CPU cores that others used too: steps of 4, 8 and 16
// tokens took 1.8, 3.1 and 4.6 times as long as one of a single token, 0.24 to 0.30 for each
// further token, but the second alone 0.44. Single guesses are the most frequent, and on the texts
// of bench_speculative.py 0.4 loses nowhere with either cost, and gains at most 1 % less than 0.3.
constexpr StepCost kStepCost = {.fixed = 0.6, .per_token = 0.4};

int64_t workspace_bytes(const ModelConfig& config, const Scheme& scheme, const StepLimits& limits) {
  return CpuLayers::workspace_bytes(config, scheme, limits.max_tokens) +
         int64_t{limits.max_logit_rows} * config.vocab_size * int64_t{sizeof(float)};
}

std::vector<int64_t> page_bytes(const ModelConfig& config, KvType type) {
  std::vector<int64_t> bytes;
  for (const KvGroup& group : kv_groups(config)) {
    bytes.push_back(
        KvStorage(type, config.n_kv_heads, config.head_dim, group.n_layers).page_bytes());
  }
  return bytes;
}

// Without what is available.
MemoryPlan plan_of(const ModelConfig& config, const Scheme& scheme, int64_t weight_bytes,
                   const StepLimits& limits) {
  MemoryPlan plan;
  plan.weights = weight_bytes;
  plan.workspace = workspace_bytes(config, scheme, limits);
  plan.page = page_bytes(config, scheme.kv_type);
  plan.is_lazy = true;
  return plan;
}

// What a running sequence has seen and made.
class Slot {
 public:
  Slot() = default;
  Slot(std::span<const int32_t> prompt, std::span<const int32_t> output)
      : prompt_(prompt.begin(), prompt.end()), output_(output.begin(), output.end()) {}

  uint64_t index() const { return output_.size(); }
  int32_t last() const { return output_.empty() ? kNoToken : output_.back(); }
  void push(int32_t token) {
    output_.push_back(token);
    if (counted_) count(token, 1);
  }
  // How often each token has occurred in the output. Counted when it is first asked for: most
  // sequences have no penalties.
  std::span<const TokenCount> counts() {
    if (!counted_) {
      counted_ = true;
      for (const int32_t token : prompt_) count(token, 0);
      for (const int32_t token : output_) count(token, 1);
    }
    return counts_;
  }

 private:
  void count(int32_t token, int32_t times) {
    const auto [place, is_new] = places_.try_emplace(token, counts_.size());
    if (is_new) counts_.push_back({token, 0});
    counts_[place->second].count += times;
  }

  std::vector<int32_t> prompt_, output_;
  bool counted_ = false;
  std::vector<TokenCount> counts_;
  std::unordered_map<int32_t, size_t> places_;  // in counts_
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(Weights weights, const BackendOptions& options)
      : scheme_(select_kernels(), options),
        pool_(shared_pool(resolve_thread_count(options.threads))),
        layers_(std::move(weights), options, *pool_) {}

  std::string description() const override { return "cpu, " + layers_.description(); }
  std::string arithmetic() const override { return "cpu, " + layers_.arithmetic(); }
  const BackendTraits& traits() const override { return traits_; }
  StepCost cost() const override { return kStepCost; }

  MemoryPlan plan(const StepLimits& limits) const override {
    MemoryPlan plan = plan_of(layers_.config(), scheme_, layers_.allocated_weight_bytes(), limits);
    // Weights are there already.
    plan.available = platform::available_memory() - kReservedBytes - plan.workspace;
    return plan;
  }

  void prepare(const StepLimits& limits, std::span<const int> n_pages) override {
    for (size_t g = 0; g < n_pages.size(); ++g) {
      layers_.storage(static_cast<int>(g)).allocate(n_pages[g]);
    }
    logits_ = LazyMemory(int64_t{limits.max_logit_rows} * layers_.config().vocab_size *
                         int64_t{sizeof(float)});
    layers_.write_logits_to(logits());
    slots_.resize(static_cast<size_t>(limits.max_sequences));
  }

  void open_slot(int slot, std::span<const int32_t> prompt,
                 std::span<const int32_t> output) override {
    slots_[static_cast<size_t>(slot)] = Slot(prompt, output);
  }
  void append_output(int slot, std::span<const int32_t> tokens) override {
    for (const int32_t token : tokens) slots_[static_cast<size_t>(slot)].push(token);
  }
  void close_slot(int slot) override { slots_[static_cast<size_t>(slot)] = {}; }

  void add_adapter(int id, const std::shared_ptr<const Adapter>& adapter) override {
    layers_.add_adapter(id, adapter);
  }
  void remove_adapter(int id) override { layers_.remove_adapter(id); }

  void copy_pages(std::span<const PageCopy> copies) override {
    for (const PageCopy& copy : copies) layers_.storage(copy.group).copy_page(copy.from, copy.to);
  }
  std::string kv_layout() const override {
    return concat("cpu ", name_of(scheme_.kv_type), " ", kPageTokens, " x ",
                  layers_.config().n_kv_heads, " x ", layers_.config().head_dim);
  }
  void read_pages(int group, std::span<const int32_t> pages, uint8_t* bytes) override {
    const KvStorage& storage = layers_.storage(group);
    for (const int32_t page : pages) {
      std::memcpy(bytes, storage.page(page), static_cast<size_t>(storage.page_bytes()));
      bytes += storage.page_bytes();
    }
  }
  void write_pages(int group, std::span<const int32_t> pages, const uint8_t* bytes) override {
    KvStorage& storage = layers_.storage(group);
    for (const int32_t page : pages) {
      storage.open_page(page);
      std::memcpy(storage.page(page), bytes, static_cast<size_t>(storage.page_bytes()));
      bytes += storage.page_bytes();
    }
  }

  StepId submit(const StepInput& input, const std::atomic<bool>& abandon) override {
    ++step_;
    result_ = {};
    error_ = nullptr;
    try {
      tokens_.assign(input.tokens.begin(), input.tokens.end());
      for (size_t s = 0; s + 1 < input.sequence_offsets.size(); ++s) {
        int32_t& first = tokens_[static_cast<size_t>(input.sequence_offsets[s])];
        if (first == kLastSampled) first = slots_[static_cast<size_t>(input.slots[s])].last();
      }
      StepInput known = input;
      known.tokens = tokens_;
      logits_.commit(0, static_cast<int64_t>(input.logit_rows.size()) *
                            layers_.config().vocab_size * int64_t{sizeof(float)});
      result_.abandoned = !run_layers(layers_, layers_.config().n_layers, known, abandon, seconds_);
      if (!result_.abandoned) result_.finite_tokens = layers_.finite_tokens();
    } catch (...) {
      error_ = std::current_exception();
    }
    return step_;
  }

  void sample(StepId, const SampleInput& input) override {
    if (error_ || result_.abandoned) return;
    const auto start = std::chrono::steady_clock::now();
    try {
      result_.rows.resize(input.rows.size());
      result_.sampled.assign(input.rows.size(), 0);
      // A sequence's rows follow each other, each from what the one before has chosen.
      std::vector<size_t> begins;
      for (size_t i = 0; i < input.rows.size(); ++i) {
        const bool alone = input.rows[i].target != kNoToken;
        if (i == 0 || alone || input.rows[i - 1].guess == kNoToken) begins.push_back(i);
      }
      begins.push_back(input.rows.size());
      pool_->run(static_cast<int64_t>(begins.size()) - 1, [&](int64_t unit) {
        static thread_local SampleScratch scratch;
        const auto u = static_cast<size_t>(unit);
        for (size_t i = begins[u]; i < begins[u + 1]; ++i) {
          if (!sample_row(input, i, scratch)) break;
        }
      });
    } catch (...) {
      error_ = std::current_exception();
    }
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    seconds_[static_cast<size_t>(Phase::sample)] += spent.count();
  }

  StepResult wait(StepId) override {
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return std::move(result_);
  }

  void read_logits(StepId, int first_row, int n_rows, float* values) override {
    if (error_ || result_.abandoned) return;
    const int64_t vocab = layers_.config().vocab_size;
    std::memcpy(values, logits() + first_row * vocab,
                static_cast<size_t>(n_rows * vocab) * sizeof(float));
  }

  void read(StepId, int keep, Activation activation, int layer, void* values) override {
    if (error_ || result_.abandoned) return;
    layers_.read(keep, activation, layer, values);
  }

  PhaseSeconds phase_seconds() const override { return seconds_; }

 private:
  float* logits() const { return reinterpret_cast<float*>(logits_.data()); }

  // Returns whether the sequence's next row is to be sampled too.
  bool sample_row(const SampleInput& input, size_t i, SampleScratch& scratch) {
    const RowSampling& row = input.rows[i];
    Slot& slot = slots_[static_cast<size_t>(row.slot)];
    const int vocab = layers_.config().vocab_size;
    const auto biases = input.biases.subspan(static_cast<size_t>(row.bias_begin),
                                             static_cast<size_t>(row.bias_end - row.bias_begin));
    ops::SampleRow sampled{};
    sampled.logits = logits() + int64_t{row.row} * vocab;
    sampled.vocab_size = vocab;
    sampled.rule = &row.rule;
    // Rows that are scored are computed beside each other, and have nothing to do with the slot.
    if (row.target == kNoToken) {
      sampled.index = slot.index();
      if (ops::has_penalties(row.rule)) sampled.counts = slot.counts();
    }
    sampled.biases = biases;
    if (row.mask >= 0) {
      sampled.mask = input.masks.data() + static_cast<size_t>(row.mask) * mask_words(vocab);
    }
    sampled.target = row.target;
    result_.rows[i] = cpu::sample(scheme_.kernels, sampled, scratch);
    result_.sampled[i] = 1;
    const ops::SampledRow& made = result_.rows[i];
    if (row.target != kNoToken || made.status != ops::SampleStatus::ok) return false;
    slot.push(made.token);
    return made.token == row.guess;
  }

  const Scheme scheme_;
  const BackendTraits traits_{
      .adapters = true,
      .reads = true,
      .steers = true,
      .formats = {Format::bf16, Format::bf12, Format::q8, Format::q8_0, Format::mxfp4},
      .batch_sizes = {}};
  const std::shared_ptr<ThreadPool> pool_;
  CpuLayers layers_;
  LazyMemory logits_;  // (max_logit_rows, V) f32
  std::vector<Slot> slots_;
  PhaseSeconds seconds_{};
  // The step that was submitted last.
  StepId step_ = 0;
  std::vector<int32_t> tokens_;  // (T): with what slots sampled last in its place
  StepResult result_;
  std::exception_ptr error_;  // comes out of wait()
};

}  // namespace

BackendInfo info() {
  try {
    const Kernels& kernels = select_kernels();
    return {"cpu", true, concat(kernels.name, ", ", resolve_thread_count(0), " threads")};
  } catch (const std::exception& error) {
    return {"cpu", false, error.what()};
  }
}

std::unique_ptr<Backend> make(Weights weights, const BackendOptions& options) {
  check(options.cpu_experts == kFewestCpuExperts, "cpu_experts=", options.cpu_experts,
        " says what a GPU leaves to the CPU, and this device is the CPU: leave it out");
  return std::make_unique<CpuBackend>(std::move(weights), options);
}

std::vector<DeviceRoom> rooms(std::span<const int>, std::span<const int64_t> device_bytes) {
  check(device_bytes.size() <= 1, "a machine has one memory, got the sizes of ",
        device_bytes.size());
  const int64_t memory = device_bytes.empty() ? platform::available_memory() : device_bytes.front();
  return {{"cpu", memory - kReservedBytes}};
}

MemoryPlan plan(const Weights& shapes, const BackendOptions& options, const StepLimits& limits,
                std::span<const DeviceRoom> rooms) {
  check(rooms.size() == 1, "a machine has one memory, got ", rooms.size());
  const Scheme scheme(select_kernels(), options);
  MemoryPlan plan = plan_of(shapes.config, scheme,
                            PreparedWeights::allocated_bytes(shapes.config, options.dense), limits);
  plan.available = rooms.front().usable - plan.weights - plan.workspace;
  return plan;
}

}  // namespace gptoss::cpu
