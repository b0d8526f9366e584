#pragma once

namespace gptoss {

// Tokens in a page of the KV cache, on every backend: a tile of keys in the attention kernels, and
// the grain at which a prefix can be shared.
inline constexpr int kPageTokens = 64;

}  // namespace gptoss
