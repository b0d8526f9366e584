#include "cpu/isa/isa.h"

#include <algorithm>
#include <cstdlib>

#include "core/check.h"
#include "platform/platform.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace gptoss::cpu {
namespace {

#if defined(__x86_64__) || defined(__aarch64__)

class Requirements {
 public:
  Requirements& need(bool present, const char* feature) {
    if (!present) missing_ += (missing_.empty() ? "" : ", ") + std::string(feature);
    return *this;
  }
  const std::string& missing() const { return missing_; }

 private:
  std::string missing_;
};

#endif

#if defined(__x86_64__)

// The registers that the operating system saves on a context switch (XCR0).
uint64_t saved_state() {
  uint32_t low = 0;
  uint32_t high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

struct Cpuid {
  uint32_t leaf1_ecx = 0, leaf7_ebx = 0, leaf7_ecx = 0, leaf7_edx = 0, leaf7_1_eax = 0;
  uint64_t xcr0 = 0;
  bool is_intel = false;

  Cpuid() {
    uint32_t a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid(0, &a, &b, &c, &d)) {
      is_intel = b == signature_INTEL_ebx && d == signature_INTEL_edx && c == signature_INTEL_ecx;
    }
    if (__get_cpuid(1, &a, &b, &c, &d)) leaf1_ecx = c;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
      leaf7_ebx = b;
      leaf7_ecx = c;
      leaf7_edx = d;
      const uint32_t subleaves = a;
      if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) leaf7_1_eax = a;
    }
    if (leaf1_ecx & (1u << 27)) xcr0 = saved_state();  // OSXSAVE
  }
};

std::vector<Isa> detect() {
  const Cpuid id;
  Requirements avx2;
  avx2.need(id.leaf1_ecx & (1u << 28), "AVX")
      .need(id.leaf7_ebx & (1u << 5), "AVX2")
      .need(id.leaf1_ecx & (1u << 12), "FMA")
      .need(id.leaf1_ecx & (1u << 29), "F16C")
      .need((id.xcr0 & 0x06) == 0x06, "operating system support for AVX state");
  Requirements avx_vnni = avx2;
  avx_vnni.need(id.leaf7_1_eax & (1u << 4), "AVX_VNNI");
  Requirements avx512 = avx2;
  avx512.need(id.leaf7_ebx & (1u << 16), "AVX512F")
      .need(id.leaf7_ebx & (1u << 17), "AVX512DQ")
      .need(id.leaf7_ebx & (1u << 30), "AVX512BW")
      .need(id.leaf7_ebx & (1u << 31), "AVX512VL")
      .need(id.leaf7_ecx & (1u << 11), "AVX512_VNNI")
      .need((id.xcr0 & 0xe6) == 0xe6, "operating system support for AVX-512 state");
  Requirements avx512_bf16 = avx512;
  avx512_bf16.need(id.leaf7_1_eax & (1u << 5), "AVX512_BF16");
  Requirements amx = avx512;
  amx.need(id.leaf7_edx & (1u << 24), "AMX_TILE")
      .need(id.leaf7_edx & (1u << 25), "AMX_INT8")
      .need(id.leaf7_edx & (1u << 22), "AMX_BF16")
      .need((id.xcr0 & 0x60000) == 0x60000 && platform::request_amx_tiles(),
            "operating system support for AMX state");
  static const Kernels avx_vnni_kernels = kAvxVnniExtension.of(kAvx2Kernels);
  static const Kernels avx512_bf16_kernels = kAvx512Bf16Extension.of(kAvx512Kernels);
  static const Kernels amx_kernels = kAmxExtension.of(kAvx512Kernels);
  return {{&kScalarKernels, 0, ""},
          {&kAvx2Kernels, 20, avx2.missing()},
          {&avx_vnni_kernels, 25, avx_vnni.missing()},
          {&kAvx512Kernels, 40, avx512.missing()},
          // Intel's bf16 products are half as fast as f32 ones (measured on Sapphire Rapids), AMD's
          // twice.
          {&avx512_bf16_kernels, id.is_intel ? 30 : 50, avx512_bf16.missing()},
          {&amx_kernels, 60, amx.missing()}};
}

#elif defined(__aarch64__)

// Baseline ARMv8-A has all that the NEON kernels use.
std::vector<Isa> detect() {
  Requirements dotprod;
  dotprod.need(platform::has_arm_dot_products(), "dot product (ASIMDDP)");
  Requirements i8mm = dotprod;
  i8mm.need(platform::has_arm_matrix_products(), "matrix products of int8 (I8MM)");
  return {{&kScalarKernels, 0, ""},
          {&kNeonKernels, 20, ""},
          {&kNeonDotprodKernels, 40, dotprod.missing()},
          {&kNeonI8mmKernels, 60, i8mm.missing()}};
}

#else

std::vector<Isa> detect() { return {{&kScalarKernels, 0, ""}}; }

#endif

}  // namespace

const std::vector<Isa>& isas() {
  static const std::vector<Isa> list = [] {
    std::vector<Isa> found = detect();
    std::sort(found.begin(), found.end(),
              [](const Isa& a, const Isa& b) { return a.preference > b.preference; });
    return found;
  }();
  return list;
}

const Kernels& kernels_named(const std::string& name) {
  std::string known;
  for (const Isa& isa : isas()) {
    if (isa.kernels->name == name) {
      if (isa.supported()) return *isa.kernels;
      throw BackendError(concat("ISA '", name, "' cannot run here: missing ", isa.missing));
    }
    known += (known.empty() ? "" : ", ") + std::string(isa.kernels->name);
  }
  throw BackendError(concat("unknown ISA '", name, "'; this build has ", known));
}

const Kernels& select_kernels() {
  if (const char* forced = std::getenv("GPTOSS_ISA"); forced != nullptr && *forced != '\0') {
    return kernels_named(forced);
  }
  for (const Isa& isa : isas()) {
    if (isa.supported()) return *isa.kernels;
  }
  return kScalarKernels;
}

}  // namespace gptoss::cpu
