#include "testing/fake_backend.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "core/check.h"

namespace gptoss::testing {
namespace {

// Of a place that was never written: it gives other tokens than any that was.
constexpr uint64_t kUnwritten = 0xdead0000dead0000;
constexpr uint64_t kPoisoned = 0x0bad0bad0bad0bad;

uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t z = (a ^ (b * 0x9e3779b97f4a7c15ull)) + 0x632be59bd9b4e019ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

uint64_t entry_of(const FakeOptions& options, int32_t token, int adapter) {
  if (token == options.poison) return kPoisoned;
  return mix(static_cast<uint64_t>(token) + 1, static_cast<uint64_t>(adapter));
}

// `entry_at(group, position)` is what a page holds there.
template <class EntryAt>
std::vector<float> logits_from(const FakeOptions& options, int position, EntryAt entry_at) {
  uint64_t hash = options.seed;
  bool is_finite = true;
  for (size_t g = 0; g < options.groups.size(); ++g) {
    const int window = options.groups[g].window;
    const int first = window == 0 ? 0 : std::max(0, position - window + 1);
    for (int p = first; p <= position; ++p) {
      const uint64_t entry = entry_at(static_cast<int>(g), p);
      is_finite = is_finite && entry != kPoisoned;
      hash = mix(hash, mix(entry, static_cast<uint64_t>(p)));
    }
  }
  std::vector<float> logits(static_cast<size_t>(options.vocab_size));
  for (size_t v = 0; v < logits.size(); ++v) {
    logits[v] = is_finite ? static_cast<float>(mix(hash, v) >> 44) * 0x1p-17f - 4.0f
                          : std::numeric_limits<float>::quiet_NaN();
  }
  return logits;
}

[[noreturn]] void breach(const std::string& what) { throw std::logic_error("[fake] " + what); }

}  // namespace

std::vector<float> fake_logits(const FakeOptions& options, std::span<const int32_t> tokens,
                               int adapter) {
  if (tokens.back() == options.nan_logits) {
    return std::vector<float>(static_cast<size_t>(options.vocab_size),
                              std::numeric_limits<float>::quiet_NaN());
  }
  return logits_from(options, static_cast<int>(tokens.size()) - 1, [&](int, int position) {
    return entry_of(options, tokens[static_cast<size_t>(position)], adapter);
  });
}

FakeBackend::FakeBackend(FakeOptions options)
    : options_(std::move(options)),
      traits_{.max_steps_ahead = options_.max_steps_ahead,
              .adapters = true,
              .drafts = true,
              .formats = {},
              .batch_sizes = {}},
      random_(options_.seed) {}

MemoryPlan FakeBackend::plan(const StepLimits&) const {
  MemoryPlan plan;
  plan.page.assign(options_.groups.size(), kPageTokens * sizeof(Entry));
  plan.available = int64_t{1} << 40;
  return plan;
}

void FakeBackend::prepare(const StepLimits& limits, std::span<const int> n_pages) {
  limits_ = limits;
  for (const int n : n_pages) {
    pages_.emplace_back(static_cast<size_t>(n) * kPageTokens, kUnwritten);
  }
  runs_.assign(static_cast<size_t>(limits.max_sequences), 0);
  slots_.resize(static_cast<size_t>(limits.max_sequences));
}

void FakeBackend::enqueue(std::function<void()> work) {
  queue_.push_back(std::move(work));
  if (random_() % 4 == 0) run_all();
}

void FakeBackend::run_all() {
  while (!queue_.empty()) {
    const auto work = std::move(queue_.front());
    queue_.pop_front();
    work();
  }
}

void FakeBackend::open_slot(int slot, std::span<const int32_t> prompt,
                            std::span<const int32_t> output) {
  int64_t& run = runs_.at(static_cast<size_t>(slot));
  if (run != 0) breach(concat("slot ", slot, " is opened twice"));
  run = next_run_++;
  Slot opened = {.run = run,
                 .prompt = {prompt.begin(), prompt.end()},
                 .output = {output.begin(), output.end()}};
  enqueue([this, slot, opened] { slots_[static_cast<size_t>(slot)] = opened; });
}

void FakeBackend::append_output(int slot, std::span<const int32_t> tokens) {
  if (runs_.at(static_cast<size_t>(slot)) == 0) breach(concat("slot ", slot, " is not open"));
  enqueue([this, slot, copy = std::vector<int32_t>(tokens.begin(), tokens.end())] {
    auto& output = slots_[static_cast<size_t>(slot)].output;
    output.insert(output.end(), copy.begin(), copy.end());
  });
}

void FakeBackend::close_slot(int slot) {
  int64_t& run = runs_.at(static_cast<size_t>(slot));
  if (run == 0) breach(concat("slot ", slot, " is closed, and was not open"));
  for (const InFlight& flight : flights_) {
    if (flight.slots.contains(slot)) {
      breach(concat("slot ", slot, " is closed while step ", flight.id, " is in flight"));
    }
  }
  run = 0;
  enqueue([this, slot] { slots_[static_cast<size_t>(slot)] = {}; });
}

void FakeBackend::add_adapter(int id, const std::shared_ptr<const Adapter>&) {
  if (id < 1) breach(concat("an adapter has the id ", id));
  if (!adapters_.insert(id).second) breach(concat("adapter ", id, " is added twice"));
}

void FakeBackend::remove_adapter(int id) {
  for (const InFlight& flight : flights_) {
    if (flight.adapters.contains(id)) {
      breach(concat("adapter ", id, " is removed while step ", flight.id, " is in flight"));
    }
  }
  if (adapters_.erase(id) == 0) breach(concat("adapter ", id, " is removed, and was not there"));
}

// No step in flight may use a page that is overwritten.
void FakeBackend::check_unused(int group, int32_t page, const char* what) const {
  for (const InFlight& flight : flights_) {
    const Place place = {group, page};
    if (flight.reads.contains(place) || flight.writes.contains(place)) {
      breach(concat("page ", page, " of group ", group, " is ", what, " while step ", flight.id,
                    " that uses it is in flight"));
    }
  }
}

void FakeBackend::copy_pages(std::span<const PageCopy> copies) {
  for (const PageCopy& copy : copies) {
    check_unused(copy.group, copy.to, "overwritten by a copy");
    enqueue([this, copy] {
      auto& pages = pages_[static_cast<size_t>(copy.group)];
      std::copy_n(pages.begin() + std::ptrdiff_t{copy.from} * kPageTokens, kPageTokens,
                  pages.begin() + std::ptrdiff_t{copy.to} * kPageTokens);
    });
  }
}

void FakeBackend::read_pages(int group, std::span<const int32_t> pages, uint8_t* bytes) {
  run_all();
  constexpr size_t kBytes = kPageTokens * sizeof(Entry);
  for (const int32_t page : pages) {
    std::memcpy(bytes, &pages_[static_cast<size_t>(group)][static_cast<size_t>(page) * kPageTokens],
                kBytes);
    bytes += kBytes;
  }
}

void FakeBackend::write_pages(int group, std::span<const int32_t> pages, const uint8_t* bytes) {
  run_all();
  constexpr size_t kBytes = kPageTokens * sizeof(Entry);
  for (const int32_t page : pages) {
    check_unused(group, page, "overwritten");
    std::memcpy(&pages_[static_cast<size_t>(group)][static_cast<size_t>(page) * kPageTokens], bytes,
                kBytes);
    bytes += kBytes;
  }
}

FakeBackend::Entry& FakeBackend::entry(int group, int slot, int position) {
  const auto g = static_cast<size_t>(group);
  const auto row = static_cast<size_t>(row_pages_[g]);
  const auto place = static_cast<size_t>(position / kPageTokens) % row;
  const int32_t page = tables_[g][static_cast<size_t>(slot) * row + place];
  if (page < 0 || static_cast<size_t>(page) * kPageTokens >= pages_[g].size()) {
    breach(concat("position ", position, " of slot ", slot, " has no page in group ", group));
  }
  return pages_[g][static_cast<size_t>(page) * kPageTokens +
                   static_cast<size_t>(position % kPageTokens)];
}

// Which pages a step reads and writes, by the host's tables.
void FakeBackend::note_uses(const StepInput& input, InFlight& flight) const {
  for (size_t s = 0; s < input.slots.size(); ++s) {
    const int slot = input.slots[s];
    const int64_t run = runs_.at(static_cast<size_t>(slot));
    if (run == 0) breach(concat("step ", flight.id, " uses slot ", slot, ", which is not open"));
    if (!flight.slots.insert(slot).second) breach(concat("slot ", slot, " is twice in a step"));
    const int adapter = input.adapters.empty() ? 0 : input.adapters[s];
    if (adapter != 0 && !adapters_.contains(adapter)) breach(concat("no adapter ", adapter));
    flight.adapters.insert(adapter);
    const int first = input.first_positions[s];
    const int end = first + input.sequence_offsets[s + 1] - input.sequence_offsets[s];
    if (end > limits_.max_pages_per_sequence * kPageTokens) breach("a sequence is too long");
    for (int g = 0; g < input.tables->n_groups(); ++g) {
      const auto row = input.tables->row(g, slot);
      const int window = options_.groups[static_cast<size_t>(g)].window;
      const int seen = window == 0 ? 0 : std::max(0, first - window + 1);
      for (int page = seen / kPageTokens; page <= (end - 1) / kPageTokens; ++page) {
        const Place place = {g, row[static_cast<size_t>(page) % row.size()]};
        if (place.second < 0) breach(concat("page ", page, " of slot ", slot, " is missing"));
        flight.reads[place].insert(run);
        if (page >= first / kPageTokens) flight.writes[place].insert(run);
      }
    }
  }
}

// What one sequence writes, no other may use in the same step or in one in flight.
void FakeBackend::check_uses(const InFlight& flight) const {
  const auto meets = [](const InFlight& a, const InFlight& b) {
    for (const auto& [place, writers] : a.writes) {
      const auto readers = b.reads.find(place);
      if (readers == b.reads.end()) continue;
      for (const int64_t reader : readers->second) {
        if (writers.size() > 1 || !writers.contains(reader)) {
          breach(concat("page ", place.second, " of group ", place.first, ": step ", a.id,
                        " writes it for one sequence, and step ", b.id, " uses it for another"));
        }
      }
    }
  };
  meets(flight, flight);
  for (const InFlight& other : flights_) {
    meets(flight, other);
    meets(other, flight);
  }
}

StepId FakeBackend::submit(const StepInput& input, const std::atomic<bool>& abandon) {
  if (fatal_) throw BackendError("the fake device is lost");
  if (!flights_.empty() && !flights_.back().is_sampled) breach("a step is not sampled yet");
  if (flights_.size() > static_cast<size_t>(options_.max_steps_ahead)) breach("too many in flight");
  const auto n_tokens = static_cast<int>(input.tokens.size());
  if (n_tokens < 1 || n_tokens > limits_.max_tokens) breach(concat(n_tokens, " tokens in a step"));
  if (input.logit_rows.size() > static_cast<size_t>(limits_.max_logit_rows)) breach("rows");
  if (input.slots.size() > static_cast<size_t>(limits_.max_sequences)) breach("sequences");
  InFlight flight;
  flight.id = ++last_step_;
  note_uses(input, flight);
  check_uses(flight);

  auto step = std::make_shared<Step>();
  const auto copy = [](std::span<const int32_t> values) {
    return std::vector<int32_t>(values.begin(), values.end());
  };
  step->tokens = copy(input.tokens);
  step->offsets = copy(input.sequence_offsets);
  step->positions = copy(input.first_positions);
  step->slots = copy(input.slots);
  step->adapters = copy(input.adapters);
  step->logit_rows = copy(input.logit_rows);
  step->dirty = {input.tables->dirty().begin(), input.tables->dirty().end()};
  for (const BlockTables::Range& range : step->dirty) {
    const auto row = input.tables->row(range.group, range.slot);
    step->dirty_pages.insert(step->dirty_pages.end(), row.begin() + range.begin,
                             row.begin() + range.end);
  }
  if (tables_.empty()) {
    for (int g = 0; g < input.tables->n_groups(); ++g) {
      row_pages_.push_back(input.tables->row_pages(g));
      tables_.emplace_back(runs_.size() * static_cast<size_t>(row_pages_.back()), -1);
    }
  }
  const StepId id = flight.id;
  flights_.push_back(std::move(flight));
  enqueue([this, id, step, &abandon] {
    Step& mine = steps_[id] = std::move(*step);
    size_t next = 0;
    for (const BlockTables::Range& range : mine.dirty) {
      const auto g = static_cast<size_t>(range.group);
      const size_t begin = static_cast<size_t>(range.slot) * static_cast<size_t>(row_pages_[g]) +
                           static_cast<size_t>(range.begin);
      for (int i = 0; i < range.end - range.begin; ++i) {
        tables_[g][begin + static_cast<size_t>(i)] = mine.dirty_pages[next++];
      }
    }
    mine.result.abandoned = abandon.load();
    if (options_.fails_in_step > 0 && id >= options_.fails_in_step) {
      mine.error = "the fake device is lost";
    } else if (!mine.result.abandoned) {
      execute(mine);
    }
  });
  return id;
}

void FakeBackend::execute(Step& step) {
  clock_ += options_.cost.of(static_cast<double>(step.tokens.size()));
  size_t next_row = 0;
  for (size_t s = 0; s < step.slots.size(); ++s) {
    const int slot = step.slots[s];
    const Slot& state = slots_[static_cast<size_t>(slot)];
    const int adapter = step.adapters.empty() ? 0 : step.adapters[s];
    int32_t finite_tokens = 0;
    for (int t = step.offsets[s]; t < step.offsets[s + 1]; ++t) {
      int32_t& token = step.tokens[static_cast<size_t>(t)];
      if (token == kLastSampled) {
        if (state.output.empty() && !state.failed) {
          breach(concat("slot ", slot, " has not sampled anything"));
        }
        // What follows a row that gave no token is dropped: any token will do.
        token = state.failed ? 0 : state.output.back();
      }
      const int position = step.positions[s] + t - step.offsets[s];
      for (int g = 0; g < static_cast<int>(options_.groups.size()); ++g) {
        entry(g, slot, position) = entry_of(options_, token, adapter);
      }
    }
    for (int t = step.offsets[s]; t < step.offsets[s + 1]; ++t) {
      const int position = step.positions[s] + t - step.offsets[s];
      bool is_finite = true;
      for (int p = 0; options_.poison != kNoToken && p <= position; ++p) {
        is_finite = is_finite && entry(0, slot, p) != kPoisoned;
      }
      if (is_finite) ++finite_tokens;
      if (next_row == step.logit_rows.size() || step.logit_rows[next_row] != t) continue;
      ++next_row;
      if (!options_.script.empty()) continue;
      const auto row =
          step.tokens[static_cast<size_t>(t)] == options_.nan_logits
              ? std::vector<float>(static_cast<size_t>(options_.vocab_size),
                                   std::numeric_limits<float>::quiet_NaN())
              : logits_from(options_, position, [&](int g, int p) { return entry(g, slot, p); });
      step.logits.insert(step.logits.end(), row.begin(), row.end());
    }
    step.result.finite_tokens.push_back(finite_tokens);
  }
}

void FakeBackend::sample(StepId id, const SampleInput& input) {
  if (flights_.empty() || flights_.back().id != id) breach("a step is sampled late");
  if (std::exchange(flights_.back().is_sampled, true)) breach("a step is sampled twice");
  const size_t words = mask_words(options_.vocab_size);
  std::vector<RowSampling> rows(input.rows.begin(), input.rows.end());
  std::vector<uint32_t> masks(input.masks.begin(), input.masks.end());
  std::vector<TokenBias> biases(input.biases.begin(), input.biases.end());
  enqueue([this, id, words, rows = std::move(rows), masks = std::move(masks),
           biases = std::move(biases)] {
    Step& step = steps_[id];
    if (step.result.abandoned || !step.error.empty()) return;
    step.result.rows.resize(rows.size());
    step.result.sampled.assign(rows.size(), 0);
    bool goes_on = true;
    for (size_t i = 0; i < rows.size(); ++i) {
      const RowSampling& row = rows[i];
      if (i == 0 || rows[i - 1].guess == kNoToken) goes_on = true;
      if (!goes_on) continue;
      Slot& slot = slots_[static_cast<size_t>(row.slot)];
      ops::SampledRow& made = step.result.rows[i];
      if (!options_.script.empty()) {
        made.token = options_.script[(row.rule.seed + slot.output.size()) % options_.script.size()];
      } else {
        std::map<int32_t, int32_t> counted;
        for (const int32_t token : slot.prompt) counted[token];
        for (const int32_t token : slot.output) ++counted[token];
        std::vector<TokenCount> counts;
        counts.reserve(counted.size());
        for (const auto& [token, count] : counted) counts.push_back({token, count});
        made = cpu::sample(
            cpu::kScalarKernels,
            {.logits = step.logits.data() + std::ptrdiff_t{row.row} * options_.vocab_size,
             .vocab_size = options_.vocab_size,
             .rule = &row.rule,
             .index = slot.output.size(),
             .counts = counts,
             .biases =
                 std::span(biases).subspan(static_cast<size_t>(row.bias_begin),
                                           static_cast<size_t>(row.bias_end - row.bias_begin)),
             .mask = row.mask < 0 ? nullptr : masks.data() + static_cast<size_t>(row.mask) * words,
             .target = row.target},
            scratch_);
      }
      step.result.sampled[i] = 1;
      const bool stands = row.target == kNoToken && made.status == ops::SampleStatus::ok;
      if (stands) slot.output.push_back(made.token);
      if (row.target == kNoToken) slot.failed = !stands;
      goes_on = stands && made.token == row.guess;
    }
  });
}

StepResult FakeBackend::wait(StepId id) {
  if (fatal_) throw BackendError("the fake device is lost");
  if (flights_.empty() || flights_.front().id != id) breach("a step is waited for out of order");
  if (!flights_.front().is_sampled) breach("a step is waited for that was not sampled");
  flights_.pop_front();
  run_all();
  Step step = std::move(steps_.at(id));
  steps_.erase(id);
  last_waited_ = id;
  if (!step.error.empty()) {
    fatal_ = true;
    throw BackendError(step.error);
  }
  return std::move(step.result);
}

void FakeBackend::read_logits(StepId id, int first_row, int n_rows, float* logits) {
  enqueue([this, id, first_row, n_rows, logits] {
    const Step& step = steps_[id];
    if (step.result.abandoned || !step.error.empty()) return;
    const std::ptrdiff_t vocab = options_.vocab_size;
    std::copy_n(step.logits.begin() + first_row * vocab, n_rows * vocab, logits);
  });
}

void FakeBackend::read(StepId, int, Activation, int, void*) { breach("nothing is kept"); }

}  // namespace gptoss::testing
