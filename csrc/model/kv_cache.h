// Which pages of the KV cache belong to which sequence. The pages' memory is the backend's.
#pragma once

#include <cstdint>
#include <vector>

#include "core/config.h"
#include "core/kv_page.h"

namespace gptoss {

// Page tables of one sequence. The full layers' table grows with the sequence; the window layers'
// table stops growing at KvCache::ring_pages() and is used round and round.
struct SequencePages {
  std::vector<int32_t> full, window;
};

class KvCache {
 public:
  // `max_step_tokens`: new tokens that a sequence can have in one step.
  KvCache(const ModelConfig& config, int max_step_tokens, int n_full_pages, int n_window_pages);

  // Pages for a sequence of `length` tokens. Takes all that are missing, or none and returns false.
  bool extend(SequencePages& pages, int length);
  void release(SequencePages& pages);

  int n_full_pages() const { return n_full_pages_; }
  int free_full_pages() const { return static_cast<int>(free_full_.size()); }
  int n_window_pages() const { return n_window_pages_; }
  int free_window_pages() const { return static_cast<int>(free_window_.size()); }

  static int full_pages_for(int length) { return (length + kPageTokens - 1) / kPageTokens; }
  // Enough that a step of max_step_tokens never overwrites a key that one of them still sees.
  static int ring_pages(const ModelConfig& config, int max_step_tokens);

 private:
  int n_full_pages_, n_window_pages_, ring_pages_;
  std::vector<int32_t> free_full_, free_window_;
};

}  // namespace gptoss
