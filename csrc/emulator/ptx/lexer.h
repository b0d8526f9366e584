// Words of PTX.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace gptoss::emulator {

struct Token {
  enum class Kind : unsigned char {
    kWord,    // identifier or register: foo, %r1, $L__BB0_1
    kDotted,  // .global, .shared::cta (text without the dot)
    kNumber,  // 12, 0x1f, 0f3f800000, 1.5
    kString,  // "..." (text without the quotes)
    kSymbol,  // one character
    kEnd
  };
  Kind kind = Kind::kEnd;
  std::string_view text;
  int line = 0;
  size_t begin = 0, end = 0;  // in the source
};

// Throws LoadError on a character that PTX does not know.
std::vector<Token> tokenize(std::string_view source);

}  // namespace gptoss::emulator
