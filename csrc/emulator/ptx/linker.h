// Turns the syntax of a module into kernels: variables placed, names resolved, calls inlined.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "emulator/ptx/memory.h"
#include "emulator/ptx/program.h"
#include "emulator/ptx/syntax.h"

namespace gptoss::emulator {

struct Symbol {
  enum class Kind : uint8_t { kRegister, kVariable };
  Kind kind = Kind::kRegister;
  uint32_t reg = 0;
  int bytes = 0;                 // of the register; 0 for a predicate
  Space space = Space::kGlobal;  // kVariable; kParam for parameters of the kernel
  uint64_t address = 0;          // in its space
};

class Linker {
 public:
  Linker(const Syntax& syntax, std::shared_ptr<Memory> memory);
  std::shared_ptr<Module> link();

  // For Builder. Null where the name is unknown.
  const Symbol* find(const std::string& name);
  // A register that holds the constant in every lane.
  uint32_t constant(uint64_t bits, int bytes);
  // A register for what nobody reads.
  uint32_t sink();
  // The register of a special register; -1 for an unknown name.
  int special(const std::string& name);
  // Which special register a name means, without making a register of it.
  static bool find_special(const std::string& name, SpecialRegister& which);
  void branch_to(const std::string& label, int line);
  // Whether `ret` returns to a caller, and the jump that this is.
  bool is_inlined() const { return call_stack_.size() > 1; }
  void branch_to_end();
  Kernel& kernel() { return *kernel_; }

 private:
  struct Scope {
    std::unordered_map<std::string, Symbol> symbols;
    std::unordered_map<std::string, int> labels;
    int parent;
  };
  struct Fixup {
    size_t instruction;
    std::string label;
    int scope;
    int line;
  };

  void place_variables();
  void link_kernel(const Function& function);
  void place_shared(const Function& function, std::unordered_set<std::string>& done);
  void shared_variable(const std::string& key, const Variable& variable);
  void emit(const Function& function);
  void declare_registers(const Statement& statement);
  void declare_variable(const Function& function, const Statement& statement);
  void instruction(const Statement& statement);
  void call(const Statement& statement);
  void call_builtin(const Statement& statement, const std::string& name,
                    const std::vector<Operand>& results, const std::vector<Operand>& arguments);
  Instruction& append(const Statement& statement);
  uint32_t new_register(const std::string& name, int bytes);
  uint64_t new_local(const Variable& variable);
  uint32_t guard_register(const Statement& statement);
  void resolve_labels();
  void mark_wgmma_registers();

  const Syntax& syntax_;
  std::shared_ptr<Memory> memory_;
  std::shared_ptr<Module> module_;
  std::unordered_map<std::string, const Function*> functions_;
  std::unordered_map<std::string, Symbol> variables_;        // of the module, global and const
  std::unordered_map<std::string, const Variable*> shared_;  // of the module

  // Of the kernel being linked.
  Kernel* kernel_ = nullptr;
  std::unordered_map<std::string, Symbol> shared_symbols_;
  uint64_t shared_next_ = 0;
  uint32_t shared_used_ = 0;
  std::string extern_shared_;
  std::map<std::pair<uint64_t, int>, uint32_t> constants_;
  std::unordered_map<std::string, uint32_t> specials_;
  int64_t sink_ = -1;
  std::vector<Scope> scopes_;
  int scope_ = -1;
  std::vector<Fixup> fixups_;
  std::vector<const Function*> call_stack_;
};

}  // namespace gptoss::emulator
