// A PTX module as text that has been read, before any instruction is understood.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "emulator/ptx/types.h"

namespace gptoss::emulator {

// PTX that cannot be loaded: not well formed, or beyond what the emulator models.
class LoadError : public std::runtime_error {
 public:
  LoadError(int line, const std::string& message)
      : std::runtime_error("line " + std::to_string(line) + ": " + message), line_(line) {}
  int line() const { return line_; }

 private:
  int line_;
};

// Where an instruction stands: line of the PTX, and the source line that `.loc` gives it.
struct Position {
  int line = 0;
  int file = 0;         // index into Syntax::files, 0 where there is no .loc
  int source_line = 0;  // 0 where there is no .loc
};

struct Operand {
  enum class Kind : uint8_t { kName, kInteger, kFloat, kVector, kAddress, kList };
  Kind kind = Kind::kName;
  std::string name;            // kName: register, variable, label, function
  std::string pair;            // the q of p|q
  bool negated = false;        // !p
  uint64_t bits = 0;           // kInteger: two's complement; kFloat: see float_bytes
  int float_bytes = 0;         // 4: bits of an f32, 8: bits of an f64
  std::vector<Operand> parts;  // kVector, kList: elements; kAddress: base, then coordinates
  int64_t offset = 0;          // kAddress: what is added to the base
};

struct Variable {
  Position position;
  std::string name;
  Space space = Space::kGlobal;
  Type type = Type::kB8;
  uint64_t count = 1;  // elements; 0 for `extern .shared x[]`
  uint32_t alignment = 1;
  bool is_external = false;
  struct Initial {
    std::string symbol;  // address of a variable, or empty
    uint64_t bits = 0;   // value, or what is added to the address
    int bytes = 0;       // 0: the type's
  };
  std::vector<Initial> initial;
  uint64_t size_bytes() const { return count * static_cast<uint64_t>(size_of(type)); }
};

// One thing in the body of a function, in order.
struct Statement {
  enum class Kind : uint8_t { kRegisters, kVariable, kLabel, kOpen, kClose, kInstruction };
  Kind kind = Kind::kInstruction;
  Position position;
  std::string text;  // as written, on one line
  // kRegisters
  Type register_type = Type::kNone;
  std::string name;             // kRegisters, kLabel
  uint32_t register_count = 0;  // 0: one register of that name; n: name0 ... name(n-1)
  Variable variable;            // kVariable
  // kInstruction
  std::string guard;
  bool guard_negated = false;
  std::vector<std::string> words;  // opcode and modifiers
  std::vector<Operand> operands;
};

struct Function {
  Position position;
  std::string name;
  bool is_entry = false;
  bool is_declaration = false;
  std::vector<Variable> parameters;
  std::vector<Variable> results;
  std::vector<Statement> body;
  // Performance directives; 0 where there is none.
  Dim3 required_threads{0, 0, 0};
  uint32_t max_threads = 0;
  uint32_t max_registers = 0;
  uint32_t min_ctas = 0;  // per multiprocessor
  Dim3 required_cluster{0, 0, 0};
  uint32_t max_cluster = 0;  // CTAs
};

struct Syntax {
  int version_major = 0, version_minor = 0;
  std::string target;
  std::map<int, std::string> files;  // .file number -> name
  std::vector<Variable> variables;
  std::vector<Function> functions;
};

// Reads a module. Throws LoadError.
Syntax parse(std::string_view text);

}  // namespace gptoss::emulator
