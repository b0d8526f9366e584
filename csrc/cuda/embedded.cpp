// The file with the kernels, as CMake names it, made part of this library.
#include "cuda/module.h"

__asm__(
    ".section .rodata\n"
    ".balign 64\n"
    ".local gptoss_cuda_kernels\n"
    "gptoss_cuda_kernels:\n"
    ".incbin \"" GPTOSS_CUDA_KERNELS_FILE
    "\"\n"
    ".local gptoss_cuda_kernels_end\n"
    "gptoss_cuda_kernels_end:\n"
    ".byte 0\n"
    ".previous\n");

extern "C" {
extern const uint8_t gptoss_cuda_kernels[] __attribute__((visibility("hidden")));
extern const uint8_t gptoss_cuda_kernels_end[] __attribute__((visibility("hidden")));
}

namespace gptoss::cuda {

std::span<const uint8_t> embedded_kernels() {
  return {gptoss_cuda_kernels, gptoss_cuda_kernels_end};
}

}  // namespace gptoss::cuda
