// What was kept of a step's layers, in host memory, until it is read.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "backend/step.h"

namespace gptoss {

// For one of StepInput.keeps.
class Kept {
 public:
  Kept(const ModelConfig& config, const Keep& keep);

  const std::vector<int32_t>& rows() const { return rows_; }
  int keys() const { return keys_; }
  // Where a layer's (rows, ...) are; null unless they are kept.
  uint8_t* find(Activation activation, int layer);
  // Throws std::invalid_argument unless they are kept.
  void copy_to(void* values, Activation activation, int layer);

 private:
  std::vector<int32_t> rows_, layers_;
  uint32_t activations_;
  int keys_;
  // [place of the layer][activation]; empty what is not kept
  std::vector<std::array<std::vector<uint8_t>, kActivations>> values_;
};

}  // namespace gptoss
