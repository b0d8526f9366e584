#include "core/bf12.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <numeric>

#include "core/check.h"
#include "core/float16.h"

namespace gptoss {

void bf12_encode_row(const uint16_t* w, int64_t k, uint8_t* row, std::vector<uint16_t>& escapes) {
  std::array<uint32_t, 256> counts{};
  for (int64_t i = 0; i < k; ++i) ++counts[load_u16(w + i) >> 8];
  std::array<uint8_t, 256> order;
  std::iota(order.begin(), order.end(), uint8_t{0});
  std::partial_sort(order.begin(), order.begin() + kBf12Table, order.end(),
                    [&](uint8_t a, uint8_t b) {
                      return counts[a] > counts[b] || (counts[a] == counts[b] && a < b);
                    });
  constexpr uint8_t kAbsent = kBf12Table;
  std::array<uint8_t, 256> nibble_of;
  nibble_of.fill(kAbsent);
  for (uint8_t i = 0; i < kBf12Table; ++i) nibble_of[order[i]] = i;

  std::memset(row, 0, static_cast<size_t>(bf12_row_bytes(k)));
  std::memcpy(row + bf12_table_offset(k), order.data(), kBf12Table);
  bf12_shift_escapes(row, k, escapes.size() / kBf12Group);
  for (int64_t begin = 0; begin < k; begin += kBf12Group) {
    const int count = static_cast<int>(std::min<int64_t>(kBf12Group, k - begin));
    uint8_t* const low = row + begin;
    uint8_t* const nibbles = row + bf12_nibbles_offset(k) + begin / 2;
    uint8_t seen = 0;
    for (int i = 0; i < count; ++i) {
      const uint16_t number = load_u16(w + begin + i);
      const uint8_t nibble = nibble_of[number >> 8];
      seen |= nibble;
      const int place = bf12_place(i);
      low[place] = static_cast<uint8_t>(number);
      nibbles[place / 2] |= static_cast<uint8_t>((nibble & 15) << place % 2 * 4);
    }
    if ((seen & kAbsent) == 0) continue;
    const int64_t group = begin / kBf12Group;
    row[bf12_escaped_offset(k) + group / 8] |= static_cast<uint8_t>(1 << group % 8);
    const size_t end = escapes.size();
    escapes.resize(end + kBf12Group);
    std::memcpy(&escapes[end], w + begin, static_cast<size_t>(count) * sizeof(uint16_t));
  }
}

void bf12_shift_escapes(uint8_t* row, int64_t k, size_t groups) {
  uint32_t first = bf12_first(row, k);
  check(groups <= std::numeric_limits<uint32_t>::max() - first, "[bf12] too many escaped groups");
  first += static_cast<uint32_t>(groups);
  std::memcpy(row + bf12_first_offset(k), &first, sizeof first);
}

int64_t bf12_escapes_end(const uint8_t* row, int64_t k) {
  int64_t end = bf12_first(row, k);
  for (int64_t i = 0; i < 8 * bf12_escaped_words(k); ++i) {
    end += std::popcount(row[bf12_escaped_offset(k) + i]);
  }
  return end;
}

}  // namespace gptoss
