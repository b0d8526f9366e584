#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
//
#include <algorithm>
#include <bit>
#include <cstddef>
#include <limits>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "platform/cores.h"
#include "platform/platform.h"

namespace gptoss::platform {
namespace {

[[noreturn]] void fail(DWORD error) {
  throw std::system_error(static_cast<int>(error), std::system_category());
}

void* address_of(const std::atomic<uint32_t>& word) {
  return const_cast<std::atomic<uint32_t>*>(&word);
}

std::wstring wide(const std::string& text) {
  const int size = static_cast<int>(text.size());
  const int length =
      MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text.data(), size, nullptr, 0);
  if (size != 0 && length == 0) fail(GetLastError());
  std::wstring result(static_cast<size_t>(length), L'\0');
  MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text.data(), size, result.data(), length);
  return result;
}

int64_t size_of(HANDLE file) {
  LARGE_INTEGER size{};
  if (!GetFileSizeEx(file, &size)) fail(GetLastError());
  return size.QuadPart;
}

// CPUs of each core that this process may use. All of them count where it runs in several groups of
// processors, of 64 each: the mask is then of one of them, or zero.
std::vector<int> cpus_of_cores() {
  const HANDLE process = GetCurrentProcess();
  DWORD_PTR ours = 0, all = 0;
  USHORT n_groups = 1, group = 0;
  const bool in_several_groups = !GetProcessGroupAffinity(process, &n_groups, &group) &&
                                 GetLastError() == ERROR_INSUFFICIENT_BUFFER;
  const bool in_one_group =
      !in_several_groups && GetProcessAffinityMask(process, &ours, &all) && ours != 0;
  DWORD size = 0;
  GetLogicalProcessorInformationEx(RelationProcessorCore, nullptr, &size);
  const auto bytes = std::make_unique<std::byte[]>(size);
  const auto at = [&](DWORD offset) {
    return reinterpret_cast<SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX*>(bytes.get() + offset);
  };
  std::vector<int> counts;
  if (!GetLogicalProcessorInformationEx(RelationProcessorCore, at(0), &size)) return counts;
  for (DWORD offset = 0; offset < size; offset += at(offset)->Size) {
    const PROCESSOR_RELATIONSHIP& core = at(offset)->Processor;
    int count = 0;
    for (WORD i = 0; i < core.GroupCount; ++i) {
      const GROUP_AFFINITY& cpus = core.GroupMask[i];
      if (!in_one_group) count += std::popcount(cpus.Mask);
      if (in_one_group && cpus.Group == group) count += std::popcount(cpus.Mask & ours);
    }
    counts.push_back(count);
  }
  return counts;
}

// A mapped file cannot be cut on Windows, nor replaced while it is open, unless everybody who opens
// it agrees; so it stays whole but for a disk that fails.
class WindowsFileMapping final : public FileMapping {
 public:
  explicit WindowsFileMapping(const std::string& path) {
    constexpr DWORD kSharedWith = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
    file_ = CreateFileW(wide(path).c_str(), GENERIC_READ, kSharedWith, nullptr, OPEN_EXISTING,
                        FILE_ATTRIBUTE_NORMAL, nullptr);
    if (file_ == INVALID_HANDLE_VALUE) fail(GetLastError());
    try {
      size_bytes_ = size_of(file_);
      if (size_bytes_ != 0) map();
    } catch (...) {
      CloseHandle(file_);
      throw;
    }
  }

  ~WindowsFileMapping() override {
    if (data_ != nullptr) UnmapViewOfFile(data_);
    CloseHandle(file_);
  }

  State state(int64_t& size_now) const override {
    LARGE_INTEGER size{};
    size_now = GetFileSizeEx(file_, &size) ? size.QuadPart : size_bytes_;
    return size_now < size_bytes_ ? State::shorter : State::whole;
  }

 private:
  void map() {
    const HANDLE section = CreateFileMappingW(file_, nullptr, PAGE_READONLY, 0, 0, nullptr);
    if (section == nullptr) fail(GetLastError());
    data_ = static_cast<const uint8_t*>(MapViewOfFile(section, FILE_MAP_READ, 0, 0, 0));
    const DWORD error = GetLastError();
    CloseHandle(section);  // the view keeps it
    if (data_ == nullptr) fail(error);
  }

  HANDLE file_ = INVALID_HANDLE_VALUE;
};

}  // namespace

void wait(const std::atomic<uint32_t>& word, uint32_t old) {
  WaitOnAddress(address_of(word), &old, sizeof old, INFINITE);
}

void wake_all(const std::atomic<uint32_t>& word) { WakeByAddressAll(address_of(word)); }

void* open_library(const char* name) { return LoadLibraryA(name); }
void* find_symbol(void* library, const char* name) {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
}

int64_t process_id() { return GetCurrentProcessId(); }

void at_fork(void (*)(), void (*)(), void (*)()) {}

int usable_cpus() {
  int n_cores = 0, n_cpus = 0;
  for (const int cpus : cpus_of_cores()) {
    n_cpus += cpus;
    if (cpus != 0) ++n_cores;
  }
  if (n_cpus == 0) n_cpus = static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, threads_for_cores(n_cores, n_cpus));
}

bool has_arm_dot_products() {
  constexpr DWORD kDotProduct = 43;  // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
  return IsProcessorFeaturePresent(kDotProduct) != 0;
}

// A Windows that does not know the number says no.
bool has_arm_matrix_products() {
  constexpr DWORD kI8mm = 66;  // PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE
  return IsProcessorFeaturePresent(kI8mm) != 0;
}

// Windows 11 gives the tiles to a process that asks; looked up, as older ones lack the call.
bool request_amx_tiles() {
  constexpr DWORD64 kTileData = DWORD64{1} << 18;  // XSTATE_MASK_AMX_TILE_DATA
  using Enable = BOOL(WINAPI*)(DWORD64);
  const HMODULE kernel = GetModuleHandleW(L"kernel32.dll");
  if (kernel == nullptr) return false;
  const auto enable = reinterpret_cast<Enable>(
      reinterpret_cast<void*>(GetProcAddress(kernel, "EnableProcessOptionalXStateFeatures")));
  return enable != nullptr && enable(kTileData) != 0;
}

int64_t page_bytes() {
  static const int64_t size = [] {
    SYSTEM_INFO info{};
    GetSystemInfo(&info);
    return int64_t{info.dwPageSize};
  }();
  return size;
}

int64_t available_memory() {
  MEMORYSTATUSEX memory{};
  memory.dwLength = sizeof memory;
  if (!GlobalMemoryStatusEx(&memory)) return 0;
  // What may be committed counts as well as what is free.
  const DWORDLONG available = std::min(memory.ullAvailPhys, memory.ullAvailPageFile);
  return static_cast<int64_t>(
      std::min(available, static_cast<DWORDLONG>(std::numeric_limits<int64_t>::max())));
}

uint8_t* reserve(int64_t size_bytes) {
  void* const address =
      VirtualAlloc(nullptr, static_cast<SIZE_T>(size_bytes), MEM_RESERVE, PAGE_READWRITE);
  if (address == nullptr) fail(GetLastError());
  return static_cast<uint8_t*>(address);
}

void commit(uint8_t* data, int64_t size_bytes) {
  if (size_bytes == 0) return;
  if (VirtualAlloc(data, static_cast<SIZE_T>(size_bytes), MEM_COMMIT, PAGE_READWRITE) == nullptr) {
    fail(GetLastError());
  }
}

void release(uint8_t* data, int64_t) { VirtualFree(data, 0, MEM_RELEASE); }

std::unique_ptr<FileMapping> map_file(const std::string& path) {
  return std::make_unique<WindowsFileMapping>(path);
}

void drop_file_pages(const uint8_t* data, int64_t size_bytes) {
  const auto page = static_cast<uintptr_t>(page_bytes());
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t end =
      (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(size_bytes)) / page * page;
  // Pages that are not locked leave the working set.
  if (begin < end) VirtualUnlock(reinterpret_cast<void*>(begin), end - begin);
}

}  // namespace gptoss::platform
