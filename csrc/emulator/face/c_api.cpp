// The emulator for other languages: plain C, results as JSON.
//
// Functions that can fail return null or false and keep a message for emulator_error(). Strings
// that are returned live until the thread's next call.
#include <cstring>
#include <memory>
#include <string>

#include "emulator/face/describe.h"
#include "emulator/ptx/machine.h"
#include "emulator/ptx/program.h"
#include "emulator/ptx/tensor_map.h"

#define EMULATOR_API extern "C" __attribute__((visibility("default")))

namespace {

using namespace gptoss::emulator;

thread_local std::string g_text;

struct Device {
  std::shared_ptr<Memory> memory;
};
struct Loaded {
  std::shared_ptr<Module> module;
  std::shared_ptr<Memory> memory;
};

const char* text(std::string value) {
  g_text = std::move(value);
  return g_text.c_str();
}

}  // namespace

struct EmulatorOptions {
  uint32_t grid[3], block[3], cluster[3];  // a cluster of 0: as the kernel says
  uint32_t dynamic_shared_bytes;
  uint32_t check_races, check_uninitialised, count_memory;
  uint32_t hostile_tensor_cores, cooperative, large_clusters;
  uint32_t multiprocessors, max_resident_warps;
  uint64_t seed, max_warp_instructions;
  const char* profile;
};

namespace {

// False after text() said why.
bool fill_request(const Loaded& loaded, const char* name, const uint8_t* parameters,
                  uint64_t parameter_bytes, const EmulatorOptions& o, std::vector<uint8_t>& block,
                  LaunchRequest& request) {
  const Kernel* kernel = loaded.module->find(name);
  if (!kernel || parameter_bytes != kernel->parameter_bytes) {
    text("unknown kernel or parameters of the wrong size");
    return false;
  }
  LaunchOptions& options = request.options;
  options.grid = {o.grid[0], o.grid[1], o.grid[2]};
  options.block = {o.block[0], o.block[1], o.block[2]};
  options.cluster = {o.cluster[0], o.cluster[1], o.cluster[2]};
  options.large_clusters = o.large_clusters;
  options.dynamic_shared_bytes = o.dynamic_shared_bytes;
  options.check_races = o.check_races;
  options.check_uninitialised = o.check_uninitialised;
  options.count_memory = o.count_memory;
  options.hostile_tensor_cores = o.hostile_tensor_cores;
  options.cooperative = o.cooperative;
  options.multiprocessors = o.multiprocessors;
  if (o.max_resident_warps) options.max_resident_warps = o.max_resident_warps;
  options.seed = o.seed;
  if (o.max_warp_instructions) options.max_warp_instructions = o.max_warp_instructions;
  if (o.profile) {
    options.profile = find_profile(o.profile);
    if (!options.profile) {
      text(std::string("unknown device profile ") + o.profile);
      return false;
    }
  }
  block.assign(parameters, parameters + parameter_bytes);
  request.kernel = kernel;
  request.parameters = &block;
  return true;
}

}  // namespace

EMULATOR_API const char* emulator_error() { return g_text.c_str(); }

EMULATOR_API void* emulator_open(uint64_t memory_bytes) {
  try {
    return new Device{std::make_shared<Memory>(memory_bytes)};
  } catch (const std::exception& error) {
    text(error.what());
    return nullptr;
  }
}
EMULATOR_API void emulator_close(void* device) { delete static_cast<Device*>(device); }

EMULATOR_API uint64_t emulator_allocate(void* device, uint64_t bytes, const char* name) {
  return static_cast<Device*>(device)->memory->allocate(bytes, name);
}
EMULATOR_API bool emulator_free(void* device, uint64_t address) {
  return static_cast<Device*>(device)->memory->free(address);
}
EMULATOR_API bool emulator_write(void* device, uint64_t address, const void* bytes, uint64_t size) {
  return static_cast<Device*>(device)->memory->write(address, bytes, size);
}
EMULATOR_API bool emulator_read(void* device, void* bytes, uint64_t address, uint64_t size) {
  return static_cast<Device*>(device)->memory->read(bytes, address, size);
}

EMULATOR_API void* emulator_load(void* device, const char* ptx) {
  try {
    const auto& memory = static_cast<Device*>(device)->memory;
    return new Loaded{Module::load(ptx, memory), memory};
  } catch (const std::exception& error) {
    text(error.what());
    return nullptr;
  }
}
EMULATOR_API void emulator_unload(void* module) { delete static_cast<Loaded*>(module); }

// "offset size" of each parameter, or null for an unknown kernel.
EMULATOR_API const char* emulator_parameters(void* module, const char* name) {
  const Kernel* kernel = static_cast<Loaded*>(module)->module->find(name);
  if (!kernel) return nullptr;
  std::string out;
  for (const Parameter& p : kernel->parameters)
    out += std::to_string(p.offset) + " " + std::to_string(p.size) + "\n";
  return text(out);
}

EMULATOR_API uint64_t emulator_variable(void* module, const char* name) {
  const GlobalVariable* variable = static_cast<Loaded*>(module)->module->find_variable(name);
  return variable ? variable->address : 0;
}

EMULATOR_API const char* emulator_launch(void* module, const char* name, const uint8_t* parameters,
                                         uint64_t parameter_bytes, const EmulatorOptions* o) {
  const auto* loaded = static_cast<Loaded*>(module);
  LaunchRequest request;
  std::vector<uint8_t> block;
  if (!fill_request(*loaded, name, parameters, parameter_bytes, *o, block, request)) return nullptr;
  return text(to_json(launch(*loaded->memory, *request.kernel, block, request.options)));
}

// Launches of modules of one device, each depending on the one before it: programmatically where
// `programmatic` says so, fully otherwise. A JSON array.
EMULATOR_API const char* emulator_launch_chain(uint64_t count, void* const* modules,
                                               const char* const* names,
                                               const uint8_t* const* parameters,
                                               const uint64_t* parameter_bytes,
                                               const EmulatorOptions* options,
                                               const uint32_t* programmatic) {
  std::vector<LaunchRequest> requests(count);
  std::vector<std::vector<uint8_t>> blocks(count);
  for (uint64_t i = 0; i < count; ++i) {
    if (!fill_request(*static_cast<Loaded*>(modules[i]), names[i], parameters[i],
                      parameter_bytes[i], options[i], blocks[i], requests[i]))
      return nullptr;
    if (i) requests[i].after.push_back({i - 1, programmatic[i] != 0});
  }
  std::string out;
  if (count)
    for (const LaunchResult& result :
         launch_all(*static_cast<Loaded*>(modules[0])->memory, requests))
      out += (out.empty() ? "" : ", ") + to_json(result);
  return text("[" + out + "]");
}

// Fills 128 bytes; false after emulator_error() says why.
EMULATOR_API bool emulator_tensor_map(void* out, uint64_t address, uint32_t element_bytes,
                                      uint32_t rank, const uint64_t* sizes, const uint64_t* strides,
                                      const uint32_t* box, uint32_t swizzle) {
  const TensorMapRequest request{
      static_cast<int>(element_bytes), rank, address, sizes, strides, box,
      static_cast<int>(swizzle)};
  TensorMap map;
  const std::string why = encode(request, map);
  if (!why.empty()) {
    text(why);
    return false;
  }
  std::memset(out, 0, kTensorMapBytes);
  std::memcpy(out, &map, sizeof map);
  return true;
}

EMULATOR_API const char* emulator_forms() { return text(forms_json()); }

EMULATOR_API const char* emulator_coverage(const char* ptx) {
  try {
    return text(coverage_json(ptx));
  } catch (const std::exception& error) {
    text(error.what());
    return nullptr;
  }
}
