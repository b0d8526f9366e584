#include "model/kv_cache.h"

#include <algorithm>

namespace gptoss {
namespace {

// The lowest page is handed out first, so that little memory is touched.
std::vector<int32_t> all_pages(int n) {
  std::vector<int32_t> pages;
  for (int32_t page = n - 1; page >= 0; --page) pages.push_back(page);
  return pages;
}

void take(std::vector<int32_t>& free_pages, std::vector<int32_t>& table, size_t count) {
  for (; count > 0; --count) {
    table.push_back(free_pages.back());
    free_pages.pop_back();
  }
}

void give_back(std::vector<int32_t>& free_pages, std::vector<int32_t>& table) {
  free_pages.insert(free_pages.end(), table.rbegin(), table.rend());
  table.clear();
}

}  // namespace

KvCache::KvCache(const ModelConfig& config, int max_step_tokens, int n_full_pages,
                 int n_window_pages)
    : n_full_pages_(n_full_pages),
      n_window_pages_(n_window_pages),
      ring_pages_(ring_pages(config, max_step_tokens)),
      free_full_(all_pages(n_full_pages)),
      free_window_(all_pages(n_window_pages)) {}

int KvCache::ring_pages(const ModelConfig& config, int max_step_tokens) {
  return full_pages_for(config.sliding_window - 1 + max_step_tokens) + 1;
}

bool KvCache::extend(SequencePages& pages, int length) {
  const auto full = static_cast<size_t>(full_pages_for(length));
  const auto window = static_cast<size_t>(std::min(full_pages_for(length), ring_pages_));
  const size_t new_full = full - std::min(full, pages.full.size());
  const size_t new_window = window - std::min(window, pages.window.size());
  if (new_full > free_full_.size() || new_window > free_window_.size()) return false;
  take(free_full_, pages.full, new_full);
  take(free_window_, pages.window, new_window);
  return true;
}

void KvCache::release(SequencePages& pages) {
  give_back(free_full_, pages.full);
  give_back(free_window_, pages.window);
}

}  // namespace gptoss
