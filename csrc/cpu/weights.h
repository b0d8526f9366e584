// A model's weights as the CPU reads them: matrices where they are in the checkpoint, unless the
// dense ones in bf16 are asked for in another format; norms, sinks and biases, which are small,
// widened to f32.
#pragma once

#include <cstdint>
#include <vector>

#include "core/mapped_file.h"
#include "core/thread_pool.h"
#include "cpu/experts.h"
#include "cpu/kernels/kernels.h"
#include "model/weights.h"

namespace gptoss::cpu {

struct PreparedLayer {
  std::vector<float> attention_norm;          // (hidden)
  Matrix q, k, v;                             // (H*D | G*D | G*D, hidden)
  std::vector<float> q_bias, k_bias, v_bias;  // (H*D | G*D | G*D)
  std::vector<float> sinks;                   // (H)
  Matrix o;                                   // (hidden, H*D)
  std::vector<float> o_bias;                  // (hidden)
  std::vector<float> mlp_norm;                // (hidden)
  Matrix router;                              // (E, hidden)
  std::vector<float> router_bias;             // (E)
  ExpertWeights experts;
};

// Biases widened.
ExpertWeights prepare_experts(const LayerWeights& layer, const Kernels& kernels);

class PreparedWeights {
 public:
  // Widens and encodes on all threads. Throws OutOfMemory where encoded matrices have no room, and
  // std::invalid_argument where a matrix cannot be had in that format.
  PreparedWeights(Weights weights, Format dense, const Kernels& kernels, ThreadPool& pool);
  PreparedWeights(const PreparedWeights&) = delete;
  PreparedWeights& operator=(const PreparedWeights&) = delete;

  const ModelConfig& config() const { return checkpoint_.config; }
  // What a model's weights take in memory of our own, beside the checkpoint's mapped bytes; bf12's
  // escapes are not counted.
  static int64_t allocated_bytes(const ModelConfig& config, Format dense);

  const Matrix embedding;  // (V, hidden)
  std::vector<PreparedLayer> layers;
  std::vector<float> final_norm;  // (hidden)
  Matrix unembedding;             // (V, hidden)

 private:
  Weights checkpoint_;                          // keeps alive what is read where it is
  LazyMemory encoded_;                          // dense matrices that are not the checkpoint's
  std::vector<std::vector<uint16_t>> escapes_;  // of those in bf12
};

}  // namespace gptoss::cpu
