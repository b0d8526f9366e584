#include "emulator/ptx/linker.h"

#include <algorithm>
#include <cstring>

#include "emulator/ptx/builder.h"
#include "emulator/ptx/builtins.h"
#include "emulator/ptx/forms.h"

namespace gptoss::emulator {
namespace {

// Shared variables lie apart, and none at 0, so that an index that runs out of one is found. The
// first kilobyte is the driver's on cards, too.
constexpr uint64_t kSharedStart = 1024;
constexpr uint64_t kSharedGap = 256;
// What TMA's widest swizzle asks for; CUDA promises 16, compilers rely on more.
constexpr uint64_t kDynamicSharedAlignment = 1024;

uint64_t align_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

struct SpecialName {
  const char* name;
  SpecialRegister which;
};
constexpr SpecialName kSpecials[] = {
    {"%tid.x", SpecialRegister::kTidX},
    {"%tid.y", SpecialRegister::kTidY},
    {"%tid.z", SpecialRegister::kTidZ},
    {"%ntid.x", SpecialRegister::kNtidX},
    {"%ntid.y", SpecialRegister::kNtidY},
    {"%ntid.z", SpecialRegister::kNtidZ},
    {"%ctaid.x", SpecialRegister::kCtaidX},
    {"%ctaid.y", SpecialRegister::kCtaidY},
    {"%ctaid.z", SpecialRegister::kCtaidZ},
    {"%nctaid.x", SpecialRegister::kNctaidX},
    {"%nctaid.y", SpecialRegister::kNctaidY},
    {"%nctaid.z", SpecialRegister::kNctaidZ},
    {"%laneid", SpecialRegister::kLaneid},
    {"%warpid", SpecialRegister::kWarpid},
    {"%nwarpid", SpecialRegister::kNwarpid},
    {"%smid", SpecialRegister::kSmid},
    {"%nsmid", SpecialRegister::kNsmid},
    {"%lanemask_eq", SpecialRegister::kLanemaskEq},
    {"%lanemask_lt", SpecialRegister::kLanemaskLt},
    {"%lanemask_le", SpecialRegister::kLanemaskLe},
    {"%lanemask_gt", SpecialRegister::kLanemaskGt},
    {"%lanemask_ge", SpecialRegister::kLanemaskGe},
    {"%dynamic_smem_size", SpecialRegister::kDynamicSmemSize},
    {"%total_smem_size", SpecialRegister::kTotalSmemSize},
    {"%envreg1", SpecialRegister::kEnvreg1},
    {"%envreg2", SpecialRegister::kEnvreg2},
    {"%clusterid.x", SpecialRegister::kClusteridX},
    {"%clusterid.y", SpecialRegister::kClusteridY},
    {"%clusterid.z", SpecialRegister::kClusteridZ},
    {"%nclusterid.x", SpecialRegister::kNclusteridX},
    {"%nclusterid.y", SpecialRegister::kNclusteridY},
    {"%nclusterid.z", SpecialRegister::kNclusteridZ},
    {"%cluster_ctaid.x", SpecialRegister::kClusterCtaidX},
    {"%cluster_ctaid.y", SpecialRegister::kClusterCtaidY},
    {"%cluster_ctaid.z", SpecialRegister::kClusterCtaidZ},
    {"%cluster_nctaid.x", SpecialRegister::kClusterNctaidX},
    {"%cluster_nctaid.y", SpecialRegister::kClusterNctaidY},
    {"%cluster_nctaid.z", SpecialRegister::kClusterNctaidZ},
    {"%cluster_ctarank", SpecialRegister::kClusterCtarank},
    {"%cluster_nctarank", SpecialRegister::kClusterNctarank},
    {"%clock", SpecialRegister::kClock},
    {"%clock64", SpecialRegister::kClock64},
    {"%globaltimer", SpecialRegister::kGlobaltimer},
};

}  // namespace

std::shared_ptr<Module> Module::load(const std::string& text, std::shared_ptr<Memory> memory) {
  const Syntax syntax = parse(text);
  return Linker(syntax, std::move(memory)).link();
}

Module::~Module() {
  for (const GlobalVariable& variable : variables_) memory_->free(variable.address);
}

const Kernel* Module::find(const std::string& name) const {
  for (const auto& kernel : kernels_)
    if (kernel->name == name) return kernel.get();
  return nullptr;
}

const GlobalVariable* Module::find_variable(const std::string& name) const {
  for (const GlobalVariable& variable : variables_)
    if (variable.name == name) return &variable;
  return nullptr;
}

Linker::Linker(const Syntax& syntax, std::shared_ptr<Memory> memory)
    : syntax_(syntax), memory_(std::move(memory)), module_(new Module()) {
  module_->memory_ = memory_;
}

std::shared_ptr<Module> Linker::link() {
  for (const Function& function : syntax_.functions) {
    const Function*& known = functions_[function.name];
    if (!known || known->is_declaration) known = &function;
  }
  place_variables();
  for (const Function& function : syntax_.functions)
    if (function.is_entry && !function.is_declaration) link_kernel(function);
  return std::move(module_);
}

void Linker::place_variables() {
  for (const Variable& variable : syntax_.variables) {
    if (variable.space == Space::kShared) {
      shared_[variable.name] = &variable;
      continue;
    }
    if (variable.is_external)
      throw LoadError(variable.position.line, "external variable " + variable.name +
                                                  ": modules cannot be linked with each other");
    if (!variable.count) throw LoadError(variable.position.line, "a variable without a size");
    const uint64_t size = variable.size_bytes();
    const uint64_t address = memory_->allocate(size, variable.name, variable.alignment);
    if (!address) throw LoadError(variable.position.line, "no memory for " + variable.name);
    module_->variables_.push_back({variable.name, address, size});
    Symbol symbol;
    symbol.kind = Symbol::Kind::kVariable;
    symbol.space = variable.space;
    symbol.address = address;
    variables_[variable.name] = symbol;
    // Variables without a value begin as zero.
    const std::vector<uint8_t> zeros(size, 0);
    memory_->write(address, zeros.data(), size);
    memory_->nearest(address)->is_constant = variable.space == Space::kConst;
  }
  for (const Variable& variable : syntax_.variables) {
    if (variable.space == Space::kShared) continue;
    const uint64_t element = static_cast<uint64_t>(size_of(variable.type));
    for (size_t i = 0; i < variable.initial.size(); ++i) {
      const Variable::Initial& initial = variable.initial[i];
      uint64_t value = initial.bits;
      if (!initial.symbol.empty()) {
        const auto found = variables_.find(initial.symbol);
        if (found == variables_.end())
          throw LoadError(variable.position.line,
                          "address of " + initial.symbol + " as an initial value");
        value += found->second.address;
      }
      memory_->write(variables_[variable.name].address + i * element, &value, element);
    }
  }
}

// ---- shared memory ----

void Linker::shared_variable(const std::string& key, const Variable& variable) {
  if (shared_symbols_.count(key)) return;
  Symbol symbol;
  symbol.kind = Symbol::Kind::kVariable;
  symbol.space = Space::kShared;
  if (variable.count == 0) {  // extern: all of them begin where the static ones end
    extern_shared_ = key;
    shared_symbols_[key] = symbol;
    return;
  }
  const uint64_t size = variable.size_bytes();
  shared_next_ = align_up(shared_next_, std::max<uint64_t>(variable.alignment, 16));
  symbol.address = shared_next_;
  shared_symbols_[key] = symbol;
  kernel_->shared.push_back({variable.name, static_cast<uint32_t>(shared_next_),
                             static_cast<uint32_t>(shared_next_ + size)});
  shared_next_ += size + kSharedGap;
  shared_used_ = static_cast<uint32_t>(align_up(shared_used_, variable.alignment) + size);
}

// Places the shared variables that the function and those it calls name or declare.
void Linker::place_shared(const Function& function, std::unordered_set<std::string>& done) {
  if (!done.insert(function.name).second) return;
  const auto name = [&](const std::string& word) {
    if (const auto found = shared_.find(word); found != shared_.end())
      shared_variable(word, *found->second);
    if (const auto found = functions_.find(word); found != functions_.end())
      place_shared(*found->second, done);
  };
  for (const Statement& statement : function.body) {
    if (statement.kind == Statement::Kind::kVariable &&
        statement.variable.space == Space::kShared) {
      shared_variable(function.name + "/" + statement.variable.name, statement.variable);
    }
    for (const Operand& operand : statement.operands) {
      name(operand.name);
      for (const Operand& part : operand.parts) name(part.name);
    }
  }
}

// ---- kernels ----

void Linker::link_kernel(const Function& function) {
  auto kernel = std::make_unique<Kernel>();
  kernel_ = kernel.get();
  kernel->name = function.name;
  kernel->required_threads = function.required_threads;
  kernel->max_threads = function.max_threads;
  kernel->max_registers = function.max_registers;
  kernel->min_ctas = function.min_ctas;
  kernel->required_cluster = function.required_cluster;
  kernel->max_cluster = function.max_cluster;
  auto files = std::make_shared<std::unordered_map<int, std::string>>();
  for (const auto& [index, name] : syntax_.files) {
    const size_t slash = name.find_last_of('/');
    (*files)[index] = slash == std::string::npos ? name : name.substr(slash + 1);
  }
  kernel->files = files;

  shared_symbols_.clear();
  shared_next_ = kSharedStart;
  shared_used_ = 0;
  extern_shared_.clear();
  constants_.clear();
  specials_.clear();
  sink_ = -1;
  scopes_.clear();
  scope_ = -1;
  fixups_.clear();

  std::unordered_set<std::string> done;
  place_shared(function, done);
  kernel->static_shared_bytes = shared_used_;
  kernel->dynamic_shared_begin =
      static_cast<uint32_t>(align_up(shared_next_, kDynamicSharedAlignment));
  for (auto& [name, symbol] : shared_symbols_)
    if (symbol.address == 0) symbol.address = kernel->dynamic_shared_begin;

  scopes_.push_back({{}, {}, -1});
  scope_ = 0;
  uint32_t offset = 0;
  for (const Variable& parameter : function.parameters) {
    offset = static_cast<uint32_t>(align_up(offset, parameter.alignment));
    const auto size = static_cast<uint32_t>(parameter.size_bytes());
    kernel->parameters.push_back({parameter.name, offset, size});
    Symbol symbol;
    symbol.kind = Symbol::Kind::kVariable;
    symbol.space = Space::kParam;
    symbol.address = offset;
    scopes_[0].symbols[parameter.name] = symbol;
    offset += size;
  }
  kernel->parameter_bytes = offset;

  call_stack_ = {&function};
  emit(function);
  // Falling off the end is an exit.
  Statement end;
  end.text = "ret;";
  end.position = kernel->text.empty() ? function.position : kernel->text.back().position;
  Instruction& exit = append(end);
  exit.flow = Flow::kExit;
  exit.pipe = Pipe::kControl;
  resolve_labels();
  mark_wgmma_registers();
  module_->kernels_.push_back(std::move(kernel));
}

// Other instructions on registers of a wgmma are looked at when they run.
void Linker::mark_wgmma_registers() {
  if (kernel_->register_lists.empty()) return;
  std::vector<bool> used(kernel_->register_count(), false);
  const auto is_wgmma = [](const Instruction& in) { return in.list >= 0; };
  for (const Instruction& in : kernel_->code) {
    if (!is_wgmma(in)) continue;
    for (const uint32_t reg : kernel_->register_lists[static_cast<size_t>(in.list)])
      used[reg] = true;
    const bool a_in_registers = in.sources == 6;
    for (int i = 0; a_in_registers && i < 4; ++i) used[in.src[i]] = true;
  }
  for (Instruction& in : kernel_->code) {
    if (is_wgmma(in)) continue;
    for (int i = 0; i < in.sources; ++i) in.touches_wgmma = in.touches_wgmma || used[in.src[i]];
    for (int i = 0; i < in.destinations; ++i)
      in.touches_wgmma = in.touches_wgmma || used[in.dst[i]];
  }
}

void Linker::emit(const Function& function) {
  const int parent = scope_;
  for (const Statement& statement : function.body) {
    switch (statement.kind) {
      case Statement::Kind::kOpen:
        scopes_.push_back({{}, {}, scope_});
        scope_ = static_cast<int>(scopes_.size()) - 1;
        break;
      case Statement::Kind::kClose:
        scope_ = scopes_[scope_].parent;
        break;
      case Statement::Kind::kRegisters:
        declare_registers(statement);
        break;
      case Statement::Kind::kVariable:
        declare_variable(function, statement);
        break;
      case Statement::Kind::kLabel:
        scopes_[scope_].labels[statement.name] = static_cast<int>(kernel_->code.size());
        break;
      case Statement::Kind::kInstruction:
        instruction(statement);
        break;
    }
  }
  scope_ = parent;
}

void Linker::declare_registers(const Statement& statement) {
  const int bytes = size_of(statement.register_type);
  const auto declare = [&](const std::string& name) {
    Symbol symbol;
    symbol.reg = new_register(name, bytes);
    symbol.bytes = bytes;
    scopes_[scope_].symbols[name] = symbol;
  };
  if (!statement.register_count) declare(statement.name);
  for (uint32_t i = 0; i < statement.register_count; ++i)
    declare(statement.name + std::to_string(i));
}

void Linker::declare_variable(const Function& function, const Statement& statement) {
  const Variable& variable = statement.variable;
  Symbol symbol;
  symbol.kind = Symbol::Kind::kVariable;
  if (variable.space == Space::kShared) {
    symbol = shared_symbols_.at(function.name + "/" + variable.name);
  } else if (variable.space == Space::kLocal || variable.space == Space::kParam) {
    symbol.space = Space::kLocal;
    symbol.address = new_local(variable);
  } else {
    throw LoadError(statement.position.line, "a variable of this space inside a function");
  }
  scopes_[scope_].symbols[variable.name] = symbol;
}

uint64_t Linker::new_local(const Variable& variable) {
  const uint64_t address =
      align_up(kernel_->local_bytes, std::max<uint32_t>(variable.alignment, 8));
  kernel_->local_bytes = static_cast<uint32_t>(address + variable.size_bytes());
  return address;
}

uint32_t Linker::new_register(const std::string& name, int bytes) {
  const uint32_t index = kernel_->register_count();
  kernel_->register_names.push_back(name);
  // 16 bytes per lane fill two places.
  if (bytes == 16) kernel_->register_names.push_back(name);
  return index;
}

uint32_t Linker::constant(uint64_t bits, int bytes) {
  if (bytes && bytes < 8) bits &= (1ull << (8 * bytes)) - 1;
  const auto [place, is_new] = constants_.try_emplace({bits, bytes}, 0);
  if (is_new) {
    place->second = new_register(std::to_string(static_cast<int64_t>(bits)), bytes);
    kernel_->constants.push_back({place->second, bits, bytes});
  }
  return place->second;
}

uint32_t Linker::sink() {
  if (sink_ < 0) sink_ = new_register("_", 16);
  return static_cast<uint32_t>(sink_);
}

bool Linker::find_special(const std::string& name, SpecialRegister& which) {
  for (const SpecialName& special : kSpecials) {
    if (name == special.name) {
      which = special.which;
      return true;
    }
  }
  return false;
}

int Linker::special(const std::string& name) {
  SpecialRegister which;
  if (!find_special(name, which)) return -1;
  const auto [place, is_new] = specials_.try_emplace(name, 0);
  if (is_new) {
    place->second = new_register(name, 4);
    kernel_->specials.push_back({place->second, which});
  }
  return static_cast<int>(place->second);
}

const Symbol* Linker::find(const std::string& name) {
  for (int scope = scope_; scope >= 0; scope = scopes_[scope].parent) {
    const auto found = scopes_[scope].symbols.find(name);
    if (found != scopes_[scope].symbols.end()) return &found->second;
  }
  if (const auto found = shared_symbols_.find(name); found != shared_symbols_.end())
    return &found->second;
  if (const auto found = variables_.find(name); found != variables_.end()) return &found->second;
  return nullptr;
}

// ---- instructions ----

uint32_t Linker::guard_register(const Statement& statement) {
  const Symbol* symbol = find(statement.guard);
  if (!symbol || symbol->kind != Symbol::Kind::kRegister || symbol->bytes)
    throw LoadError(statement.position.line,
                    statement.guard + " is not a predicate: " + statement.text);
  return symbol->reg;
}

Instruction& Linker::append(const Statement& statement) {
  kernel_->code.emplace_back();
  InstructionText text;
  text.position = statement.position;
  text.text = statement.text;
  kernel_->text.push_back(std::move(text));
  return kernel_->code.back();
}

void Linker::instruction(const Statement& statement) {
  if (statement.words[0] == "call") return call(statement);
  const int form = find_form(statement.words);
  if (form < 0) {
    std::string opcode;
    for (const std::string& word : statement.words) opcode += (opcode.empty() ? "" : ".") + word;
    throw LoadError(statement.position.line,
                    "instruction form " + opcode + " is not supported: " + statement.text);
  }
  Instruction& in = append(statement);
  in.pipe = forms()[form].pipe;
  if (!statement.guard.empty()) {
    in.guard = static_cast<int32_t>(guard_register(statement));
    in.guard_negated = statement.guard_negated;
  }
  Builder builder(*this, statement, forms()[form], in);
  forms()[form].build(builder);
  if (in.flow == Flow::kNext && !in.execute) builder.fail("no meaning for this combination");
}

void Linker::branch_to(const std::string& label, int line) {
  fixups_.push_back({kernel_->code.size() - 1, label, scope_, line});
}

// The end of an inlined function is a label that no PTX can contain.
void Linker::branch_to_end() { branch_to("<end>", 0); }

void Linker::resolve_labels() {
  for (const Fixup& fixup : fixups_) {
    int target = -1;
    for (int scope = fixup.scope; scope >= 0 && target < 0; scope = scopes_[scope].parent) {
      const auto found = scopes_[scope].labels.find(fixup.label);
      if (found != scopes_[scope].labels.end()) target = found->second;
    }
    if (target < 0) throw LoadError(fixup.line, "unknown label " + fixup.label);
    kernel_->code[fixup.instruction].target = target;
  }
}

void Linker::call(const Statement& statement) {
  const auto fail = [&](const std::string& message) {
    throw LoadError(statement.position.line, message + ": " + statement.text);
  };
  std::vector<Operand> results, arguments;
  std::string name;
  for (const Operand& operand : statement.operands) {
    if (operand.kind == Operand::Kind::kList)
      (name.empty() ? results : arguments) = operand.parts;
    else if (name.empty())
      name = operand.name;
    else
      fail("calls through a pointer are not supported");
  }
  const auto found = functions_.find(name);
  if (found == functions_.end()) fail("calls through a pointer are not supported");
  const Function& callee = *found->second;

  // A guarded call is a jump around it.
  size_t skip = 0;
  if (!statement.guard.empty()) {
    Instruction& jump = append(statement);
    jump.flow = Flow::kBranch;
    jump.guard = static_cast<int32_t>(guard_register(statement));
    jump.guard_negated = !statement.guard_negated;
    skip = kernel_->code.size();
  }
  if (callee.is_declaration) {
    call_builtin(statement, name, results, arguments);
  } else {
    for (const Function* active : call_stack_)
      if (active == &callee) fail("recursion is not supported");
    if (results.size() != callee.results.size() || arguments.size() != callee.parameters.size())
      fail("the call and " + name + " disagree on the number of parameters");
    Scope scope{{}, {}, -1};
    const auto bind = [&](const std::vector<Operand>& actual, const std::vector<Variable>& formal) {
      for (size_t i = 0; i < actual.size(); ++i) {
        const Symbol* symbol = find(actual[i].name);
        if (!symbol || symbol->kind != Symbol::Kind::kVariable)
          fail("arguments must be .param variables");
        scope.symbols[formal[i].name] = *symbol;
      }
    };
    bind(results, callee.results);
    bind(arguments, callee.parameters);
    const int caller = scope_;
    scopes_.push_back(std::move(scope));
    const int own = scope_ = static_cast<int>(scopes_.size()) - 1;
    call_stack_.push_back(&callee);
    emit(callee);
    call_stack_.pop_back();
    scopes_[own].labels["<end>"] = static_cast<int>(kernel_->code.size());
    scope_ = caller;
  }
  if (skip) kernel_->code[skip - 1].target = static_cast<int>(kernel_->code.size());
}

void Linker::call_builtin(const Statement& statement, const std::string& name,
                          const std::vector<Operand>& results,
                          const std::vector<Operand>& arguments) {
  const auto address = [&](const Operand& operand) {
    const Symbol* symbol = find(operand.name);
    if (!symbol || symbol->kind != Symbol::Kind::kVariable || symbol->space != Space::kLocal)
      throw LoadError(statement.position.line,
                      "arguments must be .param variables: " + statement.text);
    return static_cast<uint32_t>(symbol->address);
  };
  Instruction& in = append(statement);
  in.pipe = Pipe::kControl;
  in.tracks_definedness = true;
  for (size_t i = 0; i < arguments.size() && i < 8; ++i) in.src[i] = address(arguments[i]);
  in.immediate = results.empty() ? -1 : static_cast<int64_t>(address(results[0]));
  if (name == "vprintf" && arguments.size() == 2)
    in.execute = builtins::print;
  else if (name == "__assertfail" && arguments.size() == 5)
    in.execute = builtins::assert_fail;
  else
    throw LoadError(statement.position.line,
                    "function " + name + " has no body and is not built in: " + statement.text);
}

}  // namespace gptoss::emulator
