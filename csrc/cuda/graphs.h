// Steps that come again with the same launches, as graphs: the driver then launches all kernels of
// a step at once.
//
// Graphs are built node by node. Nothing is captured, so whatever other libraries of the process do
// at that time, they may.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
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
    if (entry.graph == nullptr) {
      Graph graph(context_);
      {
        const Module::Recording recording(module_, graph);
        queue();
      }
      if (!graph.finish()) {
        works_ = false;
        return queue();
      }
      entry.graph = std::make_unique<Graph>(std::move(graph));
    }
    entry.graph->launch(stream_);
  }

 private:
  struct Entry {
    StepShape shape;
    int64_t uses;
    int64_t last_use;
    std::unique_ptr<Graph> graph;
  };

  // The shape's, made if need be in place of the one that was not used for longest.
  Entry& find(const StepShape& shape);

  const Context& context_;
  const Stream& stream_;
  Module& module_;
  const size_t most_;
  bool works_ = true;  // until the driver has refused one
  int64_t clock_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace gptoss::cuda
