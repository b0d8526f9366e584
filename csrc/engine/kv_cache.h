// Which pages of the KV cache belong to which sequence, and which can be used again.
//
// A page holds the keys and values of 64 consecutive tokens, of one KV group. What a page holds
// depends on nothing but the tokens up to its end and the salt, so a sequence that begins like an
// earlier one takes over that one's pages. They are found in a tree per salt: a node is a page's
// tokens, its parent the page before. Pages that no sequence uses stay in the tree until they are
// evicted, the least recently used first.
//
// A group that sees everything needs all pages of a sequence, one with a window the last few: its
// table is a ring, and a page leaves it when its place comes round again. To go on at a position,
// the window before it must be there, so window pages stay cached longest where a sequence is
// likely to be continued: at the end of its prompt, at its own end, and every 512 tokens.
//
// A page that a step in flight may read or write is not handed on: what is given back while steps
// are in flight (submitted()) is free once the last of them has been waited for (waited()).
//
// The pages' memory is the backend's.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "backend/step.h"
#include "core/kv_page.h"
#include "engine/page_store.h"

namespace gptoss {

struct PrefixNode;

// How many tokens two sequences have in common at the beginning.
size_t common_length(std::span<const int32_t> a, std::span<const int32_t> b);

// One sequence's pages; made and changed by KvCache alone.
struct SequencePages {
  // [group]: entries of its block table. Page i of the sequence is entry i where the group sees
  // everything; where it has a window, entry i % size, -1 where there is none.
  std::vector<std::vector<int32_t>> tables;
  int window_end = 0;  // pages that have had a place in the rings
  int border = 0;      // where a later sequence is likely to branch off: the prompt's end
  uint64_t salt = 0;
  std::vector<PrefixNode*> path;  // nodes of the complete pages
};

class KvCache {
 public:
  using CopyPage = std::function<void(const PageCopy&)>;

  // `max_step_tokens`: new tokens that a sequence can have in one step. `n_pages`: per group; the
  // first sees everything.
  KvCache(std::vector<KvGroup> groups, int max_step_tokens, std::span<const int> n_pages,
          CopyPage copy_page);
  ~KvCache();

  // Gives an empty sequence the cached pages of its first tokens; returns how many tokens they
  // hold, less than tokens.size(): at least one is left to be computed. Sequences share pages only
  // with those of the same salt (an adapter, a tenant).
  int reuse(SequencePages& pages, std::span<const int32_t> tokens, uint64_t salt = 0);

  // Pages for a sequence of `length` tokens. False if there are not enough: the sequence keeps
  // what it had.
  bool extend(SequencePages& pages, int length);

  // How many of the first tokens are cached.
  int known_length(std::span<const int32_t> tokens, uint64_t salt = 0) const {
    return known_beginning(tokens, salt).second;
  }

  // The first `length` of the tokens are computed: their complete pages can be used by others.
  void commit(SequencePages& pages, std::span<const int32_t> tokens, int length);
  // The incomplete last page too: others copy it, the sequence goes on in it.
  void commit_all(SequencePages& pages, std::span<const int32_t> tokens, int length);

  // The sequence ends with `length` tokens computed; its pages stay cached.
  void finish(SequencePages& pages, std::span<const int32_t> tokens, int length);

  // Gives all pages back; what was committed stays cached.
  void release(SequencePages& pages);

  // Complete pages of a text that are cached and that a later sequence may go on from.
  std::vector<PageRef> worth_storing(std::span<const int32_t> tokens, uint64_t salt) const;
  // Where they are; -1: not cached.
  std::vector<int32_t> places_of(std::span<const int32_t> tokens, uint64_t salt,
                                 std::span<const PageRef> refs) const;
  // Takes complete pages of a text in that come from elsewhere, in the order of FoundPages; returns
  // where the caller is to write them at once. -1: it is cached already, the page before it is not,
  // or nothing that is less recently used can be evicted for it.
  std::vector<int32_t> adopt(std::span<const int32_t> tokens, uint64_t salt,
                             std::span<const PageRef> refs);

  // A step has been submitted; all up to a step have been waited for.
  void submitted(StepId step) { last_submitted_ = step; }
  void waited(StepId step);

  // Pages that a sequence can have: unused ones, and cached ones that no sequence uses.
  int available_pages(int group) const;
  // Those of them that hold nothing.
  int unused_pages(int group) const {
    return static_cast<int>(pools_[static_cast<size_t>(group)].free_pages.size());
  }
  int n_pages(int group) const {
    return static_cast<int>(pools_[static_cast<size_t>(group)].users.size());
  }
  int n_groups() const { return static_cast<int>(groups_.size()); }

  static int pages_for(int length) { return (length + kPageTokens - 1) / kPageTokens; }
  // Enough that a step of max_step_tokens never overwrites a key that one of them still sees.
  static int ring_pages(const KvGroup& group, int max_step_tokens) {
    return pages_for(group.window - 1 + max_step_tokens) + 1;
  }

 private:
  // Pages of one group. The tree counts as a user.
  struct Pool {
    explicit Pool(int n_pages);
    int32_t take();
    void add_user(int32_t page) { ++users[static_cast<size_t>(page)]; }
    void drop_user(int32_t page);
    bool only_cached(int32_t page) const { return users[static_cast<size_t>(page)] == 1; }

    std::vector<int> users;
    std::vector<int32_t> free_pages;
  };
  struct Dropped {  // by a sequence, while `step` was in flight
    StepId step;
    size_t group;
    int32_t page;
  };

  bool has_window(size_t group) const { return groups_[group].window > 0; }
  Pool& pool(size_t group) { return pools_[group]; }
  // A sequence lets go of a page.
  void drop(size_t group, int32_t page);
  int32_t take(size_t group);
  bool evict_node();
  bool evict_window_page(size_t group);
  PrefixNode* root(uint64_t salt);
  PrefixNode* share_page(SequencePages& pages, size_t page, std::span<const int32_t> content);
  void cache_window_pages(const SequencePages& pages, size_t page, PrefixNode& node);
  void drop_place(SequencePages& pages, size_t group, int page, bool spare);
  bool holds_window_at(int border, int page) const;
  bool worth_keeping(const SequencePages& pages, int page) const;
  std::vector<PrefixNode*> complete_pages(std::span<const int32_t> tokens, uint64_t salt) const;
  std::pair<std::vector<PrefixNode*>, int> known_beginning(std::span<const int32_t> tokens,
                                                           uint64_t salt) const;
  bool has_window_pages(const PrefixNode& node) const;
  bool window_is_cached(const std::vector<PrefixNode*>& path, int position) const;
  PrefixNode* add_node(PrefixNode* parent, std::span<const int32_t> tokens,
                       std::vector<int32_t> pages);
  void remove_node(PrefixNode* node);

  const std::vector<KvGroup> groups_;
  std::vector<int> ring_pages_;  // [group]; 0: it sees everything
  int window_tokens_ = 0;        // the longest window; 0: there is none
  const CopyPage copy_page_;
  std::vector<Pool> pools_;
  std::deque<Dropped> dropped_;
  StepId last_submitted_ = 0, last_waited_ = 0;
  std::map<uint64_t, std::unique_ptr<PrefixNode>> roots_;
  std::vector<std::unique_ptr<PrefixNode>> nodes_;
  uint64_t clock_ = 0;
};

}  // namespace gptoss
