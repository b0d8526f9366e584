// Steps that come again with the same launches, as graphs: the driver then launches all kernels of
// a step at once.
//
// Graphs are built node by node. Nothing is captured, so whatever other libraries of the process do
// at that time, they may.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cuda/memory.h"
#include "cuda/module.h"

namespace gptoss::cuda {

// All that a step's launches depend on, beside what does not change: where its inputs lie, and how
// large grids are. Tokens, positions and tables are in device memory.
struct StepShape {
  int segment;  // of the step: Forward::run
  int flight;
  int n_tokens, n_sequences, n_logit_rows;
  int n_splits;                  // of attention, 0: none
  std::array<int, 2> row_pages;  // of each KV group

  bool operator==(const StepShape&) const = default;
};

class StepGraphs {
 public:
  // Keeps up to `most` shapes.
  StepGraphs(const Context& context, const Stream& stream, Module& module, int most);

  // Runs queue(), which queues kernels and nothing else: as it is the first time that a shape is
  // seen, so that the driver has loaded its kernels, and from then on as a graph of them.
  template <class Queue>
  void run(const StepShape& shape, Queue&& queue) {
    Entry& entry = find(shape);
    if (entry.uses++ == 0 || !works_) return queue();
    if (entry.graph == nullptr) entry.graph = make(queue);
    if (entry.graph == nullptr) return queue();
    entry.graph->launch(stream_);
  }

 private:
  struct Entry {
    StepShape shape;
    int64_t uses;
    int64_t last_use;
    std::unique_ptr<Graph> graph;
  };

  // Null where the driver has none of it. What it refuses because kernels overlap is made without
  // that, and so are all later ones.
  template <class Queue>
  std::unique_ptr<Graph> make(Queue&& queue) {
    std::string refusal;
    for (;;) {
      Graph graph(context_, overlaps_);
      {
        const Module::Recording recording(module_, graph);
        queue();
      }
      const std::string error = graph.finish();
      if (!graph.refusal().empty()) refusal = graph.refusal();
      const bool is_made = error.empty();
      if (!is_made && graph.has_overlaps() && !graph.lacks_memory()) {
        overlaps_ = false;
        refusal = error;
        continue;
      }
      if (!refusal.empty()) {
        overlaps_ = false;
        // If it was not for another reason.
        if (is_made) refuse(Overlap::graphs, context_.device(), refusal);
      }
      if (is_made) return std::make_unique<Graph>(std::move(graph));
      give_up(error);
      return nullptr;
    }
  }
  // No more graphs, which is said.
  void give_up(const std::string& why);
  // The shape's, made if need be in place of the one that was not used for longest.
  Entry& find(const StepShape& shape);

  const Context& context_;
  const Stream& stream_;
  Module& module_;
  const size_t most_;
  bool works_ = true;  // until the driver has refused one
  bool overlaps_;      // likewise, one with kernels that do
  int64_t clock_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace gptoss::cuda
