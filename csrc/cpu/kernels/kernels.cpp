#include "cpu/kernels/kernels.h"

#include <algorithm>
#include <cstring>

#include "core/aligned_bytes.h"
#include "core/check.h"

namespace gptoss::cpu {

void Matmul::pack(const float* const* rows, int tokens, int k, uint8_t* group) const {
  float block[kGroupTokens][32];
  for (int begin = 0; begin < k; begin += 32) {
    const int count = std::min(32, k - begin);
    for (int t = 0; t < tokens; ++t) {
      std::memcpy(block[t], rows[t] + begin, static_cast<size_t>(count) * sizeof(float));
      std::fill(block[t] + count, block[t] + 32, 0.0f);
    }
    pack_block(block[0], 32, tokens, k, begin / 32, group);
  }
}

const Matmul& Kernels::matmul(Format format, Inputs inputs) const {
  const Variants& variants = format == Format::bf16   ? bf16
                             : format == Format::bf12 ? bf12
                             : format == Format::q8   ? q8
                             : format == Format::q8_0 ? q8_0
                                                      : mxfp4;
  const Matmul& matmul = inputs == Inputs::exact ? variants.exact : variants.fast;
  check(matmul.run != nullptr, "[cpu] weights in ", gptoss::name_of(format),
        " have no matmul of exact inputs");
  return matmul;
}

Kernels Extension::of(const Kernels& smaller) const {
  Kernels kernels = smaller;
  kernels.name = name;
  const auto take = [](const Matmul& own, Matmul& matmul) {
    if (own.run != nullptr) matmul = own;
  };
  take(bf16_exact, kernels.bf16.exact);
  take(bf16_fast, kernels.bf16.fast);
  take(bf12_fast, kernels.bf12.fast);
  take(q8_fast, kernels.q8.fast);
  take(q8_0_fast, kernels.q8_0.fast);
  take(mxfp4_fast, kernels.mxfp4.fast);
  return kernels;
}

uint8_t* thread_scratch(int64_t bytes, Scratch purpose) {
  static thread_local AlignedBytes of_purpose[2];
  AlignedBytes& scratch = of_purpose[static_cast<int>(purpose)];
  if (scratch.size() < static_cast<size_t>(bytes)) scratch.resize(static_cast<size_t>(bytes));
  return scratch.data();
}

}  // namespace gptoss::cpu
