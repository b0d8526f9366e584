// What holds on Windows alone: affinity, and mapped files that others cannot cut.
#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
//
#include <filesystem>
#include <fstream>
#include <string>

#include "core/mapped_file.h"
#include "harness.h"
#include "platform/platform.h"

namespace gptoss::test {
namespace {

GPTOSS_TEST(affinity_bounds_the_cpus) {
  const HANDLE process = GetCurrentProcess();
  DWORD_PTR ours = 0, all = 0;
  GPTOSS_CHECK(GetProcessAffinityMask(process, &ours, &all));
  const DWORD_PTR lowest = ours & (~ours + 1);
  GPTOSS_CHECK(SetProcessAffinityMask(process, lowest));
  const int cpus = platform::usable_cpus();
  GPTOSS_CHECK(SetProcessAffinityMask(process, ours));
  GPTOSS_CHECK(cpus == 1, cpus);
}

GPTOSS_TEST(a_mapped_file_cannot_be_cut) {
  const std::filesystem::path path = std::filesystem::temp_directory_path() /
                                     ("gptoss_mapped_" + std::to_string(platform::process_id()));
  std::ofstream(path, std::ios::binary) << std::string(100000, 'x');
  const std::u8string utf8 = path.u8string();
  const std::string name(utf8.begin(), utf8.end());
  {
    const MappedFile mapped(name);
    const HANDLE file = CreateFileW(path.c_str(), GENERIC_WRITE,
                                    FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, nullptr,
                                    OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
    GPTOSS_CHECK(file != INVALID_HANDLE_VALUE);
    const bool was_cut = SetEndOfFile(file);
    const DWORD error = GetLastError();
    CloseHandle(file);
    GPTOSS_CHECK(!was_cut && error == ERROR_USER_MAPPED_FILE, error);
    mapped.check();
  }
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace gptoss::test
