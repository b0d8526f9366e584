#include "emulator/ptx/builder.h"

#include <bit>

#include "emulator/ptx/linker.h"

namespace gptoss::emulator {

bool Builder::has(std::string_view modifier) const {
  for (size_t i = 1; i < statement_.words.size(); ++i)
    if (statement_.words[i] == modifier) return true;
  return false;
}

int Builder::which(std::initializer_list<std::string_view> names) const {
  int index = 0;
  for (const std::string_view name : names) {
    if (has(name)) return index;
    ++index;
  }
  return -1;
}

size_t Builder::vector_size(size_t operand) const {
  const Operand& o = statement_.operands.at(operand);
  return o.kind == Operand::Kind::kVector ? o.parts.size() : 1;
}

void Builder::fail(const std::string& message) const {
  throw LoadError(statement_.position.line, message + ": " + statement_.text);
}

void Builder::execute(Execute handler) {
  if (!handler) fail("no meaning for this combination of types");
  in.execute = handler;
}

void Builder::read_types() {
  for (size_t i = 1; i < statement_.words.size(); ++i)
    if (const Type type = parse_type(statement_.words[i]); type != Type::kNone)
      types_.push_back(type);
  if (types_.empty()) return;
  in.type = types_.back();
  in.type2 = types_.front();
}

void Builder::operands() {
  size_t at = 0;
  std::string_view rest = form_.operands;
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    std::string_view spec = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
    const bool optional = spec[0] == '?';
    if (optional) spec.remove_prefix(1);
    if (at >= statement_.operands.size()) {
      if (!optional) fail("too few operands");
      continue;
    }
    one(spec, statement_.operands[at++]);
  }
  if (at < statement_.operands.size()) fail("too many operands");
}

void Builder::one(std::string_view spec, const Operand& operand) {
  const bool destination = spec[0] == '=';
  if (destination) spec.remove_prefix(1);
  const bool may_negate = spec[0] == '!';
  if (may_negate) spec.remove_prefix(1);
  const bool vector = spec[0] == 'V';
  if (vector) spec.remove_prefix(1);
  const bool pair = spec.ends_with("|P");
  if (pair) spec.remove_suffix(2);
  const bool wider = spec.ends_with('~');
  if (wider) spec.remove_suffix(1);

  if (spec == "M") return address(operand);
  if (spec == "N") {
    if (operand.kind != Operand::Kind::kInteger) fail("expected an integer constant");
    in.immediate = static_cast<int64_t>(operand.bits);
    return;
  }
  if (operand.negated && !may_negate) fail("! is not possible here");
  Type type = Type::kNone;
  int bytes = 0;
  switch (spec[0]) {
    case 'T':
      type = in.type;
      bytes = size_of(type);
      break;
    case 'S':
      type = in.type2;
      bytes = size_of(type);
      break;
    case 'W':
      bytes = 2 * size_of(in.type);
      break;
    case 'P':
      type = Type::kPred;
      break;
    default:
      bytes = spec[0] - '0';
  }
  if (operand.kind == Operand::Kind::kVector) {
    if (!vector) fail("unexpected vector operand");
    for (const Operand& part : operand.parts)
      destination ? this->destination(part, bytes, wider) : source(part, type, bytes, wider);
    return;
  }
  if (destination) {
    this->destination(operand, bytes, wider);
    if (!operand.pair.empty()) {
      if (!pair) fail("unexpected second destination");
      Operand second;
      second.name = operand.pair;
      this->destination(second, 0, false);
    }
    return;
  }
  if (operand.negated) in.negated |= static_cast<uint16_t>(1u << in.sources);
  source(operand, type, bytes, wider);
}

void Builder::destination(const Operand& operand, int bytes, bool wider) {
  if (in.destinations == kMaxDestinations) fail("too many destinations");
  uint32_t& out = in.dst[in.destinations++];
  if (operand.kind != Operand::Kind::kName) fail("expected a register");
  if (operand.name == "_") {
    out = linker_.sink();
    if (!in.register_bytes) in.register_bytes = static_cast<uint8_t>(bytes);
    return;
  }
  const Symbol* symbol = linker_.find(operand.name);
  if (!symbol || symbol->kind != Symbol::Kind::kRegister) fail("unknown register " + operand.name);
  check_width(operand.name, symbol->bytes, bytes, wider);
  out = symbol->reg;
}

void Builder::check_width(const std::string& name, int have, int want, bool wider) {
  if (have != want && !(wider && have > want && want))
    fail("register " + name + " is " + std::to_string(8 * have) +
         " bits wide, the instruction is " + std::to_string(8 * want));
  if (!wider) return;
  if (in.register_bytes && in.register_bytes != have)
    fail("registers of different widths in one vector");
  in.register_bytes = static_cast<uint8_t>(have);
}

uint64_t Builder::literal(const Operand& operand, Type type, int bytes) const {
  if (type == Type::kF32x2) fail("a pair of floats cannot be a constant");
  if (operand.kind == Operand::Kind::kFloat) {
    const bool to_double = type == Type::kF64 || (!is_float(type) && bytes == 8);
    if (bytes != 4 && bytes != 8) fail("a float constant does not fit here");
    if (operand.float_bytes == 8 && !to_double)
      return std::bit_cast<uint32_t>(static_cast<float>(std::bit_cast<double>(operand.bits)));
    if (operand.float_bytes == 4 && to_double)
      return std::bit_cast<uint64_t>(
          static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(operand.bits))));
    return operand.bits;
  }
  if (type == Type::kF32 || type == Type::kF64) fail("an integer constant for a float");
  return operand.bits;
}

void Builder::source(const Operand& operand, Type type, int bytes, bool wider) {
  if (in.sources == kMaxSources) fail("too many sources");
  in.src[in.sources] = source_register(operand, type, bytes, wider);
  ++in.sources;
}

uint32_t Builder::source_register(const Operand& operand, Type type, int bytes, bool wider) {
  if (operand.kind == Operand::Kind::kInteger || operand.kind == Operand::Kind::kFloat) {
    if (wider && !in.register_bytes) in.register_bytes = static_cast<uint8_t>(bytes);
    const int width = wider && in.register_bytes ? in.register_bytes : bytes;
    return linker_.constant(literal(operand, type, bytes), width);
  }
  if (operand.kind != Operand::Kind::kName) fail("unexpected operand");
  if (const Symbol* symbol = linker_.find(operand.name)) {
    if (symbol->kind == Symbol::Kind::kRegister) {
      check_width(operand.name, symbol->bytes, bytes, wider);
      return symbol->reg;
    }
    if (bytes != 4 && bytes != 8) fail("an address does not fit here");
    return linker_.constant(symbol->address + static_cast<uint64_t>(operand.offset), bytes);
  }
  if (operand.name == "WARP_SZ") return linker_.constant(kLanes, bytes);
  const int special = linker_.special(operand.name);
  if (special < 0) fail("unknown operand " + operand.name);
  if (bytes != 4) fail("special register " + operand.name + " has 32 bits");
  return static_cast<uint32_t>(special);
}

void Builder::address(const Operand& operand) {
  if (operand.kind != Operand::Kind::kAddress) fail("expected an address in brackets");
  if (operand.parts.size() != 1) fail("unsupported address");
  const bool second = addresses_++ > 0;
  int32_t& reg = second ? in.address2 : in.address;
  uint8_t& bytes = second ? in.address2_bytes : in.address_bytes;
  int64_t& offset = second ? in.offset2 : in.offset;
  Space& space = second ? in.space2 : in.space;
  const Operand& base = operand.parts[0];
  offset = operand.offset;
  if (base.kind == Operand::Kind::kInteger) {
    offset += static_cast<int64_t>(base.bits);
    return;
  }
  const Symbol* symbol = linker_.find(base.name);
  if (!symbol) fail("unknown address " + base.name);
  if (symbol->kind == Symbol::Kind::kRegister) {
    reg = static_cast<int32_t>(symbol->reg);
    bytes = static_cast<uint8_t>(symbol->bytes);
    const bool must_be_long = space == Space::kGlobal || space == Space::kGeneric;
    if (bytes != 8 && (bytes != 4 || must_be_long)) fail("an address register of the wrong width");
    return;
  }
  offset += static_cast<int64_t>(symbol->address);
  if (space == Space::kParam && symbol->space == Space::kLocal) {
    space = Space::kLocal;  // parameters of a call
  } else if (space == Space::kGeneric) {
    if (symbol->space == Space::kShared) offset += static_cast<int64_t>(kSharedWindow);
    if (symbol->space == Space::kLocal) offset += static_cast<int64_t>(kLocalWindow);
    if (symbol->space == Space::kParam) offset += static_cast<int64_t>(kParamWindow);
  } else if (space == Space::kSharedCluster && symbol->space == Space::kShared) {
    // the block's own
  } else if (space != symbol->space) {
    fail(base.name + " is in another state space");
  }
}

}  // namespace gptoss::emulator
