// Sizes in messages.
#pragma once

#include <cstdint>
#include <string>

#include "core/check.h"

namespace gptoss {

// "13.81 GB".
inline std::string bytes_text(int64_t bytes) {
  struct Unit {
    int64_t bytes;
    const char* name;
  };
  constexpr Unit kUnits[] = {{1'000'000'000, " GB"}, {1'000'000, " MB"}, {1'000, " kB"}};
  for (const Unit& unit : kUnits) {
    if (bytes < unit.bytes / 10) continue;
    const int64_t hundredths = (bytes + unit.bytes / 200) / (unit.bytes / 100);
    return concat(hundredths / 100, ".", hundredths / 10 % 10, hundredths % 10, unit.name);
  }
  return concat(bytes, " bytes");
}

}  // namespace gptoss
