// The file with the kernels, as CMake names it, made part of this library.
#include "cuda/module.h"

#ifdef __ELF__
#define GPTOSS_READ_ONLY_DATA ".section .rodata\n"
#define GPTOSS_SECTION_BEFORE ".previous\n"
#else  // COFF, whose assembler has no .previous
#define GPTOSS_READ_ONLY_DATA ".section .rdata,\"dr\"\n"
#define GPTOSS_SECTION_BEFORE ".text\n"
#endif

__asm__(
    // clang-format off
    GPTOSS_READ_ONLY_DATA
    ".balign 64\n"
    "gptoss_cuda_kernels:\n"
    ".incbin \"" GPTOSS_CUDA_KERNELS_FILE "\"\n"
    "gptoss_cuda_kernels_end:\n"
    ".byte 0\n"
    GPTOSS_SECTION_BEFORE
    // clang-format on
);

extern "C" {
extern const uint8_t gptoss_cuda_kernels[] __attribute__((visibility("hidden")));
extern const uint8_t gptoss_cuda_kernels_end[] __attribute__((visibility("hidden")));
}

namespace gptoss::cuda {

std::span<const uint8_t> embedded_kernels() {
  return {gptoss_cuda_kernels, gptoss_cuda_kernels_end};
}

}  // namespace gptoss::cuda
