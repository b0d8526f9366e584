// The table of instruction forms, and how a statement finds its row.
//
// A row is data: the opcode with its modifiers in order, the operands, the pipe, and the function
// that turns a matched statement into an instruction. A modifier is a word, {a|b} one of several,
// or [a|b] one of several or none. Decoder, coverage and tests all read this one table.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "emulator/ptx/program.h"

namespace gptoss::emulator {

class Builder;

struct Form {
  // "add.{rn|rz}.[ftz].f32"
  std::string_view pattern;
  // Operands, separated by commas. A leading '=' marks destinations, '?' what may be missing.
  //   T    the last type of the opcode      S    the first type
  //   W    twice as wide as T               P    predicate, "!" before it where ! is allowed
  //   1 2 4 8  so many bytes                V..  a vector in braces, or one register, of what
  //   follows M    memory address                   N    integer constant ~    after a type: the
  //   register may be wider |P   after a destination: a second, predicate destination may follow
  std::string_view operands;
  Pipe pipe;
  void (*build)(Builder&);
};

std::span<const Form> forms();

// The row that the words match, or -1. `matched` gets, per segment of the pattern, the word taken.
int find_form(const std::vector<std::string>& words);

}  // namespace gptoss::emulator
