// The kernels behind cpu/sample.h; what masses are is in ops/sample.h.
#pragma once

#include <cstdint>

namespace gptoss::cpu {

// Tokens whose highest logit is kept, so that they can be skipped together.
inline constexpr int kSampleGroup = 64;
// Most tokens whose masses sum_masses() adds: the lanes' sums are f64, exact below 2^53.
inline constexpr int kMassBlock = 1024;

struct LogitRange {
  float lowest, highest;
  bool ordinary;  // all are finite and within kLogitLimit; otherwise the range means nothing
};

// From a logit to its mass.
struct MassRule {
  float top;       // the highest logit
  float scale;     // exponent_scale(temperature)
  float smallest;  // min_p * 2^40
};

// Bins of exponents: y falls in bin -y * scale, rounded down. Those from `count` on are left out.
struct BinRule {
  float scale;
  int count;
};

struct SampleKernels {
  // The highest of each group of x (n), and what all are.
  LogitRange (*scan_logits)(const float* x, int64_t n, float* group_max);
  // z (n) = x where the mask has a bit, -inf elsewhere; z may be x.
  void (*mask_logits)(const float* x, const uint32_t* mask, int64_t n, float* z);
  // The sum of the masses of z (n <= kMassBlock) whose logits are at least `floor`; also each mass,
  // 0 below the floor, unless `masses` (n) is null.
  uint64_t (*sum_masses)(const float* z, int64_t n, const MassRule&, float floor, float* masses);
  // Adds to bins (count + 1, 2) each mass, or 1 for each token; the two halves of a bin, and what
  // lies in the last one, have no meaning of their own. Adds the sum of all masses, those left out
  // included, to *total unless it is null. Skips what it can.
  void (*bin_masses)(const float* z, const float* group_max, int64_t n, const MassRule&,
                     const BinRule&, bool counting, uint64_t* bins, uint64_t* total);
  // The tokens of a bin, ascending, and how many they are; room for n is needed.
  int64_t (*gather_bin)(const float* z, const float* group_max, int64_t n, const MassRule&,
                        const BinRule&, int bin, int32_t* tokens);
  // Those whose logits are at least `floor`.
  int64_t (*gather_at_least)(const float* z, const float* group_max, int64_t n, float floor,
                             int32_t* tokens);
};

}  // namespace gptoss::cpu
