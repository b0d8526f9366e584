#include "engine/kv_cache.h"

#include <algorithm>
#include <utility>

namespace gptoss {

struct PrefixNode {
  PrefixNode* parent = nullptr;
  std::vector<int32_t> tokens;  // of the page; fewer than 64 only where a sequence ended
  int32_t full_page = -1;
  int32_t window_page = -1;   // -1: not kept
  bool spare_window = false;  // nobody is likely to go on from here: its window page goes first
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

// The child that agrees with `tokens` longest, and how long; with its window page if need be.
std::pair<PrefixNode*, size_t> closest_child(const PrefixNode& node,
                                             std::span<const int32_t> tokens,
                                             bool with_window = false) {
  std::pair<PrefixNode*, size_t> best = {nullptr, 0};
  for (PrefixNode* const child : node.children) {
    if (with_window && child->window_page < 0) continue;
    const size_t length = common_length(child->tokens, tokens);
    if (length > best.second) best = {child, length};
  }
  return best;
}

bool has_window_layer(const ModelConfig& config) {
  return std::find(config.is_window_layer.begin(), config.is_window_layer.end(), true) !=
         config.is_window_layer.end();
}

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

KvCache::KvCache(const ModelConfig& config, int max_step_tokens, int n_full_pages,
                 int n_window_pages, CopyPage copy_page)
    : window_tokens_(has_window_layer(config) ? config.sliding_window : 0),
      ring_pages_(ring_pages(config, max_step_tokens)),
      copy_page_(std::move(copy_page)),
      full_(n_full_pages),
      window_(n_window_pages),
      root_(std::make_unique<PrefixNode>()) {}

KvCache::~KvCache() = default;

int KvCache::ring_pages(const ModelConfig& config, int max_step_tokens) {
  return pages_for(config.sliding_window - 1 + max_step_tokens) + 1;
}

int KvCache::available_full_pages() const {
  return static_cast<int>(full_.free_pages.size()) +
         static_cast<int>(std::count_if(nodes_.begin(), nodes_.end(), [&](const auto& node) {
           return full_.only_cached(node->full_page);
         }));
}

int KvCache::available_window_pages() const {
  return static_cast<int>(window_.free_pages.size()) +
         static_cast<int>(std::count_if(nodes_.begin(), nodes_.end(), [&](const auto& node) {
           return node->window_page >= 0 && window_.only_cached(node->window_page);
         }));
}

PrefixNode* KvCache::add_node(PrefixNode* parent, std::span<const int32_t> tokens,
                              int32_t full_page) {
  auto node = std::make_unique<PrefixNode>();
  node->parent = parent;
  node->tokens.assign(tokens.begin(), tokens.end());
  node->full_page = full_page;
  node->last_use = ++clock_;
  full_.add_user(full_page);
  parent->children.push_back(node.get());
  nodes_.push_back(std::move(node));
  return nodes_.back().get();
}

void KvCache::remove_node(PrefixNode* node) {
  full_.drop_user(node->full_page);
  if (node->window_page >= 0) window_.drop_user(node->window_page);
  std::erase(node->parent->children, node);
  std::erase_if(nodes_, [&](const auto& owned) { return owned.get() == node; });
}

// A free page, or that of the least recently used leaf; -1 if all are in use.
int32_t KvCache::take_full() {
  if (full_.free_pages.empty()) {
    PrefixNode* oldest = nullptr;
    for (const auto& node : nodes_) {
      const bool evictable = node->children.empty() && full_.only_cached(node->full_page) &&
                             (node->window_page < 0 || window_.only_cached(node->window_page));
      if (evictable && (oldest == nullptr || node->last_use < oldest->last_use)) {
        oldest = node.get();
      }
    }
    if (oldest == nullptr) return -1;
    remove_node(oldest);
  }
  return full_.take();
}

int32_t KvCache::take_window() {
  if (window_.free_pages.empty()) {
    const auto later = [](const PrefixNode& node) {
      return std::pair(!node.spare_window, node.last_use);
    };
    PrefixNode* first = nullptr;
    for (const auto& node : nodes_) {
      if (node->window_page >= 0 && window_.only_cached(node->window_page) &&
          (first == nullptr || later(*node) < later(*first))) {
        first = node.get();
      }
    }
    if (first == nullptr) return -1;
    window_.drop_user(std::exchange(first->window_page, -1));
  }
  return window_.take();
}

// Whether the window before `position` lies in the nodes' window pages.
bool KvCache::window_is_cached(const std::vector<PrefixNode*>& path, int position) const {
  if (window_tokens_ == 0) return true;
  for (int page = std::max(0, position - window_tokens_ + 1) / kPageTokens;
       page < pages_for(position); ++page) {
    if (path[static_cast<size_t>(page)]->window_page < 0) return false;
  }
  return true;
}

// The longest known beginning of `tokens` from which a sequence can go on: its nodes, the last of
// them perhaps only in part, and its length.
std::pair<std::vector<PrefixNode*>, int> KvCache::known_beginning(
    std::span<const int32_t> tokens) const {
  std::vector<PrefixNode*> path;
  for (PrefixNode* node = root_.get();;) {
    const auto [child, common] = closest_child(*node, page_tokens(tokens, path.size()));
    if (common < kPageTokens) break;
    path.push_back(child);
    node = child;
  }
  // Where the window is not cached any more, a shorter beginning has to do.
  for (;; path.pop_back()) {
    const int length = static_cast<int>(path.size()) * kPageTokens;
    const PrefixNode& last = path.empty() ? *root_ : *path.back();
    const auto [child, common] =
        closest_child(last, page_tokens(tokens, path.size()), window_tokens_ > 0);
    if (child != nullptr) {
      path.push_back(child);
      const int longer = length + static_cast<int>(common);
      if (window_is_cached(path, longer)) return {path, longer};
      path.pop_back();
    }
    if (length == 0 || window_is_cached(path, length)) return {path, length};
  }
}

int KvCache::reuse(SequencePages& pages, std::span<const int32_t> tokens) {
  auto [path, length] = known_beginning(tokens.first(tokens.size() - 1));
  if (path.empty()) return 0;

  // From now on eviction must leave them alone.
  for (PrefixNode* const used : path) {
    used->last_use = ++clock_;
    full_.add_user(used->full_page);
    pages.full.push_back(used->full_page);
  }
  pages.window_end = pages_for(length);
  if (window_tokens_ > 0) {
    pages.window.assign(static_cast<size_t>(ring_pages_), -1);
    for (int page = std::max(0, length - window_tokens_ + 1) / kPageTokens; page < pages.window_end;
         ++page) {
      const int32_t window_page = path[static_cast<size_t>(page)]->window_page;
      window_.add_user(window_page);
      pages.window[static_cast<size_t>(page % ring_pages_)] = window_page;
    }
  }
  pages.path = std::move(path);
  if (length % kPageTokens == 0) return length;

  // The last page goes on differently: the sequence needs one of its own.
  pages.path.pop_back();
  const auto own = [&](Pool& pool, bool window, int32_t copy, int32_t& page) {
    if (copy < 0) return false;
    copy_page_(window, page, copy);
    pool.drop_user(std::exchange(page, copy));
    return true;
  };
  int32_t* const slot =
      window_tokens_ > 0 ? &pages.window[static_cast<size_t>((pages.window_end - 1) % ring_pages_)]
                         : nullptr;
  if (own(full_, false, take_full(), pages.full.back()) &&
      (slot == nullptr || own(window_, true, take_window(), *slot))) {
    return length;
  }
  release(pages);
  return 0;
}

bool KvCache::worth_keeping(const SequencePages& pages, int page) const {
  const int border = pages.border / kPageTokens;
  return (page <= border && page > border - border_pages(window_tokens_)) ||
         page % kSnapshotPages >= kSnapshotPages - (border_pages(window_tokens_) - 1);
}

// Takes page `page` of the sequence out of its slot in the ring.
void KvCache::drop_slot(SequencePages& pages, int page, bool spare) {
  int32_t& slot = pages.window[static_cast<size_t>(page % ring_pages_)];
  if (slot < 0) return;
  if (static_cast<size_t>(page) < pages.path.size()) {
    pages.path[static_cast<size_t>(page)]->spare_window = spare;
  }
  window_.drop_user(std::exchange(slot, -1));
}

bool KvCache::extend(SequencePages& pages, int length) {
  const int n_pages = pages_for(length);
  const size_t had = pages.full.size();
  while (pages.full.size() < static_cast<size_t>(n_pages)) {
    const int32_t page = take_full();
    if (page < 0) {
      for (; pages.full.size() > had; pages.full.pop_back()) full_.drop_user(pages.full.back());
      return false;
    }
    pages.full.push_back(page);
  }
  if (window_tokens_ == 0) return true;
  pages.window.resize(static_cast<size_t>(ring_pages_), -1);
  // A slot that comes round holds a page that no token from here on sees.
  for (; pages.window_end < n_pages; ++pages.window_end) {
    const int old = pages.window_end - ring_pages_;
    if (old >= 0) drop_slot(pages, old, !worth_keeping(pages, old));
    const int32_t page = take_window();
    if (page < 0) return false;
    pages.window[static_cast<size_t>(pages.window_end % ring_pages_)] = page;
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
  PrefixNode* const parent = page == 0 ? root_.get() : pages.path[page - 1];
  // Where the sequence committed the page before it was complete.
  const auto found =
      std::find_if(parent->children.begin(), parent->children.end(),
                   [&](const PrefixNode* child) { return child->full_page == pages.full[page]; });
  PrefixNode* const own = found == parent->children.end() ? nullptr : *found;
  const auto [closest, common] = closest_child(*parent, content);
  PrefixNode* node = closest;
  if (common == content.size() && closest != own) {
    // Another sequence was first.
    if (own != nullptr) remove_node(own);
    closest->last_use = ++clock_;
    if (content.size() < kPageTokens) return closest;  // whose page goes on differently
    // Its page holds the same bits; taking it over frees one, and keeps the node in the tree.
    full_.add_user(closest->full_page);
    full_.drop_user(std::exchange(pages.full[page], closest->full_page));
  } else if (own != nullptr) {
    node = own;
    own->tokens.assign(content.begin(), content.end());
    own->last_use = ++clock_;
  } else {
    node = add_node(parent, content, pages.full[page]);
  }
  if (window_tokens_ > 0) cache_window_page(pages, page, *node);
  return node;
}

// Lets the node keep the window page in the sequence's slot, unless it has one.
void KvCache::cache_window_page(const SequencePages& pages, size_t page, PrefixNode& node) {
  const int32_t slot = pages.window[page % static_cast<size_t>(ring_pages_)];
  if (slot < 0 || node.window_page >= 0) return;
  node.window_page = slot;
  window_.add_user(slot);
}

void KvCache::finish(SequencePages& pages, std::span<const int32_t> tokens, int length) {
  commit_all(pages, tokens, length);
  if (window_tokens_ > 0) {
    const int end = pages_for(length);
    for (int page = std::max(0, pages.window_end - ring_pages_); page < pages.window_end; ++page) {
      const bool at_end = page > end - 1 - border_pages(window_tokens_);
      drop_slot(pages, page, !at_end && !worth_keeping(pages, page));
    }
  }
  release(pages);
}

void KvCache::release(SequencePages& pages) {
  // The last page first: the lowest are handed out first again.
  for (; !pages.full.empty(); pages.full.pop_back()) full_.drop_user(pages.full.back());
  for (const int32_t page : pages.window) {
    if (page >= 0) window_.drop_user(page);
  }
  pages = {};
}

}  // namespace gptoss
