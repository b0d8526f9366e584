#include "cuda/graphs.h"

#include <algorithm>
#include <iostream>

namespace gptoss::cuda {

StepGraphs::StepGraphs(const Context& context, const Stream& stream, Module& module, int most)
    : context_(context),
      stream_(stream),
      module_(module),
      most_(static_cast<size_t>(std::max(1, most))),
      overlaps_(!is_refused(Overlap::graphs, context.device())) {}

void StepGraphs::give_up(const std::string& why) {
  works_ = false;
  std::cerr << concat("gptoss: ", name_of(context_.device()),
                      ": its driver makes no graph of a step (", why,
                      "): kernels are launched one by one\n");
}

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
  oldest = std::move(made);  // the driver lets a graph that runs end before it goes
  return oldest;
}

}  // namespace gptoss::cuda
