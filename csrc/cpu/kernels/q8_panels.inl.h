// Q8 rows times many tokens: what the instruction sets' panels have in common.
//
// A panel is some rows, one per lane of two registers. A chunk of K is unpacked once, then
// all tokens pass over it, once for each of the four chains of blocks (see Kernels::mxfp4.fast), so
// that a sum is one register. Included after the file that has the instruction set's own part:
//   kPanelSize, kChunkBlocks   rows, blocks of a chunk
//   kPanelTokens<Group>        tokens that pass together: 6 at most
//   kHasPanels<Group>, kFewestPanelTokens<Group>
//   kAddsExponents<Group>, exponents_can_be_added, take_exponents
//   UnpackedChunk, unpack_chunk<Group>
//   TokenSums, add_chunk<Group, kExponents, kTokens>
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/kernels/kernels.h"
#include GPTOSS_ISA_SIMD

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

// Prefetches the next chunk, a few rows at a time: they are too far apart for the hardware
// prefetcher, and a hundred prefetches at once are more than there are fill buffers.
struct NextChunk {
  const uint8_t* row;
  int64_t row_bytes;
  int chunk_bytes, rows_left, rows_at_once;

  void prefetch() {
    for (int r = 0; r < rows_at_once && rows_left > 0; ++r, --rows_left, row += row_bytes) {
      // To the end inclusive: rows need not begin with a cache line.
      for (int byte = 0; byte <= chunk_bytes; byte += 64) __builtin_prefetch(row + byte, 0, 2);
    }
  }
};

// The chunk from block `begin` of the panel at `row`, to be prefetched in so many calls.
template <class Group>
NextChunk next_chunk(const MatmulTask& task, int row, int begin, int calls) {
  const int64_t row_bytes = task.w.k / kQ8Block * int64_t{Group::kBlockBytes};
  return {static_cast<const uint8_t*>(task.w.data) + row * row_bytes + begin * Group::kBlockBytes,
          row_bytes, kChunkBlocks * Group::kBlockBytes, kPanelSize,
          (kPanelSize + calls - 1) / calls};
}

// Prefetches the scales of the panel at `row`, which are contiguous: the share that falls to blocks
// [begin, begin + count).
template <class Group>
void prefetch_scales(const MatmulTask& task, int row, int begin, int count) {
  constexpr int kBytes = kPanelSize * sizeof(typename Group::Scale);
  const int64_t row_blocks = task.w.k / kQ8Block;
  const auto* const scales = static_cast<const typename Group::Scale*>(task.w.scales);
  const auto* const panel = reinterpret_cast<const uint8_t*>(scales + row * row_blocks);
  for (int byte = begin * kBytes; byte < (begin + count) * kBytes; byte += 64) {
    __builtin_prefetch(panel + byte, 0, 2);
  }
}

// The same for tokens [token, token + n_tokens), prefetching the next chunk between them.
template <class Group, bool kExponents>
void add_chunk_to_tokens(const MatmulTask& task, const UnpackedChunk& chunk, int begin, int count,
                         int token, int n_tokens, TokenSums* sums, NextChunk next) {
  constexpr int kMost = kPanelTokens<Group>;
  int t = 0;
  for (; t + kMost <= n_tokens; t += kMost) {
    next.prefetch();
    add_chunk<Group, kExponents, kMost>(task, chunk, begin, count, token + t, sums + t);
  }
  if constexpr (kFewestPanelTokens<Group> < kMost) {
    if (t == 0) next.prefetch();
  }
  const int left = n_tokens - t;
  if constexpr (kMost > 5) {
    if (left == 5) add_chunk<Group, kExponents, 5>(task, chunk, begin, count, token + t, sums + t);
  }
  if constexpr (kMost > 4) {
    if (left == 4) add_chunk<Group, kExponents, 4>(task, chunk, begin, count, token + t, sums + t);
  }
  if constexpr (kMost > 3) {
    if (left == 3) add_chunk<Group, kExponents, 3>(task, chunk, begin, count, token + t, sums + t);
  }
  if constexpr (kMost > 2) {
    if (left == 2) add_chunk<Group, kExponents, 2>(task, chunk, begin, count, token + t, sums + t);
  }
  if (left == 1) add_chunk<Group, kExponents, 1>(task, chunk, begin, count, token + t, sums + t);
}

template <class Group>
bool q8_panels_pay(const MatmulTask& task) {
  return task.tokens >= kFewestPanelTokens<Group> &&
         (task.row_end - task.row_begin) % kPanelSize == 0;
}

// Writes a panel's rows of one token.
void store_panel(const MatmulTask& task, int row, int token, const TokenSums& sums) {
  for (int lane = 0; lane < kPanelSize; lane += 16) {
    const auto chain = [&](int c) { return load(sums[c] + lane); };
    F32x16 value = add(add(chain(0), chain(2)), add(chain(1), chain(3)));
    if (task.bias != nullptr) value = add(value, load(task.bias + row + lane));
    float* const y = task.y + token * task.y_stride + (row + lane - task.row_begin);
    if (task.accumulate) value = add(load(y), value);
    store(y, value);
  }
}

template <class Group>
void matmul_q8_panels(const MatmulTask& task) {
  constexpr int kTokensAtOnce = 128;  // 32 or 64 kB of sums, in the second-level cache
  alignas(64) TokenSums sums[kTokensAtOnce];
  UnpackedChunk chunk;
  const int blocks = task.w.k / kMxfp4BlockSize;
  constexpr bool kAdds = kAddsExponents<Group>;
  const bool exponents = kAdds && exponents_can_be_added(task);
  for (int row = task.row_begin; row < task.row_end; row += kPanelSize) {
    for (int first = 0; first < task.tokens; first += kTokensAtOnce) {
      const int tokens = task.tokens - first < kTokensAtOnce ? task.tokens - first : kTokensAtOnce;
      std::memset(sums, 0, sizeof sums[0] * static_cast<size_t>(tokens));
      for (int begin = 0; begin < blocks; begin += kChunkBlocks) {
        const int count = blocks - begin < kChunkBlocks ? blocks - begin : kChunkBlocks;
        unpack_chunk<Group>(task, row, begin, count, chunk);
        const bool last = begin + count == blocks;
        const NextChunk next =
            next_chunk<Group>(task, last ? row + kPanelSize : row, last ? 0 : begin + count,
                              tokens < kPanelTokens<Group> ? 1 : tokens / kPanelTokens<Group>);
        prefetch_scales<Group>(task, row + kPanelSize, begin, count);
        if (exponents && take_exponents(chunk, count)) {
          add_chunk_to_tokens<Group, kAdds>(task, chunk, begin, count, first, tokens, sums, next);
        } else {
          add_chunk_to_tokens<Group, false>(task, chunk, begin, count, first, tokens, sums, next);
        }
      }
      for (int t = 0; t < tokens; ++t) store_panel(task, row, first + t, sums[t]);
    }
  }
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
