// What a row's build function works with: the statement, and the instruction to fill in.
#pragma once

#include <string>
#include <string_view>

#include "emulator/ptx/forms.h"
#include "emulator/ptx/program.h"
#include "emulator/ptx/syntax.h"

namespace gptoss::emulator {

class Linker;

class Builder {
 public:
  Builder(Linker& linker, const Statement& statement, const Form& form, Instruction& instruction)
      : in(instruction), statement_(statement), form_(form), linker_(linker) {
    read_types();
  }

  Instruction& in;

  // Resolves the operands as the row describes them.
  void operands();

  std::string_view opcode() const { return statement_.words[0]; }
  bool has(std::string_view modifier) const;
  // The modifier of `names` that the statement has; -1 where it has none.
  int which(std::initializer_list<std::string_view> names) const;
  const Statement& statement() const { return statement_; }
  // Elements of the i-th vector operand, 1 for a single register.
  size_t vector_size(size_t operand) const;
  // The types of the opcode, in order.
  const std::vector<Type>& types() const { return types_; }
  [[noreturn]] void fail(const std::string& message) const;
  void execute(Execute handler);
  Linker& linker() { return linker_; }

  // Single operands, for the few rows whose operands no description covers.
  void destination(const Operand& operand, int bytes, bool wider);
  void source(const Operand& operand, Type type, int bytes, bool wider);
  uint32_t source_register(const Operand& operand, Type type, int bytes, bool wider);
  void address(const Operand& operand);

 private:
  void read_types();
  void one(std::string_view spec, const Operand& operand);
  void check_width(const std::string& name, int have, int want, bool wider);
  uint64_t literal(const Operand& operand, Type type, int bytes) const;

  const Statement& statement_;
  const Form& form_;
  Linker& linker_;
  std::vector<Type> types_;
  int addresses_ = 0;
};

// The address of an mbarrier that is an operand of a copy: a source, and what is added to it.
void mbarrier_operand(Builder& b, const Operand& operand);

// The families of instructions; each fills in the instruction of one matched statement.
namespace build {
void move(Builder&);
void integer(Builder&);
void integer_wide(Builder&);
void carry(Builder&);
void logic(Builder&);
void shift(Builder&);
void bits(Builder&);
void dot(Builder&);
void floating(Builder&);
void half(Builder&);
void special(Builder&);
void compare(Builder&);
void select(Builder&);
void convert(Builder&);
void convert_pair(Builder&);
void convert_fp8(Builder&);
void convert_address(Builder&);
void is_space(Builder&);
void map_shared(Builder&);
void load(Builder&);
void store(Builder&);
void atomic(Builder&);
void fence(Builder&);
void no_effect(Builder&);
void policy(Builder&);
void branch(Builder&);
void leave(Builder&);
void trap(Builder&);
void barrier(Builder&);
void grid_dependency(Builder&);
void cluster_barrier(Builder&);
void set_registers(Builder&);
void warp_barrier(Builder&);
void shuffle(Builder&);
void vote(Builder&);
void match(Builder&);
void reduce(Builder&);
void active_mask(Builder&);
void load_matrix(Builder&);
void store_matrix(Builder&);
void multiply_matrix(Builder&);
void copy_async(Builder&);
void copy_async_group(Builder&);
void mbarrier(Builder&);
void mbarrier_copies(Builder&);
void proxy_fence(Builder&);
void mbarrier_init_fence(Builder&);
void bulk_copy(Builder&);
void bulk_group(Builder&);
void tensor_copy(Builder&);
void wgmma(Builder&);
void wgmma_group(Builder&);
void elect(Builder&);
}  // namespace build

}  // namespace gptoss::emulator
