#pragma once

namespace gptoss {

// Weights of a row that share a scale when they are held in int8.
inline constexpr int kQ8Block = 32;

}  // namespace gptoss
