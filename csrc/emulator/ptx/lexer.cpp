#include "emulator/ptx/lexer.h"

#include <cctype>

#include "emulator/ptx/syntax.h"

namespace gptoss::emulator {
namespace {

bool starts_word(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%';
}
bool in_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$'; }
bool is_digit(char c) { return std::isdigit(static_cast<unsigned char>(c)); }

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  std::vector<Token> tokens;
  const size_t size = source.size();
  size_t at = 0;
  int line = 1;
  const auto peek = [&](size_t ahead) { return at + ahead < size ? source[at + ahead] : '\0'; };
  while (at < size) {
    const char c = source[at];
    if (c == '\n') {
      ++line;
      ++at;
      continue;
    }
    if (std::isspace(static_cast<unsigned char>(c)) || c == '\0') {
      ++at;
      continue;
    }
    if (c == '/' && peek(1) == '/') {
      while (at < size && source[at] != '\n') ++at;
      continue;
    }
    if (c == '/' && peek(1) == '*') {
      const size_t close = source.find("*/", at + 2);
      if (close == std::string_view::npos) throw LoadError(line, "comment without an end");
      for (; at < close + 2; ++at) line += source[at] == '\n';
      continue;
    }
    Token token;
    token.line = line;
    token.begin = at;
    if (starts_word(c)) {
      token.kind = Token::Kind::kWord;
      ++at;
      while (at < size && in_word(source[at])) ++at;
    } else if (is_digit(c)) {
      token.kind = Token::Kind::kNumber;
      ++at;
      // A point continues a number only before a digit, so that "[a+4].x" is no number.
      while (at < size &&
             (in_word(source[at]) || (source[at] == '.' && is_digit(peek(1))) ||
              ((source[at] == '+' || source[at] == '-') && source[token.begin] != '0' &&
               (source[at - 1] == 'e' || source[at - 1] == 'E'))))
        ++at;
    } else if (c == '.' && (std::isalnum(static_cast<unsigned char>(peek(1))) || peek(1) == '_')) {
      token.kind = Token::Kind::kDotted;
      ++at;
      while (at < size && (in_word(source[at]) || (source[at] == ':' && peek(1) == ':')))
        at += source[at] == ':' ? 2 : 1;
      token.text = source.substr(token.begin + 1, at - token.begin - 1);
    } else if (c == '"') {
      token.kind = Token::Kind::kString;
      const size_t close = source.find('"', at + 1);
      if (close == std::string_view::npos) throw LoadError(line, "string without an end");
      at = close + 1;
      token.text = source.substr(token.begin + 1, close - token.begin - 1);
    } else if (std::string_view("{}[]()<>,;:|!@=+-*&").find(c) != std::string_view::npos) {
      token.kind = Token::Kind::kSymbol;
      ++at;
    } else {
      throw LoadError(line, std::string("unexpected character '") + c + "'");
    }
    token.end = at;
    if (token.text.empty() && token.kind != Token::Kind::kString)
      token.text = source.substr(token.begin, at - token.begin);
    tokens.push_back(token);
  }
  Token end;
  end.line = line;
  end.begin = end.end = size;
  tokens.push_back(end);
  return tokens;
}

}  // namespace gptoss::emulator
