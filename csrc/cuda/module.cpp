#include "cuda/module.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <mutex>
#include <set>
#include <string_view>
#include <utility>

#include "cuda/fat_binary.h"

namespace gptoss::cuda {
namespace {

constexpr int kDefaultShared = 48 * 1024;  // of a block, without further ado

// Kernels compiled for it and newer ones wait for the kernel ahead themselves (block.cuh). Others
// must not be launched before it has ended, whatever the device is.
constexpr int kFirstThatWaits = 90;

bool may_overlap() {
  const char* const text = std::getenv("GPTOSS_CUDA_PDL");
  return text == nullptr || std::string_view(text) != "0";
}

struct Refusals {
  std::mutex mutex;
  std::set<std::pair<Overlap, int>> all;  // with the device's ordinal
};
Refusals& refusals() {
  static Refusals refusals;
  return refusals;
}

}  // namespace

bool is_refused(Overlap overlap, const DeviceInfo& device) {
  const std::lock_guard<std::mutex> lock(refusals().mutex);
  return refusals().all.contains({overlap, device.ordinal});
}

void refuse(Overlap overlap, const DeviceInfo& device, const std::string& why) {
  const std::lock_guard<std::mutex> lock(refusals().mutex);
  if (!refusals().all.insert({overlap, device.ordinal}).second) return;
  std::cerr << concat("gptoss: ", name_of(device),
                      ": its driver does not take kernels that overlap",
                      overlap == Overlap::graphs ? " in a graph" : "", " (", why,
                      "): they run one after the other, with the same results\n");
}

Module::Module(const Context& context, std::span<const uint8_t> images)
    : context_(context),
      may_overlap_(may_overlap()),
      launches_overlap_(!is_refused(Overlap::launches, context.device())) {
  while (!images.empty()) {
    const std::span<const uint8_t> first = first_fat_binary(images);
    // The driver may want more alignment than a place within the others has.
    std::vector<uint64_t> words((first.size() + 7) / 8);
    std::memcpy(words.data(), first.data(), first.size());
    load({reinterpret_cast<const uint8_t*>(words.data()), first.size()});
    images = images.subspan(first.size());
  }
}

Module::~Module() {
  context_.release([&](const Driver& driver) {
    for (CUmodule module : modules_) driver.cuModuleUnload(module);
  });
}

void Module::load(std::span<const uint8_t> image) {
  const Driver& driver = context_.driver();
  const DeviceInfo& device = context_.device();
  char log[4096] = "";
  int options[] = {kJitErrorLog, kJitErrorLogBytes};
  void* values[] = {log, reinterpret_cast<void*>(sizeof(log))};
  CUmodule module = nullptr;
  const CUresult result = driver.cuModuleLoadDataEx(&module, image.data(), 2, options, values);
  constexpr CUresult kRefusals[] = {kInvalidImage, kNoBinaryForGpu, kInvalidPtx,
                                    kUnsupportedPtxVersion};
  if (std::ranges::find(kRefusals, result) != std::end(kRefusals)) {
    const std::string name =
        concat(device.name, " (compute capability ", device.major, ".", device.minor, ")");
    const int oldest = oldest_driver_for(image, 10 * device.major + device.minor);
    if (oldest == 0) throw BackendError(concat("[cuda] this build has no kernels for ", name));
    if (oldest > driver.version()) {
      throw BackendError(concat("[cuda] the NVIDIA driver is too old: it is made for ",
                                driver_text(driver.version()),
                                ", and the kernels of this build for ", name, " need that for ",
                                driver_text(oldest), " or a newer one: ", driver.describe(result)));
    }
  }
  driver.check(result, "loading the kernels on ", device.name, log[0] == '\0' ? "" : ": ", log);
  modules_.push_back(module);
}

const Module::Entry& Module::entry(const Launch& launch) {
  const Driver& driver = context_.driver();
  auto place = entries_.find(launch.entry);
  if (place == entries_.end()) {
    CUfunction function = nullptr;
    for (CUmodule module : modules_) {
      if (driver.cuModuleGetFunction(&function, module, launch.entry) == kSuccess) break;
      function = nullptr;
    }
    if (function == nullptr) {
      throw BackendError(concat("[cuda] this build lacks the kernel ", launch.entry));
    }
    int architecture = 0;
    driver.check(driver.cuFuncGetAttribute(&architecture, kFunctionPtxVersion, function),
                 "the architecture of ", launch.entry);
    int static_shared = 0;
    driver.check(driver.cuFuncGetAttribute(&static_shared, kFunctionSharedBytes, function),
                 "the shared memory of ", launch.entry);
    place = entries_
                .emplace(launch.entry,
                         Entry{.function = function,
                               .dynamic_shared = kDefaultShared - static_shared,
                               .overlaps = may_overlap_ && architecture >= kFirstThatWaits})
                .first;
  }
  Entry& entry = place->second;
  if (launch.dynamic_shared > entry.dynamic_shared) {
    driver.check(
        driver.cuFuncSetAttribute(entry.function, kFunctionMaxDynamicShared, launch.dynamic_shared),
        launch.dynamic_shared, " bytes of shared memory for ", launch.entry);
    entry.dynamic_shared = launch.dynamic_shared;
  }
  return entry;
}

void Module::launch(const Stream& stream, const Launch& launch, void* args) {
  if (launch.grid_x == 0 || launch.grid_y == 0 || launch.grid_z == 0) return;
  const Driver& driver = context_.driver();
  void* parameters[] = {args};
  const Entry& entry = this->entry(launch);
  const KernelNode node = {.function = entry.function,
                           .grid_x = static_cast<unsigned>(launch.grid_x),
                           .grid_y = static_cast<unsigned>(launch.grid_y),
                           .grid_z = static_cast<unsigned>(launch.grid_z),
                           .block_x = static_cast<unsigned>(launch.threads),
                           .block_y = 1,
                           .block_z = 1,
                           .dynamic_shared = static_cast<unsigned>(launch.dynamic_shared),
                           .parameters = parameters,
                           .extra = nullptr,
                           .kernel = nullptr,
                           .context = nullptr};
  if (recorded_ != nullptr) return recorded_->add(node, launch.entry, entry.overlaps);
  LaunchAttribute programmatic = {
      .id = kLaunchProgrammatic, .padding = {}, .is_on = 1, .others = {}};
  const LaunchConfig config = {.grid_x = node.grid_x,
                               .grid_y = node.grid_y,
                               .grid_z = node.grid_z,
                               .block_x = node.block_x,
                               .block_y = node.block_y,
                               .block_z = node.block_z,
                               .dynamic_shared = node.dynamic_shared,
                               .stream = stream.handle(),
                               .attributes = &programmatic,
                               .n_attributes = 0};
  const auto launch_with = [&](unsigned n_attributes) {
    LaunchConfig with = config;
    with.n_attributes = n_attributes;
    return driver.cuLaunchKernelEx(&with, node.function, node.parameters, node.extra);
  };
  if (entry.overlaps && launches_overlap_) {
    const CUresult result = launch_with(1);
    if (result == kSuccess) return;
    if (result == kOutOfMemory) driver.check(result, "launching ", launch.entry);  // it may pass
    // If it is not the kernel itself that cannot be launched.
    driver.check(launch_with(0), "launching ", launch.entry);
    launches_overlap_ = false;
    refuse(Overlap::launches, context_.device(), driver.describe(result));
    return;
  }
  driver.check(launch_with(0), "launching ", launch.entry);
}

}  // namespace gptoss::cuda
