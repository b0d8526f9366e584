// cuGetProcAddress, and the list of entry points for tests.
#include <dlfcn.h>

#include <cstring>
#include <string>

#include "emulator/driver/cuda_abi.h"
#include "emulator/driver/entry_points.h"
#include "emulator/driver/state.h"

namespace {

struct EntryPoint {
  const char* name;
  const char* symbol;
  const char* models;
};
#define ENTRY(name, symbol, text) {#name, #symbol, text},
constexpr EntryPoint kEntryPoints[] = {GPTOSS_DRIVER_ENTRY_POINTS(ENTRY)};
#undef ENTRY

// Entry points whose signature changed: the symbol from a version of CUDA on.
struct Newer {
  const char* name;
  int version;
  const char* symbol;
};
constexpr Newer kNewer[] = {
    {"cuCtxCreate", 12050, "cuCtxCreate_v4"},
    {"cuEventElapsedTime", 12080, "cuEventElapsedTime_v2"},
    {"cuGraphAddDependencies", 12030, "cuGraphAddDependencies_v2"},
};

// Entry points that came later than CUDA 12.0, the oldest that the stand-in can be.
struct Since {
  const char* name;
  int version;
};
constexpr Since kSince[] = {
    {"cuFuncGetName", 12030},
    {"cuFuncGetParamInfo", 12040},
};

// In this library, whatever else a process has loaded.
void* address_of(const char* symbol) {
  static void* const self = [] {
    Dl_info info;
    dladdr(reinterpret_cast<void*>(&address_of), &info);
    return dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  }();
  return self ? dlsym(self, symbol) : nullptr;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) CUresult
cuGetProcAddress_v2(const char* name, void** out, int version, unsigned long long,
                    CUdriverProcAddressQueryResult* status) {
  if (!name || !out) return CUDA_ERROR_INVALID_VALUE;
  *out = nullptr;
  // As NVIDIA's description of the driver's interface has it. So nothing of a newer CUDA is found.
  if (version > gptoss::emulator::driver::Driver::instance().release.cuda) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  for (const Since& since : kSince) {
    if (std::strcmp(since.name, name) != 0 || version >= since.version) continue;
    if (status) *status = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
    return CUDA_SUCCESS;
  }
  for (const EntryPoint& entry : kEntryPoints)
    if (!std::strcmp(entry.name, name)) *out = address_of(entry.symbol);
  for (const Newer& newer : kNewer)
    if (!std::strcmp(newer.name, name) && version >= newer.version) *out = address_of(newer.symbol);
  if (status) *status = *out ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return CUDA_SUCCESS;
}

extern "C" __attribute__((visibility("default"))) CUresult
cuGetProcAddress(const char* name, void** out, int version, unsigned long long flags) {
  const CUresult result = cuGetProcAddress_v2(name, out, version, flags, nullptr);
  return result == CUDA_SUCCESS && !*out ? CUDA_ERROR_NOT_FOUND : result;
}

// Lines "name<TAB>symbol<TAB>what it models".
extern "C" __attribute__((visibility("default"))) const char* emulatorEntryPoints() {
  static const std::string text = [] {
    std::string out;
    for (const EntryPoint& entry : kEntryPoints)
      out += std::string(entry.name) + '\t' + entry.symbol + '\t' + entry.models + '\n';
    return out;
  }();
  return text.c_str();
}
