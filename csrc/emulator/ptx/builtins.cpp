#include "emulator/ptx/builtins.h"

#include <bit>
#include <cstring>

#include "emulator/ptx/access.h"

namespace gptoss::emulator::builtins {
namespace {

uint64_t parameter(const Warp& warp, uint32_t at, int lane, int bytes) {
  uint64_t value = 0;
  std::memcpy(&value, &warp.local[static_cast<size_t>(lane) * warp.kernel->local_bytes + at],
              static_cast<size_t>(bytes));
  return value;
}

// The place behind a generic address, or null.
const uint8_t* place(Warp& warp, uint64_t address, int lane, uint64_t bytes) {
  switch (resolve(address)) {
    case Space::kLocal:
      if (address + bytes > warp.kernel->local_bytes) return nullptr;
      return &warp.local[static_cast<size_t>(lane) * warp.kernel->local_bytes + address];
    case Space::kGlobal: {
      const Allocation* found = warp.launch->memory.find(address, bytes);
      return found ? found->bytes + (address - found->base) : nullptr;
    }
    default:
      return nullptr;
  }
}

std::string text(Warp& warp, uint64_t address, int lane) {
  std::string out;
  for (;; ++address) {
    const uint8_t* c = place(warp, address, lane, 1);
    if (!c || !*c) return out;
    out += static_cast<char>(*c);
  }
}

// Arguments lie one behind the other, each aligned to its size, small ones promoted.
class Arguments {
 public:
  Arguments(Warp& warp, uint64_t address, int lane) : warp_(warp), address_(address), lane_(lane) {}
  uint64_t take(uint64_t bytes) {
    address_ = (address_ + bytes - 1) / bytes * bytes;
    uint64_t value = 0;
    if (const uint8_t* p = place(warp_, address_, lane_, bytes)) std::memcpy(&value, p, bytes);
    address_ += bytes;
    return value;
  }

 private:
  Warp& warp_;
  uint64_t address_;
  int lane_;
};

std::string format(Warp& warp, const std::string& pattern, Arguments arguments, int lane) {
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '%') {
      out += pattern[i];
      continue;
    }
    if (i + 1 < pattern.size() && pattern[i + 1] == '%') {
      out += '%';
      ++i;
      continue;
    }
    std::string spec = "%";
    int longs = 0;
    for (++i; i < pattern.size(); ++i) {
      const char c = pattern[i];
      if (c == 'l' || c == 'z' || c == 'j' || c == 't') {
        longs += c == 'l' ? 1 : 2;
        continue;
      }
      if (c == 'h') continue;
      if (c == '*') {
        spec += std::to_string(static_cast<int32_t>(arguments.take(4)));
        continue;
      }
      if (std::strchr("0123456789.+- #", c)) {
        spec += c;
        continue;
      }
      char buffer[128] = "";
      if (std::strchr("di", c)) {
        const uint64_t raw = arguments.take(longs ? 8 : 4);
        const long long value = longs ? static_cast<int64_t>(raw) : static_cast<int32_t>(raw);
        std::snprintf(buffer, sizeof buffer, (spec + "lld").c_str(), value);
      } else if (std::strchr("uxXo", c)) {
        std::snprintf(buffer, sizeof buffer, (spec + "ll" + c).c_str(),
                      static_cast<unsigned long long>(arguments.take(longs ? 8 : 4)));
      } else if (std::strchr("fFeEgGaA", c)) {
        std::snprintf(buffer, sizeof buffer, (spec + c).c_str(),
                      std::bit_cast<double>(arguments.take(8)));
      } else if (c == 'c') {
        std::snprintf(buffer, sizeof buffer, (spec + c).c_str(),
                      static_cast<int>(arguments.take(4)));
      } else if (c == 'p') {
        std::snprintf(buffer, sizeof buffer, "0x%llx",
                      static_cast<unsigned long long>(arguments.take(8)));
      } else if (c == 's') {
        out += text(warp, arguments.take(8), lane);
      }
      out += buffer;
      break;
    }
  }
  return out;
}

}  // namespace

void print(Warp& warp, const Instruction& in, uint32_t mask) {
  for (uint32_t rest = mask; rest; rest &= rest - 1) {
    const int lane = std::countr_zero(rest);
    const std::string pattern = text(warp, parameter(warp, in.src[0], lane, 8), lane);
    const Arguments arguments(warp, parameter(warp, in.src[1], lane, 8), lane);
    const std::string line = format(warp, pattern, arguments, lane);
    warp.launch->result.output += line;
    if (in.immediate >= 0) {
      const auto result = static_cast<int32_t>(line.size());
      const auto at = static_cast<size_t>(in.immediate);
      std::memcpy(&warp.local[static_cast<size_t>(lane) * warp.kernel->local_bytes + at], &result,
                  4);
      for (size_t i = 0; i < 4; ++i) warp.local_written[at + i] |= 1u << lane;
    }
  }
}

void assert_fail(Warp& warp, const Instruction& in, uint32_t mask) {
  const int lane = std::countr_zero(mask);
  const std::string message = text(warp, parameter(warp, in.src[0], lane, 8), lane);
  const std::string file = text(warp, parameter(warp, in.src[1], lane, 8), lane);
  const auto line = static_cast<uint32_t>(parameter(warp, in.src[2], lane, 4));
  const std::string function = text(warp, parameter(warp, in.src[3], lane, 8), lane);
  warp.launch->report(ReportClass::kAssert, warp, lane,
                      "assertion `" + message + "` failed in " + function + " at " + file + ":" +
                          std::to_string(line));
  throw LaunchFault{Fault::kAssert};
}

}  // namespace gptoss::emulator::builtins
