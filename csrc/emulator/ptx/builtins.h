// Functions of the device runtime that PTX calls without defining them.
#pragma once

#include "emulator/ptx/machine.h"

namespace gptoss::emulator::builtins {

// vprintf(format, arguments): src[0], src[1] are the places of the parameters in local memory,
// immediate that of the result.
void print(Warp& warp, const Instruction& in, uint32_t mask);
// __assertfail(message, file, line, function, size of a character)
void assert_fail(Warp& warp, const Instruction& in, uint32_t mask);

}  // namespace gptoss::emulator::builtins
