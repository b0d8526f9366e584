#include "cuda/driver.h"

#include <algorithm>

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
  throw BackendError("no NVIDIA driver (neither libcuda.so.1 nor nvcuda.dll was found)");
}

}  // namespace

std::string version_text(int version) { return concat(version / 1000, ".", version % 1000 / 10); }

std::string driver_text(int version) {
  // "CUDA Toolkit and Corresponding Driver Versions" in NVIDIA's notes on releases.
  constexpr int kBranches[][2] = {{12000, 525}, {12010, 530}, {12020, 535}, {12030, 545},
                                  {12040, 550}, {12050, 555}, {12060, 560}, {12070, 565},
                                  {12080, 570}, {12090, 575}, {13000, 580}};
  for (const auto& [cuda, branch] : kBranches) {
    if (cuda == version) return concat("CUDA ", version_text(version), " (driver ", branch, ")");
  }
  return concat("CUDA ", version_text(version));
}

Driver::Driver() : process_(platform::process_id()) {
  void* const library = open_driver();
  const auto get_version =
      reinterpret_cast<CUresult (*)(int*)>(platform::find_symbol(library, "cuDriverGetVersion"));
  if (get_version == nullptr || get_version(&version_) != kSuccess) {
    throw BackendError("the NVIDIA driver does not tell its version: it is broken");
  }
  if (version_ < kOldestVersion) {
    throw BackendError(concat("the NVIDIA driver is too old: it is made for CUDA ",
                              version_text(version_), ", and what is needed is that for ",
                              driver_text(kOldestVersion), " or a newer one"));
  }
  const auto get_address = reinterpret_cast<CUresult (*)(const char*, void**, int, uint64_t, int*)>(
      platform::find_symbol(library, "cuGetProcAddress_v2"));
  // Null where there is none.
  const auto look_up = [&](const char* name, int version) {
    void* address = nullptr;
    int status = 0;
    const bool found = get_address != nullptr && version <= version_ &&
                       get_address(name, &address, version, 0, &status) == kSuccess;
    return found ? address : nullptr;
  };
  const auto find = [&](const char* name) {
    void* const address = look_up(name, kOldestVersion);
    if (address == nullptr) {
      throw BackendError(concat("the NVIDIA driver (CUDA ", version_text(version_), ") lacks ",
                                get_address == nullptr ? "cuGetProcAddress" : name));
    }
    return address;
  };
#define GPTOSS_CUDA_FIND(name, parameters) \
  name = reinterpret_cast<CUresult(*) parameters>(find(#name));
  GPTOSS_CUDA_ENTRY_POINTS(GPTOSS_CUDA_FIND)
#undef GPTOSS_CUDA_FIND
#define GPTOSS_CUDA_LOOK_UP(name, version, parameters) \
  name = reinterpret_cast<CUresult(*) parameters>(look_up(#name, version));
  GPTOSS_CUDA_LATER_ENTRY_POINTS(GPTOSS_CUDA_LOOK_UP)
#undef GPTOSS_CUDA_LOOK_UP
  const CUresult result = cuInit(0);
  if (result == kNoDevice) throw BackendError("the NVIDIA driver finds no device");
  check(result, "the NVIDIA driver does not start");
}

const Driver& Driver::get() {
  static const Driver driver;  // tried again after it has thrown
  if (platform::process_id() != driver.process_) {
    throw BackendError(
        "this process was forked from one that had started the NVIDIA driver, which does not work "
        "in both: start it without fork (multiprocessing's \"spawn\")");
  }
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

namespace {

constexpr const char* kNeeded = "8.0 or newer is needed (Ampere: A100, RTX 30)";

DeviceInfo device_info(const Driver& driver, int ordinal) {
  DeviceInfo info{};
  info.ordinal = ordinal;
  driver.check(driver.cuDeviceGet(&info.handle, ordinal), "device ", ordinal);
  const auto attribute = [&](int which) {
    int value = 0;
    driver.check(driver.cuDeviceGetAttribute(&value, which, info.handle), "attribute ", which,
                 " of device ", ordinal);
    return value;
  };
  char name[256] = "";
  driver.check(driver.cuDeviceGetName(name, sizeof(name), info.handle), "name of device ", ordinal);
  info.name = name;
  info.major = attribute(kAttributeCapabilityMajor);
  info.minor = attribute(kAttributeCapabilityMinor);
  info.multiprocessors = attribute(kAttributeMultiprocessors);
  info.shared_per_block = attribute(kAttributeSharedPerBlockOptin);
  size_t memory = 0;
  driver.check(driver.cuDeviceTotalMem(&memory, info.handle), "memory of device ", ordinal);
  info.memory = static_cast<int64_t>(memory);
  return info;
}

bool can_compute(const DeviceInfo& device) {
  return 10 * device.major + device.minor >= kOldestCapability;
}

std::string capability_text(const DeviceInfo& device) {
  return concat(device.name, " has compute capability ", device.major, ".", device.minor);
}

}  // namespace

std::string label_of(const DeviceInfo& device) { return concat("cuda:", device.ordinal); }

std::string name_of(const DeviceInfo& device) {
  return concat(label_of(device), " (", device.name, ")");
}

std::vector<DeviceInfo> find_devices(std::span<const int> ordinals) {
  const Driver& driver = Driver::get();
  int count = 0;
  driver.check(driver.cuDeviceGetCount(&count), "counting devices");
  if (count == 0) {
    throw BackendError("the NVIDIA driver shows no device (is CUDA_VISIBLE_DEVICES set?)");
  }
  std::vector<DeviceInfo> found;
  for (const int ordinal : ordinals) {
    if (ordinal < 0 || ordinal >= count) {
      throw BackendError(concat("there is no device cuda:", ordinal, ": the driver shows ", count,
                                ", numbered from 0 (CUDA_VISIBLE_DEVICES chooses among them)"));
    }
    if (std::ranges::find(found, ordinal, &DeviceInfo::ordinal) != found.end()) {
      throw BackendError(concat("device cuda:", ordinal, " is named twice"));
    }
    found.push_back(device_info(driver, ordinal));
    if (!can_compute(found.back())) {
      throw BackendError(concat("device cuda:", ordinal, " is not new enough: ",
                                capability_text(found.back()), "; ", kNeeded));
    }
  }
  if (!found.empty()) return found;
  std::string too_old;
  for (int i = 0; i < count; ++i) {
    const DeviceInfo device = device_info(driver, i);
    if (can_compute(device)) {
      found.push_back(device);
    } else {
      too_old += concat(too_old.empty() ? "" : ", ", capability_text(device));
    }
  }
  if (!found.empty()) return found;
  throw BackendError(concat("no device that is new enough: ", too_old, "; ", kNeeded));
}

}  // namespace gptoss::cuda
