// Runs the tests. `--checksums FILE` writes the checksums of the kernels' results, the same on all
// machines that have fused multiply-add. An argument without dashes runs the tests whose name
// contains it.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>

#include "harness.h"

#if defined(__x86_64__)
namespace gptoss::cpu {
extern const Kernels kAvxVnniOnAvx2Kernels;
}
#endif

namespace gptoss::test {
namespace {

struct Test {
  const char* name;
  TestFunction function;
};

std::vector<Test>& tests() {
  static std::vector<Test> list;
  return list;
}

// Checksums by name, then by ISA.
std::map<std::string, std::map<std::string, uint64_t>>& checksums() {
  static std::map<std::string, std::map<std::string, uint64_t>> map;
  return map;
}

GPTOSS_TEST(isas_with_fused_multiply_add_give_the_same_bits) {
  for (const auto& [name, by_isa] : checksums()) {
    for (const auto& [isa, checksum] : by_isa) {
      GPTOSS_CHECK(checksum == by_isa.begin()->second, name, ": ", isa, " differs from ",
                   by_isa.begin()->first);
    }
  }
}

}  // namespace

Registration::Registration(const char* name, TestFunction function) {
  tests().push_back({name, function});
}

void set_variable(const char* name, const char* value) {
#if defined(_WIN32)
  _putenv_s(name, value);
#else
  setenv(name, value, 1);
#endif
}

std::vector<const cpu::Kernels*> supported_kernels() {
  std::vector<const cpu::Kernels*> list;
  for (const cpu::Isa& isa : cpu::isas()) {
    if (isa.supported()) list.push_back(isa.kernels);
  }
#if defined(__x86_64__)
  const auto is_avx2 = [](const cpu::Kernels* kernels) { return kernels == &cpu::kAvx2Kernels; };
  if (std::any_of(list.begin(), list.end(), is_avx2)) list.push_back(&cpu::kAvxVnniOnAvx2Kernels);
#endif
  return list;
}

void note_bits(const cpu::Kernels& kernels, const std::string& name,
               std::span<const float> values) {
  if (&kernels == &cpu::kScalarKernels) return;
  constexpr uint64_t kFnvBasis = 0xcbf29ce484222325ull;
  constexpr uint64_t kFnvPrime = 0x100000001b3ull;
  uint64_t& checksum = checksums()[name].try_emplace(kernels.name, kFnvBasis).first->second;
  for (const float value : values) {
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    checksum = (checksum ^ bits) * kFnvPrime;
  }
}

int run(int argc, char** argv) {
  std::string filter;
  std::string checksum_file;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--checksums") == 0 && i + 1 < argc) {
      checksum_file = argv[++i];
    } else {
      filter = argv[i];
    }
  }
  // The comparison of checksums was registered first or last, as the linker pleased; it must come
  // after the tests that note them.
  std::vector<Test> order;
  for (const bool last : {false, true}) {
    for (const Test& test : tests()) {
      const bool compares = std::strncmp(test.name, "isas_with", 9) == 0;
      if (compares == last && std::string(test.name).find(filter) != std::string::npos) {
        order.push_back(test);
      }
    }
  }
  int failed = 0;
  for (const Test& test : order) {
    try {
      test.function();
    } catch (const std::exception& error) {
      ++failed;
      std::printf("FAILED %s\n  %s\n", test.name, error.what());
    }
  }
  if (!checksum_file.empty()) {
    std::ofstream out(checksum_file);
    for (const auto& [name, by_isa] : checksums()) {
      out << name << " " << std::hex << by_isa.begin()->second << "\n";
    }
  }
  std::string names;
  for (const cpu::Kernels* kernels : supported_kernels()) {
    names += (names.empty() ? "" : ", ") + std::string(kernels->name);
  }
  std::printf("ran on %s\n%zu passed, %d failed\n", names.c_str(), order.size() - failed, failed);
  return failed == 0 && !order.empty() ? 0 : 1;
}

}  // namespace gptoss::test

int main(int argc, char** argv) { return gptoss::test::run(argc, argv); }
