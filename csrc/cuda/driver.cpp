#include "cuda/driver.h"

#include "platform/platform.h"

namespace gptoss::cuda {
namespace {

constexpr int kOldestCapability = 80;

// On Linux, in WSL's folder, which is not always among those that the loader searches, and on
// Windows.
constexpr const char* kLibraries[] = {"libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1",
                                      "nvcuda.dll"};

void* open_driver() {
  for (const char* const name : kLibraries) {
    if (void* const library = platform::open_library(name)) return library;
  }
  throw BackendError(concat("no NVIDIA driver (", kLibraries[0], " was not found)"));
}

}  // namespace

std::string version_text(int version) { return concat(version / 1000, ".", version % 1000 / 10); }

Driver::Driver() {
  void* const library = open_driver();
  const auto get_version =
      reinterpret_cast<CUresult (*)(int*)>(platform::find_symbol(library, "cuDriverGetVersion"));
  if (get_version == nullptr || get_version(&version_) != kSuccess) {
    throw BackendError("the NVIDIA driver does not tell its version: it is broken");
  }
  if (version_ < kOldestVersion) {
    throw BackendError(concat("the NVIDIA driver is too old: it is made for CUDA ",
                              version_text(version_), ", and ", version_text(kOldestVersion),
                              " or newer is needed (driver 525)"));
  }
  const auto get_address = reinterpret_cast<CUresult (*)(const char*, void**, int, uint64_t, int*)>(
      platform::find_symbol(library, "cuGetProcAddress_v2"));
  const auto find = [&](const char* name) {
    void* address = nullptr;
    int status = 0;
    if (get_address == nullptr ||
        get_address(name, &address, kOldestVersion, 0, &status) != kSuccess || address == nullptr) {
      throw BackendError(concat("the NVIDIA driver (CUDA ", version_text(version_), ") lacks ",
                                get_address == nullptr ? "cuGetProcAddress" : name));
    }
    return address;
  };
#define GPTOSS_CUDA_FIND(name, parameters) \
  name = reinterpret_cast<CUresult(*) parameters>(find(#name));
  GPTOSS_CUDA_ENTRY_POINTS(GPTOSS_CUDA_FIND)
#undef GPTOSS_CUDA_FIND
  const CUresult result = cuInit(0);
  if (result == kNoDevice) throw BackendError("the NVIDIA driver finds no device");
  check(result, "the NVIDIA driver does not start");
}

const Driver& Driver::get() {
  static const Driver driver;  // tried again after it has thrown
  return driver;
}

std::string Driver::describe(CUresult result) const {
  const char* name = nullptr;
  const char* text = nullptr;
  cuGetErrorName(result, &name);
  cuGetErrorString(result, &text);
  if (name == nullptr || text == nullptr) return concat("error ", result);
  return concat(text, " (", name, ")");
}

void Driver::fail(CUresult result, const std::string& what) const {
  const std::string message = concat("[cuda] ", what, ": ", describe(result));
  if (result == kOutOfMemory) throw OutOfMemory(message);
  throw BackendError(message);
}

DeviceInfo find_device() {
  const Driver& driver = Driver::get();
  int count = 0;
  driver.check(driver.cuDeviceGetCount(&count), "counting devices");
  std::string too_old;
  for (int i = 0; i < count; ++i) {
    DeviceInfo info{};
    driver.check(driver.cuDeviceGet(&info.handle, i), "device ", i);
    const auto attribute = [&](int which) {
      int value = 0;
      driver.check(driver.cuDeviceGetAttribute(&value, which, info.handle), "attribute ", which,
                   " of device ", i);
      return value;
    };
    char name[256] = "";
    driver.check(driver.cuDeviceGetName(name, sizeof(name), info.handle), "name of device ", i);
    info.name = name;
    info.major = attribute(kAttributeCapabilityMajor);
    info.minor = attribute(kAttributeCapabilityMinor);
    if (10 * info.major + info.minor < kOldestCapability) {
      too_old += concat(too_old.empty() ? "" : ", ", info.name, " has compute capability ",
                        info.major, ".", info.minor);
      continue;
    }
    info.multiprocessors = attribute(kAttributeMultiprocessors);
    info.shared_per_block = attribute(kAttributeSharedPerBlockOptin);
    size_t memory = 0;
    driver.check(driver.cuDeviceTotalMem(&memory, info.handle), "memory of device ", i);
    info.memory = static_cast<int64_t>(memory);
    return info;
  }
  if (!too_old.empty()) {
    throw BackendError(concat("no device that is new enough: ", too_old,
                              "; 8.0 or newer is needed (Ampere: A100, RTX 30)"));
  }
  throw BackendError("the NVIDIA driver shows no device (is CUDA_VISIBLE_DEVICES set?)");
}

}  // namespace gptoss::cuda
