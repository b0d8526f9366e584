#include "ops/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace gptoss::ops {

RopeTable::RopeTable(const RopeConfig& config, int head_dim) {
  const int half = head_dim / 2;
  // The pair that turns `rotations` times within the original context.
  const auto pair_of = [&](double rotations) {
    return half * std::log(config.original_context_length / (rotations * 2 * std::numbers::pi)) /
           std::log(config.theta);
  };
  double low = pair_of(config.beta_fast);
  double high = pair_of(config.beta_slow);
  if (config.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, head_dim - 1.0);
  if (low == high) high += 0.001;  // no division by zero where the ramp is a step

  for (int i = 0; i < half; ++i) {
    const double frequency = std::pow(config.theta, -2.0 * i / head_dim);
    const double ramp = std::clamp((i - low) / (high - low), 0.0, 1.0);
    inverse_frequencies.push_back(
        config.factor == 1.0 ? frequency : frequency * (ramp / config.factor + (1.0 - ramp)));
  }
  if (config.factor > 1.0) concentration = 0.1 * std::log(config.factor) + 1.0;
}

void RopeTable::rotation(int position, float* cos, float* sin) const {
  for (size_t i = 0; i < inverse_frequencies.size(); ++i) {
    const double angle = position * inverse_frequencies[i];
    cos[i] = static_cast<float>(std::cos(angle) * concentration);
    sin[i] = static_cast<float>(std::sin(angle) * concentration);
  }
}

}  // namespace gptoss::ops
