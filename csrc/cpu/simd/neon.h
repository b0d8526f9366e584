// F32x16 as four 128-bit registers. Baseline ARMv8-A; compiled once more with the dot-product
// instructions of ARMv8.2, which give the same sums, and again beside panels of I8MM.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "core/mxfp4.h"
#include "core/q8.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {

// 32 registers: 16 sums (2 x 2 tiles of four registers), 8 weights, 4 activations.
inline constexpr int kTileRows = 2;
inline constexpr int kTileTokens = 2;
inline constexpr int kTileRowsOneToken = 4;
inline constexpr int kTileTokensQ8 = 1;
inline constexpr int kTileQueries = 1;
inline constexpr int kTileKeyVectors = 4;
inline constexpr bool kStagesPages = false;

struct F32x16 {
  float32x4_t q[4];
};

#define GPTOSS_QUARTERS for (int i = 0; i < 4; ++i)

inline F32x16 set1(float x) {
  F32x16 r;
  GPTOSS_QUARTERS r.q[i] = vdupq_n_f32(x);
  return r;
}
inline F32x16 load(const float* p) {
  F32x16 r;
  GPTOSS_QUARTERS r.q[i] = vld1q_f32(p + 4 * i);
  return r;
}
inline void store(float* p, F32x16 a) { GPTOSS_QUARTERS vst1q_f32(p + 4 * i, a.q[i]); }
inline F32x16 add(F32x16 a, F32x16 b) {
  GPTOSS_QUARTERS a.q[i] = vaddq_f32(a.q[i], b.q[i]);
  return a;
}
inline F32x16 sub(F32x16 a, F32x16 b) {
  GPTOSS_QUARTERS a.q[i] = vsubq_f32(a.q[i], b.q[i]);
  return a;
}
inline F32x16 mul(F32x16 a, F32x16 b) {
  GPTOSS_QUARTERS a.q[i] = vmulq_f32(a.q[i], b.q[i]);
  return a;
}
inline F32x16 div(F32x16 a, F32x16 b) {
  GPTOSS_QUARTERS a.q[i] = vdivq_f32(a.q[i], b.q[i]);
  return a;
}
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  GPTOSS_QUARTERS c.q[i] = vfmaq_f32(c.q[i], a.q[i], b.q[i]);
  return c;
}
inline F32x16 fused(F32x16 a, F32x16 b, F32x16 c) { return fma(a, b, c); }
inline F32x16 min(F32x16 a, F32x16 b) {
  GPTOSS_QUARTERS a.q[i] = vbslq_f32(vcltq_f32(a.q[i], b.q[i]), a.q[i], b.q[i]);
  return a;
}
inline F32x16 max(F32x16 a, F32x16 b) {
  GPTOSS_QUARTERS a.q[i] = vbslq_f32(vcgtq_f32(a.q[i], b.q[i]), a.q[i], b.q[i]);
  return a;
}
inline F32x16 round(F32x16 a) {
  GPTOSS_QUARTERS a.q[i] = vrndnq_f32(a.q[i]);
  return a;
}
inline F32x16 pow2(F32x16 n) {
  GPTOSS_QUARTERS {
    const int32x4_t biased = vaddq_s32(vcvtq_s32_f32(n.q[i]), vdupq_n_s32(127));
    n.q[i] = vreinterpretq_f32_s32(vshlq_n_s32(biased, 23));
  }
  return n;
}
inline F32x16 select_less(F32x16 a, F32x16 b, F32x16 yes, F32x16 no) {
  GPTOSS_QUARTERS no.q[i] = vbslq_f32(vcltq_f32(a.q[i], b.q[i]), yes.q[i], no.q[i]);
  return no;
}
inline F32x16 keep_lanes(F32x16 a, int begin, int end, float fill) {
  const int32_t first_lanes[4] = {0, 1, 2, 3};
  GPTOSS_QUARTERS {
    const int32x4_t lane = vaddq_s32(vld1q_s32(first_lanes), vdupq_n_s32(4 * i));
    const uint32x4_t keep =
        vandq_u32(vcgeq_s32(lane, vdupq_n_s32(begin)), vcltq_s32(lane, vdupq_n_s32(end)));
    a.q[i] = vbslq_f32(keep, a.q[i], vdupq_n_f32(fill));
  }
  return a;
}
inline F32x16 keep_bits(F32x16 a, uint32_t bits, float fill) {
  const uint32_t first_bits[4] = {1, 2, 4, 8};
  GPTOSS_QUARTERS {
    const uint32x4_t keep = vtstq_u32(vdupq_n_u32(bits >> 4 * i), vld1q_u32(first_bits));
    a.q[i] = vbslq_f32(keep, a.q[i], vdupq_n_f32(fill));
  }
  return a;
}
inline uint32_t lanes_at_least(F32x16 a, float bound) {
  const uint32_t first_bits[4] = {1, 2, 4, 8};
  uint32_t bits = 0;
  GPTOSS_QUARTERS {
    const uint32x4_t set = vandq_u32(vcgeq_f32(a.q[i], vdupq_n_f32(bound)), vld1q_u32(first_bits));
    bits |= vaddvq_u32(set) << 4 * i;
  }
  return bits;
}
inline void store_int32(int32_t* p, F32x16 a) {
  GPTOSS_QUARTERS vst1q_s32(p + 4 * i, vcvtq_s32_f32(a.q[i]));
}
// In f64, exact below 2^53.
struct MassSum {
  float64x2_t low[4] = {}, high[4] = {};

  void add(F32x16 a) {
    GPTOSS_QUARTERS {
      low[i] = vaddq_f64(low[i], vcvt_f64_f32(vget_low_f32(a.q[i])));
      high[i] = vaddq_f64(high[i], vcvt_high_f64_f32(a.q[i]));
    }
  }
  uint64_t total() const {
    double sum = 0;
    GPTOSS_QUARTERS sum += vaddvq_f64(vaddq_f64(low[i], high[i]));
    return static_cast<uint64_t>(sum);
  }
};
inline float reduce_add(F32x16 a) {
  const float32x4_t lanes4 = vaddq_f32(vaddq_f32(a.q[0], a.q[2]), vaddq_f32(a.q[1], a.q[3]));
  const float32x2_t lanes2 = vadd_f32(vget_low_f32(lanes4), vget_high_f32(lanes4));
  return vget_lane_f32(lanes2, 0) + vget_lane_f32(lanes2, 1);
}
inline float reduce_max(F32x16 a) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.q[0], a.q[2]), vmaxq_f32(a.q[1], a.q[3])));
}
inline F32x16 load_half(const uint16_t* p) {
  F32x16 r;
  GPTOSS_QUARTERS r.q[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
  return r;
}
inline void store_half(uint16_t* p, F32x16 a) {
  const float32x4_t limit = vdupq_n_f32(65504.0f);
  // vminq and vmaxq let NaN through.
  GPTOSS_QUARTERS {
    const float32x4_t bounded = vmaxq_f32(vnegq_f32(limit), vminq_f32(limit, a.q[i]));
    vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(bounded)));
  }
}
inline void load_bf16_pairs(const uint16_t* p, F32x16& even, F32x16& odd) {
  GPTOSS_QUARTERS {
    const uint32x4_t words = vreinterpretq_u32_u16(vld1q_u16(p + 8 * i));
    even.q[i] = vreinterpretq_f32_u32(vshlq_n_u32(words, 16));
    odd.q[i] = vreinterpretq_f32_u32(vandq_u32(words, vdupq_n_u32(0xffff0000u)));
  }
}
// A group of bf12, in order.
inline void unpack_bf12(const uint8_t* low, const uint8_t* nibbles, const uint8_t* table,
                        uint16_t* out) {
  const uint8x16_t upper_bytes = vld1q_u8(table);
  for (int i = 0; i < 4; ++i) {
    const uint8x8_t pairs = vld1_u8(nibbles + 8 * i);
    const uint8x8x2_t places = vzip_u8(vand_u8(pairs, vdup_n_u8(15)), vshr_n_u8(pairs, 4));
    const uint8x16_t upper = vqtbl1q_u8(upper_bytes, vcombine_u8(places.val[0], places.val[1]));
    const uint8x16_t lower = vld1q_u8(low + 16 * i);
    vst1q_u16(out + 8 * i, vreinterpretq_u16_u8(vzip1q_u8(lower, upper)));
    vst1q_u16(out + 32 + 8 * i, vreinterpretq_u16_u8(vzip2q_u8(lower, upper)));
  }
}
inline F32x16 to_float(int8x16_t a) {
  const int16x8_t first = vmovl_s8(vget_low_s8(a));
  const int16x8_t second = vmovl_s8(vget_high_s8(a));
  F32x16 r;
  r.q[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(first)));
  r.q[1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(first)));
  r.q[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(second)));
  r.q[3] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(second)));
  return r;
}
// Of 32 numbers, those with even index and those with odd ones.
inline void load_pairs(const float* p, F32x16& even, F32x16& odd) {
  GPTOSS_QUARTERS {
    const float32x4x2_t pairs = vld2q_f32(p + 8 * i);
    even.q[i] = pairs.val[0];
    odd.q[i] = pairs.val[1];
  }
}
// Whole numbers in [-127, 127].
inline void store_int8(int8_t* p, F32x16 a) {
  int16x4_t words[4];
  GPTOSS_QUARTERS words[i] = vmovn_s32(vcvtq_s32_f32(a.q[i]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(vcombine_s16(words[0], words[1])),
                          vmovn_s16(vcombine_s16(words[2], words[3]))));
}
inline F32x16 load_int8(const int8_t* p) { return to_float(vld1q_s8(p)); }
inline void load_mxfp4_pairs(const uint8_t* block, uint8_t scale, F32x16& even, F32x16& odd) {
  const int8x16_t table = vld1q_s8(kE2m1Doubled.byte);
  const uint8x16_t bytes = vld1q_u8(block);
  const F32x16 half_scale = set1(e8m0_to_float(scale) * 0.5f);
  even = mul(to_float(vqtbl1q_s8(table, vandq_u8(bytes, vdupq_n_u8(15)))), half_scale);
  odd = mul(to_float(vqtbl1q_s8(table, vshrq_n_u8(bytes, 4))), half_scale);
}
#undef GPTOSS_QUARTERS

// ---- int8 products ----------------------------------------------------------------------------
// A group is 4 blocks, 128 elements: of MXFP4 weights, doubled so that they are whole numbers in
// [-12, 12], or of int8 weights.

struct I32x16 {
  int32x4_t q[4];
};
// A group of one row.
inline I32x16 sum_blocks(const I32x16 (&rows)[4]) {
  I32x16 sums;
  for (int b = 0; b < 4; ++b) {
    sums.q[b] =
        vpaddq_s32(vpaddq_s32(rows[0].q[b], rows[1].q[b]), vpaddq_s32(rows[2].q[b], rows[3].q[b]));
  }
  return sums;
}
struct Mxfp4Group {
  using Scale = uint8_t;
  static constexpr int kBlockBytes = kMxfp4BlockBytes;
  int8x16_t even[4], odd[4];

  static Mxfp4Group load(const uint8_t* blocks, int n_blocks) {
    const int8x16_t table = vld1q_s8(kE2m1Doubled.byte);
    Mxfp4Group codes;
    for (int b = 0; b < 4; ++b) {
      const uint8x16_t bytes =
          b < n_blocks ? vld1q_u8(blocks + kMxfp4BlockBytes * b) : vdupq_n_u8(0);
      codes.even[b] = vqtbl1q_s8(table, vandq_u8(bytes, vdupq_n_u8(15)));
      codes.odd[b] = vqtbl1q_s8(table, vshrq_n_u8(bytes, 4));
    }
    return codes;
  }
  // What a Q8 row has for a block of these codes, of this sum.
  static int32_t correction(const int8_t* /*codes*/, int32_t sum) { return -16 * sum; }
  static void spread_corrections(const int32_t* /*p*/, int32_t* /*out*/) {}
  static I32x16 sum_rows(const I32x16 (&dots)[4], const int32_t* /*corrections*/) {
    return sum_blocks(dots);
  }
};
struct Q8Group {
  using Scale = uint16_t;
  static constexpr int kBlockBytes = kQ8Block;
  int8x16_t even[4], odd[4];

  static Q8Group load(const uint8_t* group, int n_blocks) {
    const auto* const p = reinterpret_cast<const int8_t*>(group);
    Q8Group codes;
    for (int b = 0; b < 4; ++b) {
      codes.even[b] = b < n_blocks ? vld1q_s8(p + 16 * b) : vdupq_n_s8(0);
      codes.odd[b] = b < n_blocks ? vld1q_s8(p + 16 * (n_blocks + b)) : vdupq_n_s8(0);
    }
    return codes;
  }
  static void spread_corrections(const int32_t* /*p*/, int32_t* /*out*/) {}
  static I32x16 sum_rows(const I32x16 (&dots)[4], const int32_t* /*corrections*/) {
    return sum_blocks(dots);
  }
};

template <class Group>
inline I32x16 dot(const Group& w, const int8_t* x_even, const int8_t* x_odd) {
  I32x16 sums;
  for (int b = 0; b < 4; ++b) {
    const int8x16_t even = vld1q_s8(x_even + 16 * b);
    const int8x16_t odd = vld1q_s8(x_odd + 16 * b);
#if defined(__ARM_FEATURE_DOTPROD)
    sums.q[b] = vdotq_s32(vdotq_s32(vdupq_n_s32(0), w.even[b], even), w.odd[b], odd);
#else
    // |product| <= 127 * 127; two of them fit into 16 bits.
    const int16x8_t evens = vmlal_s8(vmull_s8(vget_low_s8(w.even[b]), vget_low_s8(even)),
                                     vget_high_s8(w.even[b]), vget_high_s8(even));
    const int16x8_t odds = vmlal_s8(vmull_s8(vget_low_s8(w.odd[b]), vget_low_s8(odd)),
                                    vget_high_s8(w.odd[b]), vget_high_s8(odd));
    sums.q[b] = vpadalq_s16(vpaddlq_s16(evens), odds);
#endif
  }
  return sums;
}
// Lane 4b + r: p[b].
inline F32x16 spread4(const float* p) {
  F32x16 r;
  for (int b = 0; b < 4; ++b) r.q[b] = vdupq_n_f32(p[b]);
  return r;
}
inline F32x16 to_float(const I32x16& a) {
  F32x16 r;
  for (int b = 0; b < 4; ++b) r.q[b] = vcvtq_f32_s32(a.q[b]);
  return r;
}
inline F32x16 load_scales4x4(const uint8_t* r0, const uint8_t* r1, const uint8_t* r2,
                             const uint8_t* r3, int n_blocks) {
  F32x16 scales;
  for (int b = 0; b < 4; ++b) {
    uint32_t bits[4] = {};
    if (b < n_blocks) {
      bits[0] = static_cast<uint32_t>(r0[b]) << 23;
      bits[1] = static_cast<uint32_t>(r1[b]) << 23;
      bits[2] = static_cast<uint32_t>(r2[b]) << 23;
      bits[3] = static_cast<uint32_t>(r3[b]) << 23;
    }
    scales.q[b] = vreinterpretq_f32_u32(vld1q_u32(bits));
  }
  return scales;
}
inline F32x16 load_scales4x4(const uint16_t* r0, const uint16_t* r1, const uint16_t* r2,
                             const uint16_t* r3, int n_blocks) {
  F32x16 scales;
  for (int b = 0; b < 4; ++b) {
    uint32_t bits[4] = {};
    if (b < n_blocks) {
      bits[0] = static_cast<uint32_t>(r0[b]) << 16;
      bits[1] = static_cast<uint32_t>(r1[b]) << 16;
      bits[2] = static_cast<uint32_t>(r2[b]) << 16;
      bits[3] = static_cast<uint32_t>(r3[b]) << 16;
    }
    scales.q[b] = vreinterpretq_f32_u32(vld1q_u32(bits));
  }
  return scales;
}

}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
