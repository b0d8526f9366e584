// Which pages of the KV cache belong to which sequence, and which can be used again.
//
// A page holds the keys and values of 64 consecutive tokens, of the full layers or of the window
// layers. What a page holds depends on nothing but the tokens up to its end, so a sequence that
// begins like an earlier one takes over that one's pages. They are found in a tree: a node is a
// page's tokens, its parent the page before. Pages that no sequence uses stay in the tree until
// their place is needed, the least recently used first.
//
// The full layers need all pages of a sequence, the window layers the last few: their table is a
// ring, and a page leaves it when its slot comes round again. To go on at a position, the window
// before it must be there, so window pages stay cached longest where a sequence is likely to be
// continued: at the end of its prompt, at its own end, and every 512 tokens.
//
// The pages' memory is the backend's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "core/kv_page.h"
#include "model/config.h"

namespace gptoss {

struct PrefixNode;

// How many tokens two sequences have in common at the beginning.
size_t common_length(std::span<const int32_t> a, std::span<const int32_t> b);

// One sequence's pages; made and changed by KvCache alone.
struct SequencePages {
  std::vector<int32_t> full;    // page of tokens [64 i, 64 i + 64)
  std::vector<int32_t> window;  // a ring: page i in slot i % size; -1 where none is
  int window_end = 0;           // pages that have had a slot
  int border = 0;               // where a later sequence is likely to branch off: the prompt's end
  std::vector<PrefixNode*> path;  // nodes of the complete pages
};

class KvCache {
 public:
  // Copies a page of the window layers, or of the full ones.
  using CopyPage = std::function<void(bool window, int32_t from, int32_t to)>;

  // `max_step_tokens`: new tokens that a sequence can have in one step.
  KvCache(const ModelConfig& config, int max_step_tokens, int n_full_pages, int n_window_pages,
          CopyPage copy_page);
  ~KvCache();

  // Gives an empty sequence the cached pages of its first tokens; returns how many tokens they
  // hold, less than tokens.size(): at least one is left to be computed.
  int reuse(SequencePages& pages, std::span<const int32_t> tokens);

  // Pages for a sequence of `length` tokens. False if there are not enough: the sequence keeps
  // what it had.
  bool extend(SequencePages& pages, int length);

  // How many of the first tokens are cached.
  int known_length(std::span<const int32_t> tokens) const { return known_beginning(tokens).second; }

  // The first `length` of the tokens are computed: their complete pages can be used by others.
  void commit(SequencePages& pages, std::span<const int32_t> tokens, int length);
  // The incomplete last page too: others copy it, the sequence goes on in it.
  void commit_all(SequencePages& pages, std::span<const int32_t> tokens, int length);

  // The sequence ends with `length` tokens computed; its pages stay cached.
  void finish(SequencePages& pages, std::span<const int32_t> tokens, int length);

  // Gives all pages back; what was committed stays cached.
  void release(SequencePages& pages);

  // Pages that a sequence can have: unused ones, and cached ones that no sequence uses.
  int available_full_pages() const;
  int available_window_pages() const;
  // Those of them that hold nothing.
  int unused_full_pages() const { return static_cast<int>(full_.free_pages.size()); }
  int unused_window_pages() const { return static_cast<int>(window_.free_pages.size()); }
  int n_full_pages() const { return static_cast<int>(full_.users.size()); }
  int n_window_pages() const { return static_cast<int>(window_.users.size()); }

  static int pages_for(int length) { return (length + kPageTokens - 1) / kPageTokens; }
  // Enough that a step of max_step_tokens never overwrites a key that one of them still sees.
  static int ring_pages(const ModelConfig& config, int max_step_tokens);

 private:
  // Pages of one kind. The tree counts as a user.
  struct Pool {
    explicit Pool(int n_pages);
    int32_t take();
    void add_user(int32_t page) { ++users[static_cast<size_t>(page)]; }
    void drop_user(int32_t page);
    bool only_cached(int32_t page) const { return users[static_cast<size_t>(page)] == 1; }

    std::vector<int> users;
    std::vector<int32_t> free_pages;
  };

  int32_t take_full();
  int32_t take_window();
  PrefixNode* share_page(SequencePages& pages, size_t page, std::span<const int32_t> content);
  void cache_window_page(const SequencePages& pages, size_t page, PrefixNode& node);
  void drop_slot(SequencePages& pages, int page, bool spare);
  bool worth_keeping(const SequencePages& pages, int page) const;
  std::pair<std::vector<PrefixNode*>, int> known_beginning(std::span<const int32_t> tokens) const;
  bool window_is_cached(const std::vector<PrefixNode*>& path, int position) const;
  PrefixNode* add_node(PrefixNode* parent, std::span<const int32_t> tokens, int32_t full_page);
  void remove_node(PrefixNode* node);

  const int window_tokens_;  // 0 if no layer has a window
  const int ring_pages_;
  const CopyPage copy_page_;
  Pool full_, window_;
  std::unique_ptr<PrefixNode> root_;
  std::vector<std::unique_ptr<PrefixNode>> nodes_;
  uint64_t clock_ = 0;
};

}  // namespace gptoss
