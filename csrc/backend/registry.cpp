#include "backend/backend.h"
#include "core/check.h"

namespace gptoss {
namespace {

struct Entry {
  BackendInfo (*info)();
  std::unique_ptr<Backend> (*make)(Weights, const BackendOptions&);
};

constexpr Entry kBackends[] = {
    {cuda::info, cuda::make}, {metal::info, metal::make}, {cpu::info, cpu::make}};

}  // namespace

std::vector<BackendInfo> list_backends() {
  std::vector<BackendInfo> list;
  for (const Entry& entry : kBackends) list.push_back(entry.info());
  return list;
}

std::unique_ptr<Backend> make_backend(const std::string& device, Weights weights,
                                      const BackendOptions& options) {
  std::string known;
  std::string reasons;
  for (const Entry& entry : kBackends) {
    const BackendInfo info = entry.info();
    if (info.available && (device == "auto" || device == info.name)) {
      return entry.make(std::move(weights), options);
    }
    if (info.name == device) {
      throw BackendError(concat("device '", device, "' is not available: ", info.detail));
    }
    known += (known.empty() ? "" : ", ") + info.name;
    reasons += concat(reasons.empty() ? "" : "; ", info.name, ": ", info.detail);
  }
  if (device == "auto") throw BackendError(concat("no device is available: ", reasons));
  throw BackendError(concat("unknown device '", device, "'; expected auto, ", known));
}

}  // namespace gptoss
