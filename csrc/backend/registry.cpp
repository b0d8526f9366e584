#include "backend/backend.h"

#include <charconv>
#include <iostream>

#include "core/check.h"

namespace gptoss {
namespace {

struct Entry {
  BackendInfo (*info)();
  std::unique_ptr<Backend> (*make)(Weights, const BackendOptions&);
  std::vector<DeviceRoom> (*rooms)(std::span<const int>, std::span<const int64_t>);
  MemoryPlan (*plan)(const Weights&, const BackendOptions&, const StepLimits&,
                     std::span<const DeviceRoom>);
};

constexpr Entry kBackends[] = {{cuda::info, cuda::make, cuda::rooms, cuda::plan},
                               {metal::info, metal::make, metal::rooms, metal::plan},
                               {cpu::info, cpu::make, cpu::rooms, cpu::plan}};

// "cuda:0,1": a backend, and the ordinals of its devices.
struct DeviceName {
  std::string backend;
  std::vector<int> ordinals;  // empty: none were named
};
DeviceName parse(const std::string& device) {
  const size_t colon = device.find(':');
  DeviceName name{device.substr(0, colon), {}};
  if (colon == std::string::npos) return name;
  const char* at = device.data() + colon + 1;
  const char* const end = device.data() + device.size();
  for (bool more = true; more;) {
    int ordinal = 0;
    const auto [next, error] = std::from_chars(at, end, ordinal);
    more = next != end && *next == ',';
    if (error != std::errc() || ordinal < 0 || (next != end && !more)) {
      throw BackendError(concat("device '", device,
                                "': expected ordinals behind the colon, as cuda:0 or cuda:0,1"));
    }
    name.ordinals.push_back(ordinal);
    at = next + 1;
  }
  if (name.backend != "cuda") {
    throw BackendError(concat("device '", device, "': ", name.backend,
                              " has no numbered devices; cuda has, as cuda:0 or cuda:0,1"));
  }
  return name;
}
BackendOptions with_devices(const BackendOptions& options, const DeviceName& name) {
  BackendOptions result = options;
  result.devices = name.ordinals;
  return result;
}

// The entry that `device` means: "auto" the first that is available, a name that one, which need
// not be available if it `is_elsewhere`.
const Entry& entry_of(const std::string& device, bool is_elsewhere = false) {
  std::string known;
  std::string reasons;
  for (const Entry& entry : kBackends) {
    const BackendInfo info = entry.info();
    if (info.available && (device == "auto" || device == info.name)) return entry;
    if (is_elsewhere && device == info.name) return entry;
    if (info.name == device) {
      throw BackendError(concat("device '", device, "' is not available: ", info.detail));
    }
    known += (known.empty() ? "" : ", ") + info.name;
    reasons += concat(reasons.empty() ? "" : "; ", info.name, ": ", info.detail);
  }
  if (device == "auto") throw BackendError(concat("no device is available: ", reasons));
  throw BackendError(concat("unknown device '", device, "'; expected auto, ", known));
}

}  // namespace

std::vector<BackendInfo> list_backends() {
  std::vector<BackendInfo> list;
  for (const Entry& entry : kBackends) list.push_back(entry.info());
  return list;
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): a backend keeps them
std::unique_ptr<Backend> make_backend(const std::string& device, Weights weights,
                                      const BackendOptions& options) {
  if (device != "auto") {
    const DeviceName name = parse(device);
    return entry_of(name.backend).make(std::move(weights), with_devices(options, name));
  }
  // The first that is available and can have this model; why others cannot is said once. Experts
  // are left to the CPU by a GPU only, so what a GPU says is all there is to say.
  const bool has_cpu_experts = options.cpu_experts != kFewestCpuExperts;
  std::string reasons;
  for (const Entry& entry : kBackends) {
    const BackendInfo info = entry.info();
    if (!info.available) continue;
    try {
      auto backend = entry.make(weights, options);
      if (!reasons.empty()) std::cerr << "gptoss: runs on " << info.name << ": " << reasons << '\n';
      return backend;
    } catch (const BackendError& error) {
      if (has_cpu_experts) throw;
      reasons = error.what();
    } catch (const OutOfMemory& error) {
      if (has_cpu_experts || &entry == &kBackends[std::size(kBackends) - 1]) throw;
      reasons = error.what();
    }
  }
  if (!reasons.empty()) throw BackendError(reasons);
  return entry_of(device).make(std::move(weights), options);  // says what there is instead
}

std::vector<DeviceRoom> device_rooms(const std::string& device,
                                     std::span<const int64_t> device_bytes) {
  const DeviceName name = parse(device);
  return entry_of(name.backend, !device_bytes.empty()).rooms(name.ordinals, device_bytes);
}

MemoryPlan plan_memory(const std::string& device, const Weights& shapes,
                       const BackendOptions& options, const StepLimits& limits,
                       std::span<const DeviceRoom> rooms) {
  const DeviceName name = parse(device);
  return entry_of(name.backend, true).plan(shapes, with_devices(options, name), limits, rooms);
}

}  // namespace gptoss
