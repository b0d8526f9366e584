#include "cuda/graphs.h"

#include <algorithm>

namespace gptoss::cuda {

StepGraphs::StepGraphs(const Context& context, const Stream& stream, Module& module, int most)
    : context_(context),
      stream_(stream),
      module_(module),
      most_(static_cast<size_t>(std::max(1, most))) {}

StepGraphs::Entry& StepGraphs::find(const StepShape& shape) {
  ++clock_;
  const auto place = std::ranges::find(entries_, shape, &Entry::shape);
  if (place != entries_.end()) {
    place->last_use = clock_;
    return *place;
  }
  Entry made{.shape = shape, .uses = 0, .last_use = clock_, .graph = nullptr};
  if (entries_.size() < most_) return entries_.emplace_back(std::move(made));
  Entry& oldest = *std::ranges::min_element(entries_, {}, &Entry::last_use);
  if (oldest.graph != nullptr) stream_.wait();  // it may run
  oldest = std::move(made);
  return oldest;
}

}  // namespace gptoss::cuda
