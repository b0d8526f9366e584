#include "cuda/step_memory.h"

#include <algorithm>

namespace gptoss::cuda {
namespace {

constexpr int64_t kInt = sizeof(int32_t);
constexpr int64_t kFloat = sizeof(float);

int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

int64_t most_table_bytes(const KvGroup& group, const StepLimits& limits) {
  return int64_t{limits.max_sequences} * most_row_pages(group, limits) * kInt;
}

// f(memory, bytes, what) for every array on the device.
template <class F>
void for_each_array(const ModelConfig& c, const Scheme& scheme, const Part& part,
                    bool has_int8_inputs, const StepLimits& limits, StepMemory& memory, F&& f) {
  const Act act = scheme.act;
  const int64_t t = limits.max_tokens;
  const int64_t s = limits.max_sequences;
  const int64_t r = limits.max_logit_rows;
  const int64_t pairs = t * c.n_active;
  const int positions = limits.max_pages_per_sequence * kPageTokens;
  const int64_t vocab = c.vocab_size;
  Workspace& w = memory.work;
  f(w.x, t * c.hidden_size * kFloat, "activations");
  f(w.normed, t * c.hidden_size * size_of(act), "activations");
  if (act != Act::f32) {
    f(w.squares, t * ceil_div(c.hidden_size, kNormColumns) * kFloat, "activations");
  }
  f(w.qkv, t * (c.q_size() + 2 * c.kv_size()) * kFloat, "queries, keys and values");
  f(w.attended, t * c.q_size() * size_of(act), "attention's output");
  if (has_int8_inputs) {
    // Rows of logits are inputs, too.
    const int64_t codes = std::max(t, r) * q8_columns(std::max(c.hidden_size, c.q_size()));
    f(w.codes, codes, "inputs in int8");
    f(w.code_scales, codes / 32 * kFloat, "inputs in int8");
  }
  const int64_t split_rows = std::min<int64_t>(kSplitRows, t * (split_of(positions) + 1));
  if (act != Act::f32) {
    f(w.partials,
      attention_partials(1, static_cast<int>(split_rows), c.n_heads, c.head_dim) * kFloat,
      "attention in splits");
    f(w.splits_arrived, std::min<int64_t>(t, kSplitRows / 2) * c.n_kv_heads * kInt,
      "attention in splits");
  }
  f(w.router_logits, t * c.n_experts * kFloat, "router logits");
  f(w.experts, pairs * kInt, "routes");
  f(w.expert_weights, pairs * kFloat, "routes");
  f(w.arrived, (t + 1) * kInt, "routes");
  f(w.pairs, pairs * kInt, "routes");
  f(w.offsets, (c.n_experts + 1) * kInt, "routes");
  f(w.h, pairs * c.intermediate_size * size_of(act), "the experts' activations");
  // Attention's shares of a token and a head lie there, too, for those who ask for them.
  f(w.expert_out, std::max(pairs * c.hidden_size, int64_t{positions} + 1) * kFloat,
    "the experts' output");
  if (act != Act::f32) {
    f(w.down_arrived, ceil_div(c.hidden_size, 64) * kInt, "the experts' output");
  }
  if (part.cpu_experts(scheme) > 0) f(w.ones, t * kFloat, "the experts' output");
  SlotMemory& slots = memory.slots;
  if (part.is_first() || part.is_last()) {
    f(slots.states, s * int64_t{sizeof(SlotState)}, "slots");
  }
  f(slots.rotations, int64_t{positions} * c.head_dim * kFloat, "rotations");
  const std::vector<KvGroup> groups = kv_groups(c);
  slots.tables.resize(groups.size());
  for (size_t g = 0; g < groups.size(); ++g) {
    f(slots.tables[g], most_table_bytes(groups[g], limits), "tables of pages");
  }
  for (FlightMemory& flight : memory.flights) {
    f(flight.input,
      InputLayout(limits.max_tokens, limits.max_sequences, limits.max_logit_rows).bytes,
      "a step's inputs");
  }
  if (!part.is_last()) return;
  f(w.logits, r * vocab * kFloat, "logits");
  if (act != Act::f32) {
    f(w.logit_ranges,
      std::min<int64_t>(r, kRangeRows) * ceil_div(vocab, kRangeLogits) *
          int64_t{sizeof(LogitRange)},
      "logits");
  }
  f(w.changed_logits, r * vocab * kFloat, "sampling");
  f(w.candidates, r * vocab * kInt, "sampling");
  f(slots.counts, s * vocab * kInt, "counts of tokens");
  f(slots.tokens, (int64_t{positions} + kPageTokens) * kInt, "counts of tokens");
  for (FlightMemory& flight : memory.flights) {
    f(flight.sample_rows, r * int64_t{sizeof(SampleRow)}, "sampling");
    f(flight.units, (r + 1) * kInt, "sampling");
    f(flight.masks, r * static_cast<int64_t>(mask_words(c.vocab_size)) * kInt, "masks");
    f(flight.samples, r * int64_t{sizeof(SampleOut)}, "sampling");
    f(flight.finite, s * kInt, "a step's results");
  }
}

}  // namespace

InputLayout::InputLayout(int tokens, int sequences, int rows) {
  int64_t at = aligned(tokens * kInt);
  const auto place = [&](int64_t count) {
    const int64_t begin = at;
    at = aligned(at + count * kInt);
    return begin;
  };
  positions = place(tokens);
  token_slots = place(tokens);
  sequence_offsets = place(int64_t{sequences} + 1);
  first_positions = place(sequences);
  sequence_slots = place(sequences);
  logit_rows = place(rows);
  bytes = at;
}

int most_row_pages(const KvGroup& group, const StepLimits& limits) {
  if (group.window == 0) return limits.max_pages_per_sequence;
  // A ring of the window and of what one step writes, each begun and ended anywhere.
  const int ring = (group.window + limits.max_tokens) / kPageTokens + 3;
  return std::max(limits.max_pages_per_sequence, ring);
}

int64_t StepMemory::device_bytes(const ModelConfig& config, const Scheme& scheme, const Part& part,
                                 bool has_int8_inputs, const StepLimits& limits, int flights) {
  int64_t total = 0;
  StepMemory memory;
  memory.flights.resize(static_cast<size_t>(flights));
  for_each_array(
      config, scheme, part, has_int8_inputs, limits, memory,
      [&](DeviceMemory&, int64_t bytes, const char*) { total += allocation_bytes(bytes); });
  return total;
}

StepMemory::StepMemory(const Context& context, const ModelConfig& config, const Scheme& scheme,
                       const Part& part, bool has_int8_inputs, const StepLimits& limits,
                       int n_flights)
    : flights(static_cast<size_t>(n_flights)) {
  for_each_array(config, scheme, part, has_int8_inputs, limits, *this,
                 [&](DeviceMemory& memory, int64_t bytes, const char* what) {
                   memory = DeviceMemory(context, bytes, what);
                 });
  for (FlightMemory& flight : flights) {
    const auto twin = [&](const DeviceMemory& memory, const char* what) {
      return memory.size_bytes() == 0 ? PinnedMemory()
                                      : PinnedMemory(context, memory.size_bytes(), what);
    };
    flight.host_input = twin(flight.input, "a step's inputs");
    flight.host_sample_rows = twin(flight.sample_rows, "sampling");
    flight.host_units = twin(flight.units, "sampling");
    flight.host_masks = twin(flight.masks, "masks");
    flight.host_samples = twin(flight.samples, "sampling");
    flight.host_finite = twin(flight.finite, "a step's results");
    for (const DeviceMemory& table : slots.tables) {
      flight.host_tables.push_back(twin(table, "tables of pages"));
    }
  }
}

}  // namespace gptoss::cuda
