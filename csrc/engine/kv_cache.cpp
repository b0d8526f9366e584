#include "engine/kv_cache.h"

#include <algorithm>
#include <utility>

namespace gptoss {

struct PrefixNode {
  PrefixNode* parent = nullptr;
  std::vector<int32_t> tokens;  // of the page; fewer than 64 only where a sequence ended
  std::vector<int32_t> pages;   // [group]; -1: not kept, which is for groups with a window alone
  bool spare_window = false;    // nobody is likely to go on from here: its window pages go first
  uint64_t last_use = 0;
  std::vector<PrefixNode*> children;
};

namespace {

// Beside the ends of prompts and sequences, the last window pages of each run of eight are kept
// longer.
constexpr int kSnapshotPages = 8;

// Pages back from a border that hold the window before it, wherever in a page the border lies.
int border_pages(int window_tokens) { return KvCache::pages_for(window_tokens) + 1; }

// The tokens of page `page`, as far as the sequence goes.
std::span<const int32_t> page_tokens(std::span<const int32_t> tokens, size_t page) {
  const size_t begin = std::min(tokens.size(), page * kPageTokens);
  return tokens.subspan(begin, std::min<size_t>(kPageTokens, tokens.size() - begin));
}

// The child that agrees with `tokens` longest, and how long, of those that `accepts`.
template <class Accepts>
std::pair<PrefixNode*, size_t> closest_child(const PrefixNode& node,
                                             std::span<const int32_t> tokens, Accepts accepts) {
  std::pair<PrefixNode*, size_t> best = {nullptr, 0};
  for (PrefixNode* const child : node.children) {
    if (!accepts(*child)) continue;
    const size_t length = common_length(child->tokens, tokens);
    if (length > best.second) best = {child, length};
  }
  return best;
}

constexpr auto any_node = [](const PrefixNode&) { return true; };

}  // namespace

size_t common_length(std::span<const int32_t> a, std::span<const int32_t> b) {
  const auto [end, other] = std::mismatch(
      a.begin(), a.begin() + static_cast<std::ptrdiff_t>(std::min(a.size(), b.size())), b.begin());
  return static_cast<size_t>(end - a.begin());
}

KvCache::Pool::Pool(int n_pages) : users(static_cast<size_t>(n_pages)) {
  // The lowest page is handed out first, so that little memory is touched.
  for (int32_t page = n_pages - 1; page >= 0; --page) free_pages.push_back(page);
}

int32_t KvCache::Pool::take() {
  const int32_t page = free_pages.back();
  free_pages.pop_back();
  add_user(page);
  return page;
}

void KvCache::Pool::drop_user(int32_t page) {
  if (--users[static_cast<size_t>(page)] == 0) free_pages.push_back(page);
}

KvCache::KvCache(std::vector<KvGroup> groups, int max_step_tokens, std::span<const int> n_pages,
                 CopyPage copy_page)
    : groups_(std::move(groups)), copy_page_(std::move(copy_page)) {
  for (size_t g = 0; g < groups_.size(); ++g) {
    ring_pages_.push_back(has_window(g) ? ring_pages(groups_[g], max_step_tokens) : 0);
    window_tokens_ = std::max(window_tokens_, groups_[g].window);
    pools_.emplace_back(n_pages[g]);
  }
}

KvCache::~KvCache() = default;

PrefixNode* KvCache::root(uint64_t salt) {
  auto& root = roots_[salt];
  if (!root) root = std::make_unique<PrefixNode>();
  return root.get();
}

void KvCache::drop(size_t group, int32_t page) {
  if (last_submitted_ > last_waited_) {
    dropped_.push_back({last_submitted_, group, page});
  } else {
    pool(group).drop_user(page);
  }
}

void KvCache::waited(StepId step) {
  last_waited_ = step;
  for (; !dropped_.empty() && dropped_.front().step <= step; dropped_.pop_front()) {
    pool(dropped_.front().group).drop_user(dropped_.front().page);
  }
}

int KvCache::available_pages(int group) const {
  const auto g = static_cast<size_t>(group);
  return unused_pages(group) +
         static_cast<int>(std::count_if(nodes_.begin(), nodes_.end(), [&](const auto& node) {
           return node->pages[g] >= 0 && pools_[g].only_cached(node->pages[g]);
         }));
}

// `pages`: of each group, -1 for none; the node becomes a user of them.
PrefixNode* KvCache::add_node(PrefixNode* parent, std::span<const int32_t> tokens,
                              std::vector<int32_t> pages) {
  auto node = std::make_unique<PrefixNode>();
  node->parent = parent;
  node->tokens.assign(tokens.begin(), tokens.end());
  node->pages = std::move(pages);
  node->last_use = ++clock_;
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (node->pages[g] >= 0) pool(g).add_user(node->pages[g]);
  }
  parent->children.push_back(node.get());
  nodes_.push_back(std::move(node));
  return nodes_.back().get();
}

void KvCache::remove_node(PrefixNode* node) {
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (node->pages[g] >= 0) pool(g).drop_user(node->pages[g]);
  }
  std::erase(node->parent->children, node);
  std::erase_if(nodes_, [&](const auto& owned) { return owned.get() == node; });
}

// Evicts the least recently used leaf that no sequence uses.
bool KvCache::evict_node() {
  PrefixNode* oldest = nullptr;
  for (const auto& node : nodes_) {
    if (!node->children.empty()) continue;
    bool evictable = true;
    for (size_t g = 0; g < groups_.size(); ++g) {
      evictable = evictable && (node->pages[g] < 0 || pools_[g].only_cached(node->pages[g]));
    }
    if (evictable && (oldest == nullptr || node->last_use < oldest->last_use)) oldest = node.get();
  }
  if (oldest == nullptr) return false;
  remove_node(oldest);
  return true;
}

// Takes a page out of a node that nobody is likely to go on from, else out of the least recently
// used one.
bool KvCache::evict_window_page(size_t group) {
  const auto later = [](const PrefixNode& node) {
    return std::pair(!node.spare_window, node.last_use);
  };
  PrefixNode* first = nullptr;
  for (const auto& node : nodes_) {
    if (node->pages[group] >= 0 && pools_[group].only_cached(node->pages[group]) &&
        (first == nullptr || later(*node) < later(*first))) {
      first = node.get();
    }
  }
  if (first == nullptr) return false;
  pool(group).drop_user(std::exchange(first->pages[group], -1));
  return true;
}

// A free page, if need be by eviction; -1 if all are in use.
int32_t KvCache::take(size_t group) {
  if (pool(group).free_pages.empty() &&
      !(has_window(group) ? evict_window_page(group) : evict_node())) {
    return -1;
  }
  return pool(group).take();
}

bool KvCache::has_window_pages(const PrefixNode& node) const {
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (node.pages[g] < 0) return false;
  }
  return true;
}

// Whether the windows before `position` lie in the nodes' pages.
bool KvCache::window_is_cached(const std::vector<PrefixNode*>& path, int position) const {
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (!has_window(g)) continue;
    for (int page = std::max(0, position - groups_[g].window + 1) / kPageTokens;
         page < pages_for(position); ++page) {
      if (path[static_cast<size_t>(page)]->pages[g] < 0) return false;
    }
  }
  return true;
}

// The cached complete pages that `tokens` begins with.
std::vector<PrefixNode*> KvCache::complete_pages(std::span<const int32_t> tokens,
                                                 uint64_t salt) const {
  std::vector<PrefixNode*> path;
  const auto entry = roots_.find(salt);
  if (entry == roots_.end()) return path;
  for (PrefixNode* node = entry->second.get();;) {
    const auto [child, common] = closest_child(*node, page_tokens(tokens, path.size()), any_node);
    if (common < kPageTokens) return path;
    path.push_back(child);
    node = child;
  }
}

// The longest known beginning of `tokens` from which a sequence can go on: its nodes, the last of
// them perhaps only in part, and its length.
std::pair<std::vector<PrefixNode*>, int> KvCache::known_beginning(std::span<const int32_t> tokens,
                                                                  uint64_t salt) const {
  const auto entry = roots_.find(salt);
  if (entry == roots_.end()) return {{}, 0};
  std::vector<PrefixNode*> path = complete_pages(tokens, salt);
  // Where the window is not cached any more, a shorter beginning has to do.
  for (;; path.pop_back()) {
    const int length = static_cast<int>(path.size()) * kPageTokens;
    const PrefixNode& last = path.empty() ? *entry->second : *path.back();
    const auto [child, common] =
        closest_child(last, page_tokens(tokens, path.size()),
                      [&](const PrefixNode& node) { return has_window_pages(node); });
    if (child != nullptr) {
      path.push_back(child);
      const int longer = length + static_cast<int>(common);
      if (window_is_cached(path, longer)) return {path, longer};
      path.pop_back();
    }
    if (length == 0 || window_is_cached(path, length)) return {path, length};
  }
}

int KvCache::reuse(SequencePages& pages, std::span<const int32_t> tokens, uint64_t salt) {
  pages.salt = salt;
  pages.tables.resize(groups_.size());
  auto [path, length] = known_beginning(tokens.first(tokens.size() - 1), salt);
  if (path.empty()) return 0;

  // From now on eviction must leave them alone.
  pages.window_end = pages_for(length);
  for (PrefixNode* const used : path) used->last_use = ++clock_;
  for (size_t g = 0; g < groups_.size(); ++g) {
    int first = 0;
    if (has_window(g)) {
      pages.tables[g].assign(static_cast<size_t>(ring_pages_[g]), -1);
      first = std::max(0, length - groups_[g].window + 1) / kPageTokens;
    } else {
      pages.tables[g].resize(path.size());
    }
    for (auto page = static_cast<size_t>(first); page < path.size(); ++page) {
      const int32_t shared = path[page]->pages[g];
      pool(g).add_user(shared);
      pages.tables[g][page % pages.tables[g].size()] = shared;
    }
  }
  pages.path = std::move(path);
  if (length % kPageTokens == 0) return length;

  // The last page goes on differently: the sequence needs one of its own.
  const auto last = static_cast<size_t>(pages.window_end - 1);
  pages.path.pop_back();
  for (size_t g = 0; g < groups_.size(); ++g) {
    int32_t& entry = pages.tables[g][last % pages.tables[g].size()];
    const int32_t copy = take(g);
    if (copy < 0) {
      release(pages);
      pages.salt = salt;
      return 0;
    }
    copy_page_({static_cast<int>(g), entry, copy});
    drop(g, std::exchange(entry, copy));
  }
  return length;
}

// Whether the window before `border`, a page, may lie in `page`, or the page is one of those that
// are kept every so often.
bool KvCache::holds_window_at(int border, int page) const {
  return (page <= border && page > border - border_pages(window_tokens_)) ||
         page % kSnapshotPages >= kSnapshotPages - (border_pages(window_tokens_) - 1);
}

bool KvCache::worth_keeping(const SequencePages& pages, int page) const {
  return holds_window_at(pages.border / kPageTokens, page);
}

// Takes page `page` of the sequence out of its place in a group's ring.
void KvCache::drop_place(SequencePages& pages, size_t group, int page, bool spare) {
  int32_t& entry = pages.tables[group][static_cast<size_t>(page % ring_pages_[group])];
  if (entry < 0) return;
  if (static_cast<size_t>(page) < pages.path.size()) {
    pages.path[static_cast<size_t>(page)]->spare_window = spare;
  }
  drop(group, std::exchange(entry, -1));
}

bool KvCache::extend(SequencePages& pages, int length) {
  pages.tables.resize(groups_.size());
  const auto n_pages = static_cast<size_t>(pages_for(length));
  // Groups that see everything first: what they lack, they give back.
  const size_t had = pages.tables[0].size();
  for (size_t page = had; page < n_pages; ++page) {
    for (size_t g = 0; g < groups_.size(); ++g) {
      if (has_window(g)) continue;
      const int32_t taken = take(g);
      if (taken >= 0) {
        pages.tables[g].push_back(taken);
        continue;
      }
      for (size_t other = 0; other < groups_.size(); ++other) {
        if (has_window(other)) continue;
        for (auto& table = pages.tables[other]; table.size() > had; table.pop_back()) {
          pool(other).drop_user(table.back());
        }
      }
      return false;
    }
  }
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (has_window(g)) pages.tables[g].resize(static_cast<size_t>(ring_pages_[g]), -1);
  }
  // A place that comes round holds a page that no token from here on sees.
  for (; pages.window_end < static_cast<int>(n_pages); ++pages.window_end) {
    std::vector<std::pair<size_t, int32_t>> taken;
    for (size_t g = 0; g < groups_.size(); ++g) {
      if (!has_window(g)) continue;
      const int old = pages.window_end - ring_pages_[g];
      if (old >= 0) drop_place(pages, g, old, !worth_keeping(pages, old));
      taken.emplace_back(g, take(g));
    }
    const bool lacks =
        std::any_of(taken.begin(), taken.end(), [](const auto& entry) { return entry.second < 0; });
    for (const auto& [g, page] : taken) {
      if (!lacks) {
        pages.tables[g][static_cast<size_t>(pages.window_end % ring_pages_[g])] = page;
      } else if (page >= 0) {
        pool(g).drop_user(page);
      }
    }
    if (lacks) return false;
  }
  return true;
}

void KvCache::commit(SequencePages& pages, std::span<const int32_t> tokens, int length) {
  const auto complete = static_cast<size_t>(length / kPageTokens);
  while (pages.path.size() < complete) {
    const size_t page = pages.path.size();
    pages.path.push_back(share_page(pages, page, page_tokens(tokens, page)));
  }
}

void KvCache::commit_all(SequencePages& pages, std::span<const int32_t> tokens, int length) {
  commit(pages, tokens, length);
  const size_t last = pages.path.size();
  const auto rest = page_tokens(tokens.first(static_cast<size_t>(length)), last);
  if (!rest.empty()) share_page(pages, last, rest);
}

// Sees to it that the tree has a page of the sequence, of which `content` is computed; returns the
// node.
PrefixNode* KvCache::share_page(SequencePages& pages, size_t page,
                                std::span<const int32_t> content) {
  PrefixNode* const parent = page == 0 ? root(pages.salt) : pages.path[page - 1];
  // Where the sequence committed the page before it was complete.
  const auto found = std::find_if(
      parent->children.begin(), parent->children.end(),
      [&](const PrefixNode* child) { return child->pages[0] == pages.tables[0][page]; });
  PrefixNode* const own = found == parent->children.end() ? nullptr : *found;
  const auto [closest, common] = closest_child(*parent, content, any_node);
  PrefixNode* node = closest;
  if (common == content.size() && closest != own) {
    // Another sequence was first.
    if (own != nullptr) remove_node(own);
    closest->last_use = ++clock_;
    if (content.size() < kPageTokens) return closest;  // whose page goes on differently
    // Its pages hold the same bits; taking them over frees ours, and keeps the node in the tree.
    for (size_t g = 0; g < groups_.size(); ++g) {
      if (has_window(g)) continue;
      pool(g).add_user(closest->pages[g]);
      drop(g, std::exchange(pages.tables[g][page], closest->pages[g]));
    }
  } else if (own != nullptr) {
    node = own;
    own->tokens.assign(content.begin(), content.end());
    own->last_use = ++clock_;
  } else {
    std::vector<int32_t> full_pages;
    full_pages.reserve(groups_.size());
    for (size_t g = 0; g < groups_.size(); ++g) {
      full_pages.push_back(has_window(g) ? -1 : pages.tables[g][page]);
    }
    node = add_node(parent, content, std::move(full_pages));
  }
  cache_window_pages(pages, page, *node);
  return node;
}

// Lets the node keep the pages in the sequence's rings, unless it has some or, with steps in
// flight, the rings have gone past them.
void KvCache::cache_window_pages(const SequencePages& pages, size_t page, PrefixNode& node) {
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (!has_window(g) || node.pages[g] >= 0) continue;
    if (static_cast<int>(page) < pages.window_end - ring_pages_[g]) continue;
    const int32_t entry = pages.tables[g][page % static_cast<size_t>(ring_pages_[g])];
    if (entry < 0) continue;
    node.pages[g] = entry;
    pool(g).add_user(entry);
  }
}

void KvCache::finish(SequencePages& pages, std::span<const int32_t> tokens, int length) {
  if (pages.tables.empty()) return;
  commit_all(pages, tokens, length);
  const int end = pages_for(length);
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (!has_window(g)) continue;
    for (int page = std::max(0, pages.window_end - ring_pages_[g]); page < pages.window_end;
         ++page) {
      const bool at_end = page > end - 1 - border_pages(window_tokens_);
      drop_place(pages, g, page, !at_end && !worth_keeping(pages, page));
    }
  }
  release(pages);
}

void KvCache::release(SequencePages& pages) {
  for (size_t g = 0; g < pages.tables.size(); ++g) {
    auto& table = pages.tables[g];
    if (has_window(g)) {
      for (const int32_t page : table) {
        if (page >= 0) drop(g, page);
      }
    } else {
      // The last page first: the lowest are handed out first again.
      for (; !table.empty(); table.pop_back()) drop(g, table.back());
    }
  }
  pages = {};
}

std::vector<PageRef> KvCache::worth_storing(std::span<const int32_t> tokens, uint64_t salt) const {
  const std::vector<PrefixNode*> path = complete_pages(tokens, salt);
  const auto last = static_cast<int>(path.size()) - 1;
  std::vector<PageRef> refs;
  for (int page = 0; page <= last; ++page) {
    const PrefixNode& node = *path[static_cast<size_t>(page)];
    for (size_t g = 0; g < groups_.size(); ++g) {
      if (node.pages[g] < 0) continue;
      if (has_window(g) && (node.spare_window || !holds_window_at(last, page))) continue;
      refs.push_back({page, static_cast<int>(g)});
    }
  }
  return refs;
}

std::vector<int32_t> KvCache::places_of(std::span<const int32_t> tokens, uint64_t salt,
                                        std::span<const PageRef> refs) const {
  const std::vector<PrefixNode*> path = complete_pages(tokens, salt);
  std::vector<int32_t> places;
  for (const PageRef& ref : refs) {
    const auto page = static_cast<size_t>(ref.page);
    places.push_back(page < path.size() ? path[page]->pages[static_cast<size_t>(ref.group)] : -1);
  }
  return places;
}

std::vector<int32_t> KvCache::adopt(std::span<const int32_t> tokens, uint64_t salt,
                                    std::span<const PageRef> refs) {
  std::vector<PrefixNode*> path = complete_pages(tokens, salt);
  // Used while this lasts, so that no page of this text is evicted for another one.
  std::vector<std::pair<size_t, int32_t>> used;
  const auto use = [&](size_t group, int32_t page) {
    pool(group).add_user(page);
    used.emplace_back(group, page);
  };
  for (PrefixNode* const node : path) {
    node->last_use = ++clock_;
    for (size_t g = 0; g < groups_.size(); ++g) {
      if (node->pages[g] >= 0) use(g, node->pages[g]);
    }
  }
  std::vector<int32_t> places;
  for (const PageRef& ref : refs) {
    const auto page = static_cast<size_t>(ref.page);
    const auto g = static_cast<size_t>(ref.group);
    const bool lacks =
        has_window(g) ? page < path.size() && path[page]->pages[g] < 0 : page == path.size();
    const int32_t place = lacks ? take(g) : -1;
    places.push_back(place);
    if (place < 0) continue;
    used.emplace_back(g, place);  // by take()
    if (has_window(g)) {
      path[page]->pages[g] = place;
      path[page]->spare_window = false;
      pool(g).add_user(place);
    } else {
      std::vector<int32_t> pages(groups_.size(), -1);
      pages[g] = place;
      PrefixNode* const parent = path.empty() ? root(salt) : path.back();
      path.push_back(add_node(parent, page_tokens(tokens, page), std::move(pages)));
    }
  }
  for (const auto& [group, page] : used) pool(group).drop_user(page);
  return places;
}

}  // namespace gptoss
