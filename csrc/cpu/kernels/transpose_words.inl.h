// Turns rows into columns, for panels of x86.
#pragma once

#include GPTOSS_ISA_SIMD

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

// A 4 x 4 transpose of 32-bit words within each lane of 128 bits: words[j] has word j of every row,
// lane by lane.
inline void transpose_words(const Integers (&rows)[4], Integers (&words)[4]) {
  const Integers low01 = interleave_low32(rows[0], rows[1]);
  const Integers high01 = interleave_high32(rows[0], rows[1]);
  const Integers low23 = interleave_low32(rows[2], rows[3]);
  const Integers high23 = interleave_high32(rows[2], rows[3]);
  words[0] = interleave_low64(low01, low23);
  words[1] = interleave_high64(low01, low23);
  words[2] = interleave_low64(high01, high23);
  words[3] = interleave_high64(high01, high23);
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
