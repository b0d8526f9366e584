// ops/sample.h on the CPU: one thread computes a row, rows run in parallel.
//
// A row is read once for its highest logit and the highest of every group of 64 tokens, and once
// for the masses; what is far below a cut is then skipped group by group. Nothing is sorted but a
// few candidates about a cut, and no masses are kept: those of a group are computed again where
// they are needed.
#pragma once

#include <cstdint>
#include <vector>

#include "core/aligned_bytes.h"
#include "cpu/kernels/kernels.h"
#include "ops/sample.h"

namespace gptoss::cpu {

// What a thread needs to sample rows, kept from row to row: about 1.7 MB with the published
// vocabulary once all of it is used.
struct SampleScratch {
  struct Candidate {
    float logit;
    int32_t token;
    uint64_t mass;
  };
  std::vector<float> logits;       // (V) after bias, penalties and mask, where any changes a logit
  std::vector<float> group_max;    // (groups) of x
  std::vector<float> changed_max;  // (groups) of `logits`
  std::vector<uint64_t> block_masses;
  std::vector<uint64_t> bins;
  std::vector<int32_t> tokens;  // (V) of candidates
  std::vector<float> numbers;   // of candidates or groups
  std::vector<Candidate> candidates, partition;
};

// `row` as ops::validate() and ops::validate_values() have it. Scratch serves one thread at a time.
ops::SampledRow sample(const Kernels& kernels, const ops::SampleRow& row, SampleScratch& scratch);

}  // namespace gptoss::cpu
