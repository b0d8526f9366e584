// bf16 in 12 bits, without loss: a number's upper byte (its sign and seven bits of exponent) is one
// of the 16 most frequent of its row, named by four bits. Groups of 64 that have another one are
// escaped: they are stored whole beside the rows.
//
// A row of K numbers, padded to P, a multiple of 64, in bytes from its start:
//   low     (P)       u8   lower bytes
//   nibbles (P / 2)   u8   places in the table, two a byte, the first in the low nibble
//   table   (16)      u8   upper bytes
//   first   (1)       u32  the row's first escaped group, of those of its matrix
//   unused  (4)
//   escaped (words)   u64  bit g: group g is escaped
// and zeros up to a multiple of 64. In a group, runs of 8 numbers are in the order 0, 4, 1, 5, 2,
// 6, 3, 7, so that interleaving bytes within 128-bit lanes puts them in place.
//
//   escapes (n, 64) u16   escaped groups as bf16, in order, padded with zeros
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace gptoss {

inline constexpr int kBf12Group = 64;
inline constexpr int kBf12Table = 16;

inline constexpr int64_t bf12_padded(int64_t k) { return (k + 63) / 64 * 64; }
inline constexpr int64_t bf12_nibbles_offset(int64_t k) { return bf12_padded(k); }
inline constexpr int64_t bf12_table_offset(int64_t k) { return bf12_padded(k) / 2 * 3; }
inline constexpr int64_t bf12_first_offset(int64_t k) { return bf12_table_offset(k) + kBf12Table; }
inline constexpr int64_t bf12_escaped_offset(int64_t k) { return bf12_first_offset(k) + 8; }
inline constexpr int64_t bf12_escaped_words(int64_t k) { return (bf12_padded(k) / 64 + 63) / 64; }
inline constexpr int64_t bf12_row_bytes(int64_t k) {
  return (bf12_escaped_offset(k) + 8 * bf12_escaped_words(k) + 63) / 64 * 64;
}

// Where number i of a group lies in it.
inline constexpr int bf12_place(int i) { return i / 8 % 4 * 16 + i / 32 * 8 + i % 8; }

// The row's first escaped group.
[[gnu::always_inline]] inline uint32_t bf12_first(const uint8_t* row, int64_t k) {
  uint32_t first;
  std::memcpy(&first, row + bf12_first_offset(k), sizeof first);
  return first;
}

// Writes a row of w (k) bf16, at any address, and appends its escaped groups to `escapes`.
void bf12_encode_row(const uint16_t* w, int64_t k, uint8_t* row, std::vector<uint16_t>& escapes);

// Moves a row's escaped groups `groups` further in their matrix.
void bf12_shift_escapes(uint8_t* row, int64_t k, size_t groups);

// One past the last escaped group that the row refers to.
int64_t bf12_escapes_end(const uint8_t* row, int64_t k);

}  // namespace gptoss
