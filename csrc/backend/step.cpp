#include "backend/step.h"

namespace gptoss {

std::vector<KvGroup> kv_groups(const ModelConfig& config) {
  const auto n_window = static_cast<int>(
      std::count(config.is_window_layer.begin(), config.is_window_layer.end(), true));
  std::vector<KvGroup> groups = {{.window = 0, .n_layers = config.n_layers - n_window}};
  if (n_window > 0) groups.push_back({.window = config.sliding_window, .n_layers = n_window});
  return groups;
}

int attention_keys(const ModelConfig& config, int layer, int keys) {
  const bool banded = config.is_window_layer[static_cast<size_t>(layer)];
  return banded ? std::min(keys, config.sliding_window) : keys;
}

int64_t activation_bytes(const ModelConfig& config, Activation activation, int layer, int keys) {
  constexpr int64_t kBytes = 4;  // f32 and i32 alike
  switch (activation) {
    case Activation::residual:
      return kBytes * config.hidden_size;
    case Activation::router_logits:
      return kBytes * config.n_experts;
    case Activation::experts:
    case Activation::expert_weights:
      return kBytes * config.n_active;
    case Activation::attention:
      return kBytes * config.n_heads * (attention_keys(config, layer, keys) + 1);
  }
  return 0;
}

BlockTables::BlockTables(int n_slots, std::vector<int> row_pages)
    : row_pages_(std::move(row_pages)) {
  for (const int pages : row_pages_) {
    entries_.emplace_back(static_cast<size_t>(n_slots) * static_cast<size_t>(pages), -1);
  }
}

std::span<const int32_t> BlockTables::row(int group, int slot) const {
  const auto pages = static_cast<size_t>(row_pages(group));
  return std::span(entries_[static_cast<size_t>(group)])
      .subspan(static_cast<size_t>(slot) * pages, pages);
}

std::vector<BlockTables::Range> BlockTables::all() const {
  std::vector<Range> ranges;
  for (int group = 0; group < n_groups(); ++group) {
    const int pages = row_pages(group);
    const size_t n_entries = entries_[static_cast<size_t>(group)].size();
    const int n_slots = pages == 0 ? 0 : static_cast<int>(n_entries) / pages;
    for (int slot = 0; slot < n_slots; ++slot) ranges.push_back({group, slot, 0, pages});
  }
  return ranges;
}

void BlockTables::assign(int group, int slot, std::span<const int32_t> pages) {
  const auto size = static_cast<size_t>(row_pages(group));
  const auto row = std::span(entries_[static_cast<size_t>(group)])
                       .subspan(static_cast<size_t>(slot) * size, pages.size());
  const auto [first, changed] = std::mismatch(row.begin(), row.end(), pages.begin());
  if (first == row.end()) return;
  size_t end = row.size();
  while (row[end - 1] == pages[end - 1]) --end;
  const auto begin = static_cast<size_t>(first - row.begin());
  std::copy(changed, pages.begin() + static_cast<std::ptrdiff_t>(end), first);
  dirty_.push_back({group, slot, static_cast<int>(begin), static_cast<int>(end)});
}

}  // namespace gptoss
