// Tokens of a module to Syntax.
#include <bit>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "emulator/ptx/lexer.h"
#include "emulator/ptx/syntax.h"

namespace gptoss::emulator {
namespace {

class Parser {
 public:
  explicit Parser(std::string_view source) : source_(source), tokens_(tokenize(source)) {}

  Syntax module() {
    while (peek().kind != Token::Kind::kEnd) top_level();
    if (syntax_.version_major == 0) throw LoadError(1, "no .version: this is not PTX");
    return std::move(syntax_);
  }

 private:
  const Token& peek(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  const Token& next() {
    const Token& token = peek();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool is_symbol(char c, size_t ahead = 0) const {
    return peek(ahead).kind == Token::Kind::kSymbol && peek(ahead).text[0] == c;
  }
  bool accept(char c) {
    if (!is_symbol(c)) return false;
    next();
    return true;
  }
  void expect(char c) {
    if (!accept(c))
      fail(std::string("expected '") + c + "', found '" + std::string(peek().text) + "'");
  }
  [[noreturn]] void fail(const std::string& message) const {
    throw LoadError(peek().line, message);
  }

  Position here() const {
    Position position = location_;
    position.line = peek().line;
    return position;
  }

  std::string word() {
    if (peek().kind != Token::Kind::kWord)
      fail("expected a name, found '" + std::string(peek().text) + "'");
    return std::string(next().text);
  }

  // ---- numbers ----
  struct Number {
    uint64_t bits = 0;
    int float_bytes = 0;
  };

  Number number_token() {
    const Token& token = next();
    std::string text(token.text);
    Number out;
    if (text.size() == 10 && text[0] == '0' && (text[1] == 'f' || text[1] == 'F')) {
      out.bits = std::strtoull(text.c_str() + 2, nullptr, 16);
      out.float_bytes = 4;
      return out;
    }
    if (text.size() == 18 && text[0] == '0' && (text[1] == 'd' || text[1] == 'D')) {
      out.bits = std::strtoull(text.c_str() + 2, nullptr, 16);
      out.float_bytes = 8;
      return out;
    }
    char* end = nullptr;
    const bool is_hex = text.size() > 1 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    const bool is_binary = text.size() > 1 && text[0] == '0' && (text[1] == 'b' || text[1] == 'B');
    if (!is_hex && text.find_first_of(".eE") != std::string::npos) {
      const double value = std::strtod(text.c_str(), &end);
      out.bits = std::bit_cast<uint64_t>(value);
      out.float_bytes = 8;
    } else if (is_binary) {
      out.bits = std::strtoull(text.c_str() + 2, &end, 2);
    } else {
      out.bits = std::strtoull(text.c_str(), &end, 0);
      if (*end == 'U') ++end;
    }
    if (end && *end) throw LoadError(token.line, "not a number: " + text);
    return out;
  }

  Number number() {
    // "[a+-4]" is how an offset below zero is written.
    accept('+');
    const bool minus = accept('-');
    if (peek().kind != Token::Kind::kNumber)
      fail("expected a number, found '" + std::string(peek().text) + "'");
    Number value = number_token();
    if (minus) {
      if (value.float_bytes == 4)
        value.bits ^= 1ull << 31;
      else if (value.float_bytes == 8)
        value.bits ^= 1ull << 63;
      else
        value.bits = 0 - value.bits;
    }
    return value;
  }

  uint64_t integer() {
    const Number value = number();
    if (value.float_bytes) fail("expected an integer");
    return value.bits;
  }

  // ---- module ----
  void top_level() {
    const Token& token = peek();
    if (token.kind != Token::Kind::kDotted) {
      if (accept(';')) return;
      fail("unexpected '" + std::string(token.text) + "' outside a function");
    }
    const std::string directive(token.text);
    if (directive == "version") {
      next();
      const std::string text(next().text);
      const size_t point = text.find('.');
      if (point == std::string::npos) fail(".version needs major.minor");
      syntax_.version_major = std::atoi(text.c_str());
      syntax_.version_minor = std::atoi(text.c_str() + point + 1);
    } else if (directive == "target") {
      next();
      syntax_.target = word();
      while (accept(',')) word();
    } else if (directive == "address_size") {
      next();
      if (integer() != 64) fail("only .address_size 64 is supported");
    } else if (directive == "file") {
      file();
    } else if (directive == "loc") {
      loc();
    } else if (directive == "section") {
      skip_section();
    } else if (directive == "pragma") {
      next();
      while (!accept(';')) next();
    } else {
      linked();
    }
  }

  void file() {
    next();
    const int index = static_cast<int>(integer());
    if (peek().kind != Token::Kind::kString) fail(".file needs a name");
    syntax_.files[index] = std::string(next().text);
    while (accept(',')) integer();
  }

  void loc() {
    next();
    location_.file = static_cast<int>(integer());
    location_.source_line = static_cast<int>(integer());
    integer();
    // Inlined code: ", function_name LABEL[+n], inlined_at FILE LINE COLUMN". The innermost line
    // is the one to name.
    while (is_symbol(',')) {
      next();
      const std::string what = word();
      if (what == "function_name") {
        word();
        if (accept('+')) integer();
      } else if (what == "inlined_at") {
        integer();
        integer();
        integer();
      } else {
        fail("unknown attribute of .loc: " + what);
      }
    }
  }

  void skip_section() {
    next();
    while (!is_symbol('{')) next();
    int depth = 0;
    do {
      if (peek().kind == Token::Kind::kEnd) fail(".section without an end");
      if (is_symbol('{')) ++depth;
      if (is_symbol('}')) --depth;
      next();
    } while (depth);
  }

  // A variable or a function, with its linking directives.
  void linked() {
    const Position position = here();
    bool is_external = false;
    for (;;) {
      const std::string text(peek().text);
      if (peek().kind != Token::Kind::kDotted) fail("unexpected '" + text + "'");
      if (text == "extern") {
        is_external = true;
      } else if (text != "visible" && text != "weak" && text != "common") {
        break;
      }
      next();
    }
    const std::string text(peek().text);
    if (text == "entry" || text == "func") {
      function(text == "entry", is_external, position);
    } else if (text == "global" || text == "const" || text == "shared") {
      Variable variable = declaration();
      variable.is_external = is_external;
      variable.position = position;
      syntax_.variables.push_back(std::move(variable));
      expect(';');
    } else {
      fail("unsupported directive ." + text);
    }
  }

  static bool parse_space(std::string_view text, Space& space) {
    if (text == "global")
      space = Space::kGlobal;
    else if (text == "const")
      space = Space::kConst;
    else if (text == "shared")
      space = Space::kShared;
    else if (text == "local")
      space = Space::kLocal;
    else if (text == "param")
      space = Space::kParam;
    else
      return false;
    return true;
  }

  // .space .align n .type name[count] = {...}, without the final ';' or ','.
  Variable declaration() {
    Variable variable;
    variable.position = here();
    bool has_type = false, has_alignment = false;
    while (peek().kind == Token::Kind::kDotted) {
      const std::string text(next().text);
      if (text == "align") {
        variable.alignment = static_cast<uint32_t>(integer());
        has_alignment = true;
      } else if (text == "ptr") {
        // .ptr[.space][.align n] tells of what a pointer points to: nothing to lay out.
        while (peek().kind == Token::Kind::kDotted) {
          if (next().text == "align") integer();
        }
      } else if (text == "attribute") {
        fail(".attribute is not supported");
      } else if (Space space; parse_space(text, space)) {
        variable.space = space;
      } else if (const Type type = parse_type(text); type != Type::kNone) {
        variable.type = type;
        has_type = true;
      } else {
        fail("unsupported directive ." + text);
      }
    }
    if (!has_type) fail("a variable needs a type");
    if (!has_alignment) variable.alignment = static_cast<uint32_t>(size_of(variable.type));
    variable.name = word();
    while (accept('[')) {
      variable.count *= is_symbol(']') ? 0 : integer();
      expect(']');
    }
    if (accept('=')) {
      if (accept('{')) {
        while (!accept('}')) {
          initial(variable);
          if (!is_symbol('}')) expect(',');
        }
      } else {
        initial(variable);
      }
      if (variable.count == 0) variable.count = variable.initial.size();
      if (variable.initial.size() > variable.count) fail("more values than elements");
    }
    return variable;
  }

  void initial(Variable& variable) {
    Variable::Initial value;
    if (is_symbol('{')) fail("nested initialisers are not supported");
    if (peek().kind == Token::Kind::kWord) {
      value.symbol = word();
      if (accept('(')) {
        if (value.symbol != "generic") fail("unsupported initialiser " + value.symbol + "(...)");
        value.symbol = word();
        expect(')');
      }
      if (accept('+')) value.bits = integer();
    } else {
      const Number literal = number();
      value.bits = literal.bits;
      value.bytes = literal.float_bytes;
      if (variable.type == Type::kF32 && value.bytes == 8)
        value.bits = std::bit_cast<uint32_t>(static_cast<float>(std::bit_cast<double>(value.bits)));
    }
    variable.initial.push_back(std::move(value));
  }

  std::vector<Variable> parameter_list() {
    std::vector<Variable> list;
    expect('(');
    while (!accept(')')) {
      Variable variable = declaration();
      if (variable.space != Space::kParam) fail("parameters must be in .param space");
      list.push_back(std::move(variable));
      if (!is_symbol(')')) expect(',');
    }
    return list;
  }

  void function(bool is_entry, bool is_external, const Position& position) {
    next();
    Function function;
    function.position = position;
    function.is_entry = is_entry;
    if (!is_entry && is_symbol('(')) function.results = parameter_list();
    function.name = word();
    if (is_symbol('(')) function.parameters = parameter_list();
    while (peek().kind == Token::Kind::kDotted) {
      const std::string text(peek().text);
      if (text == "noreturn") {
        next();
      } else if (text == "maxntid" || text == "reqntid" || text == "reqnctapercluster") {
        next();
        Dim3 size{static_cast<uint32_t>(integer()), 1, 1};
        if (accept(',')) size.y = static_cast<uint32_t>(integer());
        if (accept(',')) size.z = static_cast<uint32_t>(integer());
        if (text == "reqnctapercluster") {
          function.required_cluster = size;
          continue;
        }
        if (text == "reqntid") function.required_threads = size;
        function.max_threads = static_cast<uint32_t>(size.count());
      } else if (text == "maxnreg") {
        next();
        function.max_registers = static_cast<uint32_t>(integer());
      } else if (text == "minnctapersm") {
        next();
        function.min_ctas = static_cast<uint32_t>(integer());
      } else if (text == "explicitcluster") {
        next();  // the launch must have clusters: as .reqnctapercluster says, or of one CTA
      } else if (text == "maxclusterrank") {
        next();
        function.max_cluster = static_cast<uint32_t>(integer());
      } else if (text == "pragma") {
        next();
        while (!accept(';')) next();
      } else {
        fail("unsupported directive ." + text + " of a function");
      }
    }
    if (accept(';') || (is_external && !is_symbol('{'))) {
      function.is_declaration = true;
    } else {
      location_ = Position{};
      body(function);
    }
    syntax_.functions.push_back(std::move(function));
  }

  // ---- bodies ----
  void body(Function& function) {
    expect('{');
    int depth = 1;
    while (depth) {
      const Token& token = peek();
      if (token.kind == Token::Kind::kEnd) fail("function " + function.name + " has no end");
      Statement statement;
      statement.position = here();
      if (is_symbol('{') || is_symbol('}')) {
        const bool opens = accept('{');
        if (!opens) next();
        depth += opens ? 1 : -1;
        if (!depth) break;
        statement.kind = opens ? Statement::Kind::kOpen : Statement::Kind::kClose;
        function.body.push_back(std::move(statement));
      } else if (accept(';')) {
        continue;
      } else if (token.kind == Token::Kind::kDotted) {
        directive(function, statement);
      } else if (token.kind == Token::Kind::kWord && is_symbol(':', 1)) {
        statement.kind = Statement::Kind::kLabel;
        statement.name = word();
        next();
        function.body.push_back(std::move(statement));
      } else {
        instruction(statement);
        function.body.push_back(std::move(statement));
      }
    }
  }

  void directive(Function& function, Statement& statement) {
    const std::string text(peek().text);
    if (text == "loc") return loc();
    if (text == "file") return file();
    if (text == "pragma") {
      while (!accept(';')) next();
      return;
    }
    if (text == "reg") {
      next();
      registers(function, statement);
      return;
    }
    Space space;
    if (parse_space(text, space)) {
      do {
        statement.kind = Statement::Kind::kVariable;
        statement.variable = declaration();
        function.body.push_back(statement);
      } while (accept(','));
      expect(';');
      return;
    }
    fail("unsupported directive ." + text + " in a function");
  }

  void registers(Function& function, Statement& statement) {
    statement.kind = Statement::Kind::kRegisters;
    if (peek().kind != Token::Kind::kDotted) fail(".reg needs a type");
    statement.register_type = parse_type(peek().text);
    // A pair of floats is a type of instructions only; its registers are .b64.
    if (statement.register_type == Type::kNone || statement.register_type == Type::kF32x2)
      fail("unsupported register type ." + std::string(peek().text));
    next();
    do {
      statement.name = word();
      statement.register_count = 0;
      if (accept('<')) {
        statement.register_count = static_cast<uint32_t>(integer());
        expect('>');
      }
      function.body.push_back(statement);
    } while (accept(','));
    expect(';');
  }

  void instruction(Statement& statement) {
    const size_t begin = peek().begin;
    if (accept('@')) {
      statement.guard_negated = accept('!');
      statement.guard = word();
    }
    statement.words.push_back(word());
    while (peek().kind == Token::Kind::kDotted) statement.words.emplace_back(next().text);
    while (!is_symbol(';')) {
      statement.operands.push_back(operand());
      if (!is_symbol(';')) expect(',');
    }
    const size_t end = peek().end;
    next();
    statement.text = one_line(source_.substr(begin, end - begin));
  }

  static std::string one_line(std::string_view text) {
    std::string out;
    for (const char c : text) {
      const bool space = c == ' ' || c == '\n' || c == '\t' || c == '\r';
      if (!space)
        out += c;
      else if (!out.empty() && out.back() != ' ')
        out += ' ';
    }
    return out;
  }

  Operand operand() {
    Operand out;
    if (accept('{')) {
      out.kind = Operand::Kind::kVector;
      list(out, '}');
      return out;
    }
    if (accept('(')) {
      out.kind = Operand::Kind::kList;
      list(out, ')');
      return out;
    }
    if (accept('[')) return address();
    out.negated = accept('!');
    if (peek().kind == Token::Kind::kWord) {
      out.name = word();
      // %tid.x: the only names with a point in them are special registers.
      if (out.name[0] == '%' && peek().kind == Token::Kind::kDotted) {
        out.name += '.';
        out.name += next().text;
      }
      if (accept('|')) out.pair = word();
      // Address of a variable plus a constant.
      if (is_symbol('+') || (is_symbol('-') && peek(1).kind == Token::Kind::kNumber))
        out.offset = static_cast<int64_t>(integer());
      return out;
    }
    const Number value = number();
    out.kind = value.float_bytes ? Operand::Kind::kFloat : Operand::Kind::kInteger;
    out.bits = value.bits;
    out.float_bytes = value.float_bytes;
    return out;
  }

  void list(Operand& out, char close) {
    while (!accept(close)) {
      out.parts.push_back(operand());
      if (!is_symbol(close)) expect(',');
    }
  }

  // [base], [base+offset], [base, {coordinates}] after the '['.
  Operand address() {
    Operand out;
    out.kind = Operand::Kind::kAddress;
    do {
      Operand part = operand();
      if (out.parts.empty()) {
        out.offset = part.offset;
        part.offset = 0;
      }
      out.parts.push_back(std::move(part));
    } while (accept(','));
    expect(']');
    return out;
  }

  std::string_view source_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  Position location_;
  Syntax syntax_;
};

}  // namespace

Syntax parse(std::string_view text) { return Parser(text).module(); }

}  // namespace gptoss::emulator
