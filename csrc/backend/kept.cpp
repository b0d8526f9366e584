#include "backend/kept.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"

namespace gptoss {

Kept::Kept(const ModelConfig& config, const Keep& keep)
    : rows_(keep.rows.begin(), keep.rows.end()),
      layers_(keep.layers.begin(), keep.layers.end()),
      activations_(keep.activations),
      keys_(keep.keys) {
  for (const int32_t layer : layers_) {
    auto& arrays = values_.emplace_back();
    for (int a = 0; a < kActivations; ++a) {
      const auto activation = static_cast<Activation>(a);
      if ((activations_ & bit(activation)) == 0) continue;
      const int64_t bytes = activation_bytes(config, activation, layer, keys_);
      arrays[static_cast<size_t>(a)].resize(rows_.size() * static_cast<size_t>(bytes));
    }
  }
}

uint8_t* Kept::find(Activation activation, int layer) {
  const auto place = std::ranges::lower_bound(layers_, layer);
  if ((activations_ & bit(activation)) == 0 || place == layers_.end() || *place != layer) {
    return nullptr;
  }
  return values_[static_cast<size_t>(place - layers_.begin())][static_cast<size_t>(activation)]
      .data();
}

void Kept::copy_to(void* values, Activation activation, int layer) {
  const auto place = std::ranges::lower_bound(layers_, layer);
  check(find(activation, layer) != nullptr, kActivationNames[static_cast<size_t>(activation)],
        " was not to be kept of layer ", layer);
  const auto& from =
      values_[static_cast<size_t>(place - layers_.begin())][static_cast<size_t>(activation)];
  std::memcpy(values, from.data(), from.size());
}

}  // namespace gptoss
