// What the engine tells a backend about a step, and what comes back: plain data in host memory.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "ops/sample.h"

namespace gptoss {

// The most that a step can hold. Fixed when a model is loaded, so that a backend can allocate what
// a step needs once, and a captured graph has places for everything.
struct StepLimits {
  int max_tokens;              // T
  int max_sequences;           // S: slots
  int max_logit_rows;          // rows whose logits are sampled, scored or read
  int max_pages_per_sequence;  // of the longest context
};

// In StepInput.tokens: the token that this sequence's slot sampled last, wherever that is. A step
// can so be queued before the host has seen the token that it begins with.
inline constexpr int32_t kLastSampled = -1;
inline constexpr int32_t kNoToken = -1;

// Layers whose keys and values share one block table. Every model has one group that sees all
// tokens, the first; layers with a window are another one.
struct KvGroup {
  int window;    // keys that a token sees, itself included; 0: all
  int n_layers;  // of the model
};
std::vector<KvGroup> kv_groups(const ModelConfig& config);

// A page to be copied within a group.
struct PageCopy {
  int group;
  int32_t from, to;
};

// Which page holds which tokens of the sequence in a slot, per group: position p is in entry
// (p / kPageTokens) % row(group, slot).size(). A window group's row is a ring that is shorter than
// a context. Owned by the engine; a backend with a copy of its own takes over the dirty ranges of
// every step.
class BlockTables {
 public:
  struct Range {  // entries [begin, end) of a row
    int group, slot, begin, end;
  };

  // `row_pages`: entries of a row, per group.
  BlockTables(int n_slots, std::vector<int> row_pages);

  int n_groups() const { return static_cast<int>(row_pages_.size()); }
  int row_pages(int group) const { return row_pages_[static_cast<size_t>(group)]; }
  std::span<const int32_t> row(int group, int slot) const;
  // Makes the row begin with these pages, -1 where there is none. What changed becomes dirty.
  void assign(int group, int slot, std::span<const int32_t> pages);
  std::span<const Range> dirty() const { return dirty_; }
  // All that there is, for a copy that was not kept up.
  std::vector<Range> all() const;
  void clear_dirty() { dirty_.clear(); }

 private:
  std::vector<int> row_pages_;
  std::vector<std::vector<int32_t>> entries_;  // [group] (slots, row_pages)
  std::vector<Range> dirty_;
};

// What is inside a layer, for those who ask a step to keep it: of each row
enum class Activation : uint8_t {
  residual,        // (hidden) f32: the residual stream after the layer
  router_logits,   // (E) f32
  experts,         // (A) i32: those that were used, the likeliest first
  expert_weights,  // (A) f32
  attention,  // (H, attention_keys() + 1) f32: each key's share of the softmax, then the sink's
};
inline constexpr std::array<std::string_view, 5> kActivationNames = {
    "residual", "router_logits", "experts", "expert_weights", "attention"};
inline constexpr int kActivations = static_cast<int>(kActivationNames.size());
constexpr uint32_t bit(Activation activation) {
  return uint32_t{1} << static_cast<uint32_t>(activation);
}

// Rows of a sequence of the step, whose activations can be read once it has been waited for.
struct Keep {
  std::span<const int32_t> rows;    // tokens of the step, ascending
  std::span<const int32_t> layers;  // ascending
  uint32_t activations;             // bits
  int keys;                         // of attention, see attention_keys()
};

// Columns of Activation::attention before the sink's. A layer that sees all tokens has the
// positions 0 to keys - 1, 0 for those that a token does not see; one with a window has those up to
// the token's own, which is the last.
int attention_keys(const ModelConfig& config, int layer, int keys);
// Of one row.
int64_t activation_bytes(const ModelConfig& config, Activation activation, int layer, int keys);

// A vector that is added to the residual stream of a sequence, after a layer.
struct Steer {
  int32_t sequence;     // of the step
  int32_t layer;        // ascending within a sequence
  const float* vector;  // (hidden)
};

// A ragged batch: the new tokens of several sequences, one after the other. A prompt chunk, a
// single decoded token and any mix of them are the same thing.
struct StepInput {
  std::span<const int32_t> tokens;            // (T): ids, or kLastSampled
  std::span<const int32_t> sequence_offsets;  // (S + 1): sequence s has [offset s, offset s+1)
  std::span<const int32_t> first_positions;   // (S): position of a sequence's first token here
  std::span<const int32_t> slots;             // (S): where each sequence's state is, while it runs
  std::span<const int32_t> adapters;          // (S), or empty: none; 0: none, else Backend's ids
  std::span<const int32_t> logit_rows;        // (R): tokens whose logits are wanted, ascending
  const BlockTables* tables;
  std::span<const Keep> keeps = {};
  std::span<const Steer> steers = {};
};

// How a row of logits is used. Rows of one sequence follow each other; each but the last names the
// token that the next one was computed for, its guess, and sampling of the sequence ends with the
// first row whose token is not its guess. Only what is so accepted changes the slot's state: its
// last token, its output's length, the counts for penalties.
struct RowSampling {
  int32_t row;   // of the step's logit rows
  int32_t slot;  // of the sequence
  int32_t guess = kNoToken;
  int32_t mask = -1;                     // row of SampleInput.masks; -1: every token is allowed
  int32_t bias_begin = 0, bias_end = 0;  // in SampleInput.biases
  int32_t target = kNoToken;  // scored instead of sampled: this token's log-probability is wanted
  ops::SamplingRule rule;
};

struct SampleInput {
  std::span<const RowSampling> rows;  // (M)
  std::span<const uint32_t> masks;    // (masks, mask_words(V)): bit t of a row allows token t
  std::span<const TokenBias> biases;  // of all rows
};

inline constexpr size_t mask_words(int vocab_size) {
  return (static_cast<size_t>(vocab_size) + 31) / 32;
}

using StepId = int64_t;  // counts up from 1

struct StepResult {
  // By SampleInput.rows; of a sequence, those up to the first that is not its guess.
  std::vector<ops::SampledRow> rows;
  std::vector<uint8_t> sampled;  // (M): whether the row was reached
  // (S): of the sequence's tokens, those before the first whose activations are not finite. Pages
  // of what is not finite must not be cached for others.
  std::vector<int32_t> finite_tokens;
  bool abandoned = false;  // nobody waited for it any more: nothing above holds
};

}  // namespace gptoss
