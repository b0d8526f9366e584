#include "backend/backend.h"

#include <iostream>

#include "core/check.h"

namespace gptoss {
namespace {

struct Entry {
  BackendInfo (*info)();
  std::unique_ptr<Backend> (*make)(Weights, const BackendOptions&);
  MemoryPlan (*plan)(const Weights&, const BackendOptions&, const StepLimits&, int64_t);
};

constexpr Entry kBackends[] = {{cuda::info, cuda::make, cuda::plan},
                               {metal::info, metal::make, metal::plan},
                               {cpu::info, cpu::make, cpu::plan}};

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
  if (device != "auto") return entry_of(device).make(std::move(weights), options);
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

MemoryPlan plan_memory(const std::string& device, const Weights& shapes,
                       const BackendOptions& options, const StepLimits& limits,
                       int64_t device_bytes) {
  return entry_of(device, device_bytes > 0).plan(shapes, options, limits, device_bytes);
}

}  // namespace gptoss
