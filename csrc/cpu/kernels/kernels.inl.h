// All kernels of one instruction set, written once over F32x16; contracts in kernels.h. A source of
// csrc/cpu/isa includes this after naming what is its own:
//   GPTOSS_ISA_NAMESPACE   where its copy of the kernels is
//   GPTOSS_ISA_SIMD        the header of its vectors
//   GPTOSS_ISA_PANELS      the file of its panels (Q8 rows times many tokens), or q8_panels_none,
//                          and of where a group holds its blocks
// Every file includes what it needs of these, so that their order does not matter.
//
// Nothing here may call a function from a header that other instruction sets share, unless it is
// always inlined: the linker keeps one copy, and it could be the wrong one.
#pragma once

#include "cpu/kernels/attention.inl.h"
#include "cpu/kernels/bf12_f32.inl.h"
#include "cpu/kernels/elementwise.inl.h"
#include "cpu/kernels/kernels.h"
#include "cpu/kernels/low_rank.inl.h"
#include "cpu/kernels/matmul_f32.inl.h"
#include "cpu/kernels/matmul_q8.inl.h"
#include "cpu/kernels/sample.inl.h"

namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE {
namespace {

// `bf16_fast`, `bf12`: what the instruction set has for these formats with fast inputs; `bf16`:
// with exact ones.
constexpr Kernels make_kernels(const char* name, const Matmul& bf16_fast = kBf16F32,
                               const Matmul& bf12 = kBf12F32, const Matmul& bf16 = kBf16F32) {
  return {.name = name,
          .rms_norm = rms_norm,
          .bf16 = {bf16, bf16_fast},
          .bf12 = {{}, bf12},
          .q8 = {{}, kQ8Int8},
          .q8_0 = {kQ80F32, kQ80Int8},
          .mxfp4 = {kMxfp4F32, kMxfp4Int8},
          .encode_q8_weights = encode_q8_weights,
          .from_bf16 = from_bf16,
          .rope = rope,
          .store_kv = store_kv,
          .swiglu = swiglu,
          .attention_partial = attention_partial,
          .attention_merge = attention_merge,
          .attention_finish = attention_finish,
          .add_scaled = add_scaled,
          .low_rank_in = low_rank_in,
          .low_rank_out = low_rank_out,
          .sample = kSampleKernels};
}

}  // namespace
}  // namespace gptoss::cpu::GPTOSS_ISA_NAMESPACE
