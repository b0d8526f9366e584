#include "backend/targets.h"

#include "core/check.h"

namespace gptoss {
namespace {

struct Device {
  const char* name;
  std::vector<TargetInfo> (*variants)();
  std::unique_ptr<ops::Target> (*make)(const std::string& variant);
};

constexpr Device kDevices[] = {{"cpu", cpu::target_variants, cpu::make_target}};

}  // namespace

std::vector<TargetInfo> list_targets() {
  std::vector<TargetInfo> list;
  for (const Device& device : kDevices) {
    list.push_back({device.name, true, ""});
    for (const TargetInfo& variant : device.variants()) {
      list.push_back({concat(device.name, ":", variant.name), variant.available, variant.detail});
    }
  }
  return list;
}

std::unique_ptr<ops::Target> make_target(const std::string& name) {
  const size_t colon = name.find(':');
  std::string known;
  for (const Device& device : kDevices) {
    if (name.substr(0, colon) == device.name) {
      return device.make(colon == std::string::npos ? "" : name.substr(colon + 1));
    }
    known += (known.empty() ? "" : ", ") + std::string(device.name);
  }
  throw BackendError(concat("unknown device of target '", name, "'; this build has ", known));
}

}  // namespace gptoss
