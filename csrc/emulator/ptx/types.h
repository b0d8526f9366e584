// Types, state spaces and scopes of PTX.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace gptoss::emulator {

inline constexpr int kLanes = 32;
inline constexpr uint32_t kAllLanes = 0xffffffffu;

enum class Type : uint8_t {
  kNone,
  kPred,
  kB8,
  kB16,
  kB32,
  kB64,
  kB128,
  kU8,
  kU16,
  kU32,
  kU64,
  kS8,
  kS16,
  kS32,
  kS64,
  kF16,
  kBf16,
  kTf32,
  kF32,
  kF64,
  kU16x2,
  kS16x2,
  kF16x2,
  kBf16x2,
  kF32x2,
  kE4m3,
  kE5m2,
  kE4m3x2,
  kE5m2x2,
};

// Bytes of one element; 0 for predicates, which are masks.
inline int size_of(Type type) {
  switch (type) {
    case Type::kB8:
    case Type::kU8:
    case Type::kS8:
    case Type::kE4m3:
    case Type::kE5m2:
      return 1;
    case Type::kB16:
    case Type::kU16:
    case Type::kS16:
    case Type::kF16:
    case Type::kBf16:
    case Type::kE4m3x2:
    case Type::kE5m2x2:
      return 2;
    case Type::kB64:
    case Type::kU64:
    case Type::kS64:
    case Type::kF64:
    case Type::kF32x2:
      return 8;
    case Type::kB128:
      return 16;
    case Type::kNone:
    case Type::kPred:
      return 0;
    default:
      return 4;
  }
}

inline bool is_float(Type type) {
  return type == Type::kF16 || type == Type::kBf16 || type == Type::kTf32 || type == Type::kF32 ||
         type == Type::kF64;
}

inline bool is_signed(Type type) { return type >= Type::kS8 && type <= Type::kS64; }

inline bool is_packed(Type type) {
  return type >= Type::kU16x2 && type != Type::kE4m3 && type != Type::kE5m2;
}

// kNone for a word that names no type.
inline Type parse_type(std::string_view word) {
  struct Name {
    std::string_view word;
    Type type;
  };
  static constexpr Name kNames[] = {
      {"pred", Type::kPred},     {"b8", Type::kB8},         {"b16", Type::kB16},
      {"b32", Type::kB32},       {"b64", Type::kB64},       {"b128", Type::kB128},
      {"u8", Type::kU8},         {"u16", Type::kU16},       {"u32", Type::kU32},
      {"u64", Type::kU64},       {"s8", Type::kS8},         {"s16", Type::kS16},
      {"s32", Type::kS32},       {"s64", Type::kS64},       {"f16", Type::kF16},
      {"bf16", Type::kBf16},     {"tf32", Type::kTf32},     {"f32", Type::kF32},
      {"f64", Type::kF64},       {"u16x2", Type::kU16x2},   {"s16x2", Type::kS16x2},
      {"f16x2", Type::kF16x2},   {"bf16x2", Type::kBf16x2}, {"f32x2", Type::kF32x2},
      {"e4m3", Type::kE4m3},     {"e5m2", Type::kE5m2},     {"e4m3x2", Type::kE4m3x2},
      {"e5m2x2", Type::kE5m2x2},
  };
  for (const Name& name : kNames)
    if (name.word == word) return name.type;
  return Type::kNone;
}

// kSharedCluster is what instructions name, for addresses that may be of another CTA of the
// cluster; where an access goes is kShared.
enum class Space : uint8_t { kGeneric, kGlobal, kConst, kShared, kLocal, kParam, kSharedCluster };

// How far a strong operation reaches; kNone marks weak ones.
enum class Scope : uint8_t { kNone, kCta, kCluster, kGpu, kSys };

enum class Rounding : uint8_t { kNearest, kZero, kDown, kUp, kAway };

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t count() const { return uint64_t{x} * y * z; }
};

// Generic addresses of the windows onto shared, local and parameter memory: far above what a
// process on this machine can map.
inline constexpr uint64_t kSharedWindow = 0x7f01ull << 48;
inline constexpr uint64_t kLocalWindow = 0x7f02ull << 48;
inline constexpr uint64_t kParamWindow = 0x7f03ull << 48;
inline constexpr uint64_t kWindowMask = 0xffffull << 48;

// Addresses of the shared memory of a cluster (mapa): 1 + the CTA's rank above these bits, 0 for
// the accessing CTA's own.
inline constexpr int kRankShift = 24;
inline constexpr uint64_t kOwnSharedMask = (1ull << kRankShift) - 1;

}  // namespace gptoss::emulator
