// gptoss-emulator: runs a kernel of a PTX file, or says what of the file is not supported.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "emulator/face/describe.h"
#include "emulator/ptx/machine.h"
#include "emulator/ptx/program.h"

namespace {

using namespace gptoss::emulator;

constexpr const char* kUsage = R"(usage:
  gptoss-emulator run FILE.ptx KERNEL [options] [ARGUMENT...]
      ARGUMENT   u32:7 s32:-1 u64:7 f32:0.5 f64:0.5, or a buffer:
                 f32[1000]  random in [-1, 1)      f32[1000]=0.5   every element
                 u8 u16 u32 u64 s32 bf16 f32 f64; random integers are below 2^8
                 out:f32[1000]  never written before the launch; printed after it
      --grid X[,Y[,Z]]  --block X[,Y[,Z]]  --shared BYTES  --seed N  --seeds N  --profile NAME
      --cluster X[,Y[,Z]]  --sms N  --hostile  --cooperative  --no-races  --json
  gptoss-emulator coverage FILE.ptx...
  gptoss-emulator forms
)";

[[noreturn]] void fail(const std::string& message) {
  std::cerr << "gptoss-emulator: " << message << '\n';
  std::exit(2);
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail("cannot read " + path);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

Dim3 parse_dim(const std::string& text) {
  Dim3 d;
  if (std::sscanf(text.c_str(), "%u,%u,%u", &d.x, &d.y, &d.z) < 1) fail("not a size: " + text);
  return d;
}

struct Buffer {
  uint64_t address, count;
  std::string type;
  bool is_output;
};

class Arguments {
 public:
  explicit Arguments(Memory& memory) : memory_(memory) {}

  // The value's bytes.
  uint64_t value(std::string text) {
    const bool is_output = text.rfind("out:", 0) == 0;
    if (is_output) text = text.substr(4);
    const size_t bracket = text.find('[');
    if (bracket != std::string::npos) return buffer(text, bracket, is_output);
    const size_t colon = text.find(':');
    if (colon == std::string::npos) fail("not an argument: " + text);
    return element(text.substr(0, colon), std::strtod(text.c_str() + colon + 1, nullptr),
                   text.substr(colon + 1));
  }

  const std::vector<Buffer>& buffers() const { return buffers_; }

  static int size_of_element(const std::string& type) {
    if (type == "u8") return 1;
    if (type == "u16" || type == "bf16") return 2;
    if (type == "u64" || type == "f64") return 8;
    if (type == "u32" || type == "s32" || type == "f32") return 4;
    fail("unknown type " + type);
  }

 private:
  static uint64_t element(const std::string& type, double number, const std::string& literal) {
    if (type == "f32") return std::bit_cast<uint32_t>(static_cast<float>(number));
    if (type == "f64") return std::bit_cast<uint64_t>(number);
    if (type == "bf16") return std::bit_cast<uint32_t>(static_cast<float>(number)) >> 16;
    size_of_element(type);
    if (literal.empty()) return static_cast<uint64_t>(static_cast<int64_t>(number));
    return static_cast<uint64_t>(std::strtoll(literal.c_str(), nullptr, 0));
  }

  uint64_t buffer(const std::string& text, size_t bracket, bool is_output) {
    const std::string type = text.substr(0, bracket);
    const uint64_t count = std::strtoull(text.c_str() + bracket + 1, nullptr, 0);
    const size_t equals = text.find('=');
    const auto size = static_cast<uint64_t>(size_of_element(type));
    const uint64_t address =
        memory_.allocate(count * size, "argument " + std::to_string(buffers_.size()));
    if (!address) fail("no memory for " + text);
    if (!is_output) {
      std::vector<uint8_t> bytes(count * size);
      std::uniform_real_distribution<double> real(-1, 1);
      const bool is_float = type.find('f') != std::string::npos;
      for (uint64_t i = 0; i < count; ++i) {
        const double number = equals != std::string::npos
                                  ? std::strtod(text.c_str() + equals + 1, nullptr)
                              : is_float ? real(random_)
                                         : static_cast<double>(random_() % 256);
        const uint64_t bits = element(type, number, "");
        std::memcpy(&bytes[i * size], &bits, size);
      }
      memory_.write(address, bytes.data(), bytes.size());
    }
    buffers_.push_back({address, count, type, is_output});
    return address;
  }

  Memory& memory_;
  std::mt19937_64 random_{1};
  std::vector<Buffer> buffers_;
};

void print(Memory& memory, const Buffer& buffer) {
  const auto size = static_cast<uint64_t>(Arguments::size_of_element(buffer.type));
  for (uint64_t i = 0; i < buffer.count; ++i) {
    uint64_t bits = 0;
    memory.read(&bits, buffer.address + i * size, size);
    if (buffer.type == "f32")
      std::printf("%.9g", std::bit_cast<float>(static_cast<uint32_t>(bits)));
    else if (buffer.type == "bf16")
      std::printf("%.9g", std::bit_cast<float>(static_cast<uint32_t>(bits << 16)));
    else if (buffer.type == "f64")
      std::printf("%.17g", std::bit_cast<double>(bits));
    else if (buffer.type == "s32")
      std::printf("%d", static_cast<int32_t>(bits));
    else
      std::printf("%llu", static_cast<unsigned long long>(bits));
    std::putchar(i + 1 == buffer.count ? '\n' : ' ');
  }
}

int run(const std::vector<std::string>& words) {
  if (words.size() < 2) fail(kUsage);
  LaunchOptions options;
  uint64_t seeds = 1;
  bool json = false;
  std::vector<std::string> arguments;
  for (size_t i = 2; i < words.size(); ++i) {
    const std::string& word = words[i];
    const auto next = [&]() -> const std::string& {
      if (i + 1 == words.size()) fail(word + " needs a value");
      return words[++i];
    };
    if (word == "--grid")
      options.grid = parse_dim(next());
    else if (word == "--block")
      options.block = parse_dim(next());
    else if (word == "--cluster")
      options.cluster = parse_dim(next());
    else if (word == "--shared")
      options.dynamic_shared_bytes = static_cast<uint32_t>(std::stoul(next()));
    else if (word == "--seed")
      options.seed = std::stoull(next());
    else if (word == "--seeds")
      seeds = std::stoull(next());
    else if (word == "--sms")
      options.multiprocessors = static_cast<uint32_t>(std::stoul(next()));
    else if (word == "--hostile")
      options.hostile_tensor_cores = true;
    else if (word == "--cooperative")
      options.cooperative = true;
    else if (word == "--no-races")
      options.check_races = false;
    else if (word == "--json")
      json = true;
    else if (word == "--profile") {
      options.profile = find_profile(next());
      if (!options.profile) fail("unknown device profile " + words[i]);
    } else if (word.rfind("--", 0) == 0)
      fail("unknown option " + word);
    else
      arguments.push_back(word);
  }
  const auto memory = std::make_shared<Memory>(16ull << 30);
  const auto module = Module::load(read_file(words[0]), memory);
  const Kernel* kernel = module->find(words[1]);
  if (!kernel) fail("no kernel " + words[1]);
  if (arguments.size() != kernel->parameters.size())
    fail("the kernel takes " + std::to_string(kernel->parameters.size()) + " arguments");
  Arguments values(*memory);
  std::vector<uint8_t> block(kernel->parameter_bytes);
  for (size_t i = 0; i < arguments.size(); ++i) {
    const uint64_t bits = values.value(arguments[i]);
    std::memcpy(&block[kernel->parameters[i].offset], &bits,
                std::min<size_t>(8, kernel->parameters[i].size));
  }
  bool failed = false;
  for (uint64_t n = 0; n < seeds; ++n, ++options.seed) {
    const LaunchResult result = launch(*memory, *kernel, block, options);
    failed = failed || result.has_errors();
    if (json) {
      std::cout << to_json(result) << '\n';
      continue;
    }
    std::cout << result.output;
    for (const Report& report : result.reports) std::cout << report.to_string() << '\n';
    if (result.fault != Fault::kNone) std::cout << "fault: " << name_of(result.fault) << '\n';
    if (n + 1 == seeds) std::cout << to_json(result.counters) << '\n';
  }
  if (!json)
    for (const Buffer& buffer : values.buffers())
      if (buffer.is_output) print(*memory, buffer);
  return failed ? 1 : 0;
}

int coverage(const std::vector<std::string>& files) {
  if (files.empty()) fail(kUsage);
  bool missing = false;
  for (const std::string& file : files) {
    const std::string text = read_file(file);
    const std::string report = coverage_json(text);
    std::cout << file << ": " << report << '\n';
    missing = missing || report.find("\"missing\": {}") == std::string::npos;
    try {
      Module::load(text, std::make_shared<Memory>(1ull << 30));
    } catch (const LoadError& error) {
      std::cout << file << ": " << error.what() << '\n';
      missing = true;
    }
  }
  return missing ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.empty()) fail(kUsage);
  const std::vector<std::string> rest(words.begin() + 1, words.end());
  try {
    if (words[0] == "run") return run(rest);
    if (words[0] == "coverage") return coverage(rest);
    if (words[0] == "forms") {
      std::cout << forms_json() << '\n';
      return 0;
    }
  } catch (const std::exception& error) {
    fail(error.what());
  }
  fail(kUsage);
}
