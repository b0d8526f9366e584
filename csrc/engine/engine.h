// Serves requests: token ids in, token ids out. Knows nothing of text.
//
// Each step gives every running request its next token and spends what is left of the step's token
// budget on prompts, in the order in which they came. A request is its tokens and how many of them
// the KV cache has seen; prefilling, decoding and recomputing after preemption are the same thing.
// What two prompts have in common is computed once, even if they come at the same time: the later
// one waits until the earlier one has it.
// With speculation a step may also verify guesses of a request's next tokens (engine/drafter.h), if
// it has room for them when all else is served.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/layers.h"
#include "core/mapped_file.h"
#include "engine/drafter.h"
#include "engine/kv_cache.h"
#include "engine/sampler.h"

namespace gptoss {

struct EngineOptions {
  int context_length = 0;       // tokens of a sequence, prompt and output; 0: as many as fit
  int max_step_tokens = 512;    // new tokens in a step, over all sequences
  int max_sequences = 16;       // running at a time
  bool prefix_cache = true;     // take over what earlier requests computed of the same beginning
  int64_t kv_memory_bytes = 0;  // for the full layers' pages; 0: from free memory
  bool speculative = false;     // guess tokens from the text, and verify several in a step
  MappedFiles files = {};       // of the weights: checked before and after what is computed
};

enum class FinishReason : uint8_t { none, stop, length };

// Tokens per second of computing.
class Rate {
 public:
  void add(int tokens, double seconds);
  double overall_tps() const { return per_second(total_); }
  double recent_tps() const;  // over the last kRecentSteps

 private:
  static constexpr size_t kRecentSteps = 64;
  struct Work {
    int64_t tokens = 0;
    double seconds = 0;
  };
  static double per_second(const Work& work) {
    return work.seconds > 0 ? static_cast<double>(work.tokens) / work.seconds : 0.0;
  }

  Work total_;
  std::array<Work, kRecentSteps> recent_{};  // a ring
  size_t next_ = 0;
};

struct Event {
  int64_t request;
  int32_t token;
  FinishReason finish;
  float logprob;
  std::vector<TokenLogprob> top;
  int cached_tokens;  // of the prompt, that did not have to be computed
};

// Pages of the KV cache, of the full or of the window layers; the rest is in use.
struct PageStats {
  int total;
  int free;    // hold nothing
  int cached;  // hold what no running request uses: free as soon as they are needed
  int64_t page_bytes;
};

struct EngineStats {
  int running, waiting;
  PageStats full, window;
  int64_t preemptions;
  int64_t prompt_tokens, generated_tokens;  // computed so far, recomputed ones again
  int64_t requested_tokens;                 // of the prompts of all requests that have begun
  int64_t cached_tokens;  // of them, not computed, because an earlier request had been
  int64_t drafted_tokens, accepted_tokens;  // guessed, and of them those that stood
  Rate prefill;                             // tokens of prompts, in the steps that computed any
  Rate decode;                              // generated tokens, in the other steps
  PhaseSeconds phases;                      // of all steps
};

class Engine {
 public:
  // Throws OutOfMemory if the KV cache for one sequence of context_length cannot fit.
  Engine(std::unique_ptr<Backend> backend, ModelConfig config, std::vector<int32_t> eos_token_ids,
         const EngineOptions& options);

  const ModelConfig& config() const { return config_; }
  const Backend& backend() const { return *backend_; }
  int context_length() const { return options_.context_length; }

  // Throws std::invalid_argument for what can never run: an empty or too long prompt, ids outside
  // the vocabulary, parameters out of range.
  void check_request(std::span<const int32_t> prompt, const SamplingParams& params) const;
  // `request` is the caller's name for it, never used before. Throws as check_request() does; what
  // passes runs as soon as there is room. May be called while another thread is in step().
  void submit(int64_t request, std::vector<int32_t> prompt, SamplingParams params);
  // Unknown and finished requests are ignored. Takes effect before the next step computes anything;
  // a step under way goes on for the sake of others, or is abandoned between two layers if all of
  // its requests are cancelled. May be called while another thread is in step() or logits().
  void cancel(int64_t request);

  // One scheduling iteration; an event for every token made. One thread at a time. Throws
  // BackendError if a file of the weights has lost bytes.
  std::vector<Event> step();
  // Nothing to do. For the thread that calls step().
  bool idle();

  // logits (n_positions, V) f32 of one sequence, computed alone; positions ascending. Not during
  // step(). Running requests, the latest first, give up their pages if it needs them. False if
  // cancel(request) came in between.
  bool logits(int64_t request, std::span<const int32_t> tokens, std::span<const int32_t> positions,
              int chunk_tokens, float* logits);

  EngineStats stats();

 private:
  struct Request {
    int64_t id;
    std::vector<int32_t> tokens;  // prompt, then output
    int prompt_length;
    int computed = 0;        // tokens whose keys and values are in its pages
    int cached_tokens = -1;  // of them, those that came from other requests; -1: not begun
    SamplingParams params;
    TokenCounts counts;
    SequencePages pages;
    std::optional<Drafter> drafter;  // with speculation

    int pending() const { return static_cast<int>(tokens.size()) - computed; }
  };
  struct Slice {  // a request's part of a step
    Request* request;
    int tokens;
    std::vector<int32_t> draft = {};  // guesses of the tokens that follow these
  };

  std::vector<Event> compute_step();
  bool compute_logits(int64_t request, std::span<const int32_t> tokens,
                      std::span<const int32_t> positions, int chunk_tokens, float* logits);
  void check_prompt(std::span<const int32_t> tokens) const;
  void take_inbox();
  std::vector<Slice> schedule();
  bool make_room(Request& request, int length);
  bool waits_for_prefix(const Request& request) const;
  void end(Request& request);
  void preempt(size_t index);
  void add_drafts(std::vector<Slice>& slices, int budget) const;
  void run(const std::vector<Slice>& slices);
  void sample_next(const Slice& slice, float* logits, std::vector<Event>& events);
  void publish();
  void stop_if_cancelled(std::span<const int64_t> requests);
  FinishReason finish_of(const Request& request) const;

  std::unique_ptr<Backend> backend_;
  const ModelConfig config_;
  const std::vector<int32_t> eos_token_ids_;
  EngineOptions options_;
  std::unique_ptr<KvCache> kv_;

  std::vector<std::unique_ptr<Request>> running_;  // in the order of admission
  std::deque<std::unique_ptr<Request>> waiting_;
  std::vector<float> logits_;  // (sampled rows, V)
  EngineStats counters_{};

  std::mutex inbox_mutex_;  // guards what follows: the parts that other threads reach
  std::vector<std::unique_ptr<Request>> submitted_;
  std::vector<int64_t> cancelled_;
  EngineStats published_{};
};

}  // namespace gptoss
