// A model's weights as the CPU reads them: large ones where they are in the checkpoint, unless the
// dense ones are asked for in another form; norms, sinks and biases, which are small, widened to
// f32.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "core/mapped_file.h"
#include "core/thread_pool.h"
#include "cpu/kernels/kernels.h"
#include "model/weights.h"

namespace gptoss::cpu {

// A dense matrix as its matmul reads it: bf16 in the checkpoint, or in memory of our own.
struct DenseWeights {
  const void* weights = nullptr;
  const void* scales = nullptr;
};

// A matrix for each expert, one after the other.
struct ExpertWeights {
  const uint8_t* blocks = nullptr;
  const uint8_t* scales = nullptr;
};

struct PreparedLayer {
  std::vector<float> attention_norm;          // (hidden)
  DenseWeights q, k, v;                       // (H*D | G*D | G*D, hidden)
  std::vector<float> q_bias, k_bias, v_bias;  // (H*D | G*D | G*D)
  std::vector<float> sinks;                   // (H)
  DenseWeights o;                             // (hidden, H*D)
  std::vector<float> o_bias;                  // (hidden)
  std::vector<float> mlp_norm;                // (hidden)
  DenseWeights router;                        // (E, hidden)
  std::vector<float> router_bias;             // (E)
  ExpertWeights gate_up;                      // (E, 2I, hidden)
  std::vector<float> gate_up_bias;            // (E, 2I)
  ExpertWeights down;                         // (E, hidden, I)
  std::vector<float> down_bias;               // (E, hidden)
};

class PreparedWeights {
 public:
  // Widens and encodes on all threads. Throws OutOfMemory where encoded matrices have no room, and
  // std::invalid_argument where a matrix cannot be had in that form.
  PreparedWeights(Weights weights, DenseType dense, const Kernels& kernels, ThreadPool& pool);
  PreparedWeights(const PreparedWeights&) = delete;
  PreparedWeights& operator=(const PreparedWeights&) = delete;

  const ModelConfig& config() const { return checkpoint_.config; }

  const uint16_t* embedding;  // (V, hidden) bf16, at any address
  std::vector<PreparedLayer> layers;
  std::vector<float> final_norm;  // (hidden)
  DenseWeights unembedding;       // (V, hidden)

 private:
  Weights checkpoint_;                          // keeps alive what is read where it is
  LazyMemory encoded_;                          // dense matrices that are not the checkpoint's
  std::vector<std::vector<uint16_t>> escapes_;  // of those in bf12
};

}  // namespace gptoss::cpu
