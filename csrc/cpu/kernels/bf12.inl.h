// Rows of bf16 stored in 12 bits (core/bf12.h), unpacked to bf16 again for matmuls that read that.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/bf12.h"
#include "cpu/kernels/kernels.h"
#include GPTOSS_ISA_SIMD

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

struct Bf12Row {
  const uint8_t* low;
  const uint8_t* nibbles;
  const uint8_t* table;
  const uint8_t* escaped;
  const uint16_t* escapes;  // this row's

  Bf12Row() = default;
  Bf12Row(const MatmulTask& task, int64_t row) {
    low = static_cast<const uint8_t*>(task.w.data) + row * bf12_row_bytes(task.w.k);
    nibbles = low + bf12_nibbles_offset(task.w.k);
    table = low + bf12_table_offset(task.w.k);
    escaped = low + bf12_escaped_offset(task.w.k);
    escapes = static_cast<const uint16_t*>(task.w.scales) +
              int64_t{kBf12Group} * bf12_first(low, task.w.k);
  }

  // Bits of groups 64 * word and on.
  uint64_t escaped_word(int word) const {
    uint64_t bits;
    std::memcpy(&bits, escaped + 8 * word, sizeof bits);
    return bits;
  }
  bool is_escaped(int group) const { return escaped[group / 8] >> group % 8 & 1; }

  // The numbers of an escaped group.
  const uint16_t* escape(int group) const {
    int before = 0;
    for (int word = 0; word < group / 64; ++word) {
      before += __builtin_popcountll(escaped_word(word));
    }
    const uint64_t below = (uint64_t{1} << group % 64) - 1;
    before += __builtin_popcountll(escaped_word(group / 64) & below);
    return escapes + int64_t{kBf12Group} * before;
  }

  // A group of the row one tile further. From memory, two threads of Zen 4 read 30 GB/s with
  // it, 23 without.
  void prefetch(int group, int64_t tile_bytes) const {
    __builtin_prefetch(low + tile_bytes + kBf12Group * group, 0, 2);
    if (group % 2 == 0) __builtin_prefetch(nibbles + tile_bytes + kBf12Group / 2 * group, 0, 2);
  }

  // out (64) = a group.
  void unpack(int group, uint16_t* out) const {
    if (is_escaped(group)) {
      std::memcpy(out, escape(group), kBf12Group * sizeof *out);
    } else {
      unpack_bf12(low + kBf12Group * group, nibbles + kBf12Group / 2 * group, table, out);
    }
  }
};

// Rows that are unpacked before they are multiplied.
inline constexpr int kBf12Rows = 64;

// What kBf16 makes of the unpacked rows.
template <const Matmul& kBf16>
void matmul_bf12(const MatmulTask& task) {
  const int64_t most = int64_t{kBf12Rows} * task.w.k + kBf12Group;
  auto* const unpacked = reinterpret_cast<uint16_t*>(thread_scratch(most * sizeof(uint16_t)));
  const int64_t row_bytes = bf12_row_bytes(task.w.k);
  const int groups = static_cast<int>(bf12_padded(task.w.k) / kBf12Group);
  MatmulTask part = task;
  part.w = {.format = Format::bf16, .n = kBf12Rows, .k = task.w.k, .data = unpacked};
  for (int row = task.row_begin; row < task.row_end; row += kBf12Rows) {
    const int count = task.row_end - row < kBf12Rows ? task.row_end - row : kBf12Rows;
    for (int r = 0; r < count; ++r) {
      const Bf12Row source(task, row + r);
      // The last group writes into the next row, whose turn comes.
      for (int g = 0; g < groups; ++g) {
        source.unpack(g, unpacked + int64_t{r} * task.w.k + kBf12Group * g);
      }
    }
    part.row_begin = 0;
    part.row_end = count;
    part.bias = task.bias == nullptr ? nullptr : task.bias + row;
    part.y = task.y + (row - task.row_begin);
    part.prefetch = static_cast<const uint8_t*>(task.w.data) + (row + count) * row_bytes;
    part.prefetch_stride = row_bytes;
    kBf16.run(part);
  }
}

template <const Matmul& kBf16>
constexpr Matmul kBf12Of = {kBf16.inputs, kBf16.row_bytes, kBf16.pack_block, matmul_bf12<kBf16>};

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
