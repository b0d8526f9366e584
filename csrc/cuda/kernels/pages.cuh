// Where keys and values of a position lie (args.h: KvLayer).
#pragma once

#include <cstdint>

#include "args.h"

namespace gptoss::cuda {

// The page of a slot's sequence that holds a position.
template <class Element>
struct PageOf {
  Element* base;
  int head_size;
  int kv_heads;

  __device__ __forceinline__ PageOf(const KvLayer& kv, int slot, int position)
      : head_size(kKernelPageTokens * kv.head_dim), kv_heads(kv.kv_heads) {
    const int32_t* const row = kv.table + static_cast<int64_t>(slot) * kv.row_pages;
    const int64_t page = row[position / kKernelPageTokens % kv.row_pages];
    base = reinterpret_cast<Element*>(static_cast<uint8_t*>(kv.base) + page * kv.page_stride);
  }
  // (64, D)
  __device__ __forceinline__ Element* keys(int head) const { return base + head * head_size; }
  __device__ __forceinline__ Element* values(int head) const {
    return base + (kv_heads + head) * head_size;
  }
};

}  // namespace gptoss::cuda
