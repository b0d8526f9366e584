// Modules, libraries, functions, occupancy and launches.
#include <algorithm>
#include <cstring>
#include <fstream>
#include <sstream>

#include "emulator/driver/launch.h"
#include "emulator/driver/state.h"
#include "emulator/ptx/limits.h"
#include "emulator/ptx/tensor_map.h"

using namespace gptoss::emulator;
using namespace gptoss::emulator::driver;

namespace {

CUresult load_module(CUmodule* out, const void* image, std::string& log) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    if (!out || !image) return CUDA_ERROR_INVALID_VALUE;
    std::string ptx;
    if (const CUresult r = driver.ptx_of_image(image, *context->device, ptx, log);
        r != CUDA_SUCCESS) {
      driver.say(log);
      return r;
    }
    std::unique_ptr<CUmod_st> module;
    if (const CUresult r = driver.load(context, ptx, module, log); r != CUDA_SUCCESS) return r;
    *out = driver.modules.add(std::move(module));
    return CUDA_SUCCESS;
  });
}

CUresult get_attribute(CUcontext context, const CUfunc_st& function, CUfunction_attribute which,
                       int& out) {
  const Kernel& kernel = *function.kernel;
  const DeviceProfile& profile = *context->device->profile;
  switch (which) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      out = static_cast<int>(kernel.max_threads ? kernel.max_threads : profile.threads_per_block);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
      out = static_cast<int>(kernel.static_shared_bytes);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
      out = 0;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
      out = static_cast<int>(kernel.local_bytes);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      out = static_cast<int>(kernel.max_registers);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
      out = function.module->target;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
      out = 10 * profile.compute_major + profile.compute_minor;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      out = function.max_dynamic_shared_bytes
                ? function.max_dynamic_shared_bytes
                : static_cast<int>(profile.shared_per_block_bytes - kernel.static_shared_bytes);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
      out = -1;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET:
      out = 0;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
      out = static_cast<int>(kernel.required_cluster.x);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
      out = static_cast<int>(kernel.required_cluster.y);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
      out = static_cast<int>(kernel.required_cluster.z);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
      out = function.large_clusters;
      return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_VALUE;
}

CUresult set_attribute(CUcontext context, CUfunc_st& function, CUfunction_attribute which,
                       int value) {
  if (which == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) return CUDA_SUCCESS;
  if (which == CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED) {
    if (value != 0 && value != 1) return CUDA_ERROR_INVALID_VALUE;
    function.large_clusters = value;
    return CUDA_SUCCESS;
  }
  if (which != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_ERROR_INVALID_VALUE;
  const int64_t most = int64_t{context->device->profile->shared_per_block_optin_bytes} -
                       function.kernel->static_shared_bytes;
  if (value < 0 || value > most) return CUDA_ERROR_INVALID_VALUE;
  function.max_dynamic_shared_bytes = value;
  return CUDA_SUCCESS;
}

CUresult occupancy(int* out, CUfunction handle, int block, size_t shared) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    const CUfunction function = driver.resolve(context, handle);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    if (!out || block <= 0) return CUDA_ERROR_INVALID_VALUE;
    KernelCall call;
    call.function = function;
    call.block.x = static_cast<uint32_t>(block);
    call.shared_bytes = static_cast<uint32_t>(shared);
    LaunchOptions options = driver.options_of(context, call);
    options.opted_in_shared = true;
    Kernel any_block = *function->kernel;
    any_block.required_threads = {0, 0, 0};
    const LaunchLimits limits = check_limits(any_block, options);
    *out = limits.fault == Fault::kNone ? static_cast<int>(limits.blocks_per_multiprocessor) : 0;
    return CUDA_SUCCESS;
  });
}

// The limits of a launch that is only asked about; `size` 0: with the cluster of its attributes.
CUresult cluster_limits(CUfunction handle, const CUlaunchConfig* config, uint32_t size,
                        LaunchLimits& out) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    const CUfunction function = driver.resolve(context, handle);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    if (!config) return CUDA_ERROR_INVALID_VALUE;
    KernelCall call;
    call.function = function;
    call.block = {config->blockDimX, config->blockDimY, config->blockDimZ};
    call.shared_bytes = config->sharedMemBytes;
    for (unsigned i = 0; i < config->numAttrs; ++i) {
      const CUlaunchAttribute& attribute = config->attrs[i];
      const auto& dim = attribute.value.clusterDim;
      if (attribute.id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
        call.cluster = {dim.x, dim.y, dim.z};
    }
    Kernel kernel = *function->kernel;
    if (size) {
      call.cluster = {size, 1, 1};
      kernel.required_cluster = {0, 0, 0};
    }
    // The grid does not matter.
    call.grid = call.cluster.x ? call.cluster : kernel.required_cluster;
    if (!call.grid.x) call.grid = {1, 1, 1};
    LaunchOptions options = driver.options_of(context, call);
    options.opted_in_shared = true;
    out = check_limits(kernel, options);
    return CUDA_SUCCESS;
  });
}

CUresult launch_in(CUstream handle, CUfunction function, const Dim3& grid, const Dim3& block,
                   unsigned shared, void** parameters, void** extra, bool cooperative,
                   bool programmatic = false, const Dim3& cluster = {0, 0, 0}) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    CUstream stream = driver.stream(context, handle);
    if (!stream || stream->context != context) return CUDA_ERROR_INVALID_HANDLE;
    Action action;
    action.type = CU_GRAPH_NODE_TYPE_KERNEL;
    KernelCall& call = action.kernel;
    call.function = driver.resolve(context, function);
    if (!call.function) return CUDA_ERROR_INVALID_HANDLE;
    if (call.function->module->context != context) return CUDA_ERROR_INVALID_CONTEXT;
    call.grid = grid;
    call.block = block;
    call.shared_bytes = shared;
    call.cooperative = cooperative;
    call.cluster = cluster;
    // Cards before compute capability 9.0 run one kernel after the other.
    call.programmatic = programmatic && context->device->profile->compute_major >= 9;
    if (const CUresult r =
            take_parameters(*call.function->kernel, parameters, extra, call.parameters);
        r != CUDA_SUCCESS)
      return r;
    if (const CUresult r = driver.check_launch(context, call); r != CUDA_SUCCESS) return r;
    return driver.issue(stream, std::move(action));
  });
}

}  // namespace

namespace gptoss::emulator::driver {

// extra: {BUFFER_POINTER, p, BUFFER_SIZE, &n, END}
CUresult take_parameters(const Kernel& kernel, void** parameters, void** extra,
                         std::vector<uint8_t>& out) {
  if (parameters && extra) return CUDA_ERROR_INVALID_VALUE;
  out.assign(kernel.parameter_bytes, 0);
  if (parameters) {
    for (size_t i = 0; i < kernel.parameters.size(); ++i) {
      if (!parameters[i]) return CUDA_ERROR_INVALID_VALUE;
      std::memcpy(&out[kernel.parameters[i].offset], parameters[i], kernel.parameters[i].size);
    }
    return CUDA_SUCCESS;
  }
  const void* buffer = nullptr;
  size_t bytes = 0;
  for (void** word = extra; word && *word; word += 2) {
    const auto what = reinterpret_cast<uintptr_t>(*word);
    if (what == 1)
      buffer = word[1];
    else if (what == 2)
      bytes = *static_cast<size_t*>(word[1]);
    else
      return CUDA_ERROR_INVALID_VALUE;
  }
  if (kernel.parameter_bytes && (!buffer || bytes < kernel.parameter_bytes))
    return CUDA_ERROR_INVALID_VALUE;
  if (kernel.parameter_bytes) std::memcpy(out.data(), buffer, kernel.parameter_bytes);
  return CUDA_SUCCESS;
}

}  // namespace gptoss::emulator::driver

// ---- modules ----

DRIVER_API cuModuleLoadData(CUmodule* out, const void* image) {
  std::string log;
  return load_module(out, image, log);
}

DRIVER_API cuModuleLoadDataEx(CUmodule* out, const void* image, unsigned count,
                              CUjit_option* options, void** values) {
  std::string log;
  const CUresult result = load_module(out, image, log);
  char* buffer = nullptr;
  size_t size = 0;
  for (unsigned i = 0; i < count; ++i) {
    if (options[i] == CU_JIT_ERROR_LOG_BUFFER) buffer = static_cast<char*>(values[i]);
    if (options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
      size = reinterpret_cast<uintptr_t>(values[i]);
  }
  if (buffer && size) {
    const size_t length = std::min(size - 1, log.size());
    std::memcpy(buffer, log.data(), length);
    buffer[length] = 0;
  }
  return result;
}

DRIVER_API cuModuleLoadFatBinary(CUmodule* out, const void* image) {
  return cuModuleLoadData(out, image);
}

DRIVER_API cuModuleLoad(CUmodule* out, const char* path) {
  if (!path) return CUDA_ERROR_INVALID_VALUE;
  std::ifstream file(path, std::ios::binary);
  if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
  std::ostringstream text;
  text << file.rdbuf() << '\0';
  return cuModuleLoadData(out, text.str().data());
}

DRIVER_API cuModuleUnload(CUmodule module) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    if (!driver.modules.has(module)) return CUDA_ERROR_INVALID_HANDLE;
    driver.wait_all(context);
    for (const auto& [name, function] : module->functions) driver.functions.erase(function.get());
    driver.modules.remove(module);
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuModuleGetFunction(CUfunction* out, CUmodule module, const char* name) {
  return enter_context([&](Driver& driver, CUcontext) -> CUresult {
    if (!driver.modules.has(module)) return CUDA_ERROR_INVALID_HANDLE;
    if (!out || !name) return CUDA_ERROR_INVALID_VALUE;
    *out = driver.function(module, name);
    return *out ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
  });
}

DRIVER_API cuModuleGetGlobal_v2(CUdeviceptr* address, size_t* bytes, CUmodule module,
                                const char* name) {
  return enter_context([&](Driver& driver, CUcontext) -> CUresult {
    if (!driver.modules.has(module)) return CUDA_ERROR_INVALID_HANDLE;
    const GlobalVariable* variable = name ? module->module->find_variable(name) : nullptr;
    if (!variable) return CUDA_ERROR_NOT_FOUND;
    if (address) *address = variable->address;
    if (bytes) *bytes = variable->size;
    return CUDA_SUCCESS;
  });
}

// ---- libraries ----

DRIVER_API cuLibraryLoadData(CUlibrary* out, const void* image, CUjit_option*, void**, unsigned,
                             void*, void**, unsigned) {
  return enter([&](Driver& driver) -> CUresult {
    if (!out || !image) return CUDA_ERROR_INVALID_VALUE;
    std::string why;
    auto library = std::make_unique<CUlib_st>();
    if (const CUresult r = driver.ptx_of_image(image, *driver.devices.front(), library->ptx, why);
        r != CUDA_SUCCESS) {
      return r;
    }
    *out = driver.libraries.add(std::move(library));
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuLibraryUnload(CUlibrary library) {
  return enter([&](Driver& driver) -> CUresult {
    if (!driver.libraries.has(library)) return CUDA_ERROR_INVALID_HANDLE;
    for (const auto& [context, module] : library->modules) {
      driver.wait_all(context);
      for (const auto& [name, function] : module->functions) driver.functions.erase(function.get());
    }
    for (const auto& [name, kernel] : library->kernels) driver.kernels.erase(kernel.get());
    driver.libraries.remove(library);
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuLibraryGetModule(CUmodule* out, CUlibrary library) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    if (!driver.libraries.has(library)) return CUDA_ERROR_INVALID_HANDLE;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    std::unique_ptr<CUmod_st>& module = library->modules[context];
    std::string log;
    if (!module)
      if (const CUresult r = driver.load(context, library->ptx, module, log); r != CUDA_SUCCESS)
        return r;
    *out = module.get();
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuLibraryGetKernel(CUkernel* out, CUlibrary library, const char* name) {
  CUmodule module;
  if (const CUresult r = cuLibraryGetModule(&module, library); r != CUDA_SUCCESS) return r;
  return enter([&](Driver& driver) -> CUresult {
    if (!out || !name) return CUDA_ERROR_INVALID_VALUE;
    if (!module->module->find(name)) return CUDA_ERROR_NOT_FOUND;
    auto& kernel = library->kernels[name];
    if (!kernel) {
      kernel = std::make_unique<CUkern_st>();
      kernel->library = library;
      kernel->name = name;
      driver.kernels.insert(kernel.get());
    }
    *out = kernel.get();
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuLibraryGetGlobal(CUdeviceptr* address, size_t* bytes, CUlibrary library,
                              const char* name) {
  CUmodule module;
  if (const CUresult r = cuLibraryGetModule(&module, library); r != CUDA_SUCCESS) return r;
  const GlobalVariable* variable = name ? module->module->find_variable(name) : nullptr;
  if (!variable) return CUDA_ERROR_NOT_FOUND;
  if (address) *address = variable->address;
  if (bytes) *bytes = variable->size;
  return CUDA_SUCCESS;
}

DRIVER_API cuKernelGetFunction(CUfunction* out, CUkernel kernel) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    *out = driver.resolve(context, kernel);
    return *out ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
  });
}

// ---- functions ----

DRIVER_API cuFuncGetAttribute(int* out, CUfunction_attribute which, CUfunction handle) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    const CUfunction function = driver.resolve(context, handle);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    return out ? get_attribute(context, *function, which, *out) : CUDA_ERROR_INVALID_VALUE;
  });
}
DRIVER_API cuFuncSetAttribute(CUfunction handle, CUfunction_attribute which, int value) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    const CUfunction function = driver.resolve(context, handle);
    return function ? set_attribute(context, *function, which, value) : CUDA_ERROR_INVALID_HANDLE;
  });
}
DRIVER_API cuKernelGetAttribute(int* out, CUfunction_attribute which, CUkernel kernel, CUdevice) {
  return cuFuncGetAttribute(out, which, reinterpret_cast<CUfunction>(kernel));
}
DRIVER_API cuKernelSetAttribute(CUfunction_attribute which, int value, CUkernel kernel, CUdevice) {
  return cuFuncSetAttribute(reinterpret_cast<CUfunction>(kernel), which, value);
}
DRIVER_API cuFuncSetCacheConfig(CUfunction handle, int) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    return driver.resolve(context, handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
  });
}
DRIVER_API cuFuncGetModule(CUmodule* out, CUfunction handle) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    const CUfunction function = driver.resolve(context, handle);
    if (!function || !out) return CUDA_ERROR_INVALID_HANDLE;
    *out = function->module;
    return CUDA_SUCCESS;
  });
}
DRIVER_API cuFuncGetName(const char** out, CUfunction handle) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    const CUfunction function = driver.resolve(context, handle);
    if (!function || !out) return CUDA_ERROR_INVALID_HANDLE;
    *out = function->kernel->name.c_str();
    return CUDA_SUCCESS;
  });
}
DRIVER_API cuFuncGetParamInfo(CUfunction handle, size_t index, size_t* offset, size_t* size) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    const CUfunction function = driver.resolve(context, handle);
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    const auto& parameters = function->kernel->parameters;
    if (index >= parameters.size()) return CUDA_ERROR_INVALID_VALUE;
    if (offset) *offset = parameters[index].offset;
    if (size) *size = parameters[index].size;
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* out, CUfunction function, int block,
                                                       size_t shared) {
  return occupancy(out, function, block, shared);
}
DRIVER_API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* out, CUfunction function,
                                                                int block, size_t shared,
                                                                unsigned) {
  return occupancy(out, function, block, shared);
}

DRIVER_API cuOccupancyMaxActiveClusters(int* out, CUfunction function,
                                        const CUlaunchConfig* config) {
  LaunchLimits limits;
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult r = cluster_limits(function, config, 0, limits); r != CUDA_SUCCESS) return r;
  *out = limits.fault == Fault::kNone ? static_cast<int>(limits.clusters_at_once) : 0;
  return CUDA_SUCCESS;
}

DRIVER_API cuOccupancyMaxPotentialClusterSize(int* out, CUfunction function,
                                              const CUlaunchConfig* config) {
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  for (uint32_t size = 16; size; size /= 2) {
    LaunchLimits limits;
    if (const CUresult r = cluster_limits(function, config, size, limits); r != CUDA_SUCCESS)
      return r;
    if (limits.fault != Fault::kNone) continue;
    *out = static_cast<int>(size);
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_CLUSTER_SIZE;
}

// ---- launches ----

DRIVER_API cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                          unsigned by, unsigned bz, unsigned shared, CUstream stream,
                          void** parameters, void** extra) {
  return launch_in(stream, function, {gx, gy, gz}, {bx, by, bz}, shared, parameters, extra, false);
}

DRIVER_API cuLaunchCooperativeKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz,
                                     unsigned bx, unsigned by, unsigned bz, unsigned shared,
                                     CUstream stream, void** parameters) {
  return launch_in(stream, function, {gx, gy, gz}, {bx, by, bz}, shared, parameters, nullptr, true);
}

DRIVER_API cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters,
                            void** extra) {
  if (!config || (config->numAttrs && !config->attrs)) return CUDA_ERROR_INVALID_VALUE;
  bool cooperative = false, programmatic = false;
  Dim3 cluster{0, 0, 0};
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const CUlaunchAttribute& attribute = config->attrs[i];
    switch (attribute.id) {
      case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
        cooperative = attribute.value.cooperative;
        break;
      case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION: {
        const auto& size = attribute.value.clusterDim;
        if (!size.x || !size.y || !size.z) return CUDA_ERROR_INVALID_VALUE;
        cluster = {size.x, size.y, size.z};
        break;
      }
      case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:
        programmatic = attribute.value.programmaticStreamSerializationAllowed;
        if (programmatic && Driver::instance().refuses_launches) return CUDA_ERROR_NOT_SUPPORTED;
        break;
      case CU_LAUNCH_ATTRIBUTE_IGNORE:
      case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
      case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
      case CU_LAUNCH_ATTRIBUTE_PRIORITY:
        break;
      default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
  }
  return launch_in(config->hStream, function,
                   {config->gridDimX, config->gridDimY, config->gridDimZ},
                   {config->blockDimX, config->blockDimY, config->blockDimZ},
                   config->sharedMemBytes, parameters, extra, cooperative, programmatic, cluster);
}

// ---- tensor maps ----

DRIVER_API cuTensorMapEncodeTiled(CUtensorMap* out, CUtensorMapDataType type, uint32_t rank,
                                  void* address, const uint64_t* sizes, const uint64_t* strides,
                                  const uint32_t* box, const uint32_t* element_strides,
                                  CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                  CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
  return enter_context([&](Driver& driver, CUcontext) -> CUresult {
    constexpr int kBytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
    if (!out || reinterpret_cast<uintptr_t>(out) % 64 || !sizes || !box || !element_strides ||
        (rank > 1 && !strides) || type < 0 || promotion < 0 ||
        promotion > CU_TENSOR_MAP_L2_PROMOTION_L2_256B)
      return CUDA_ERROR_INVALID_VALUE;
    if (static_cast<size_t>(type) >= std::size(kBytes) ||
        interleave != CU_TENSOR_MAP_INTERLEAVE_NONE || swizzle > CU_TENSOR_MAP_SWIZZLE_128B ||
        fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
      return CUDA_ERROR_NOT_SUPPORTED;
    TensorMapRequest request{
        kBytes[type], rank, reinterpret_cast<uint64_t>(address), sizes, strides, box, swizzle};
    TensorMap map;
    const std::string why = encode(request, map);
    if (!why.empty()) {
      driver.say("cuTensorMapEncodeTiled: " + why);
      return CUDA_ERROR_INVALID_VALUE;
    }
    for (uint32_t i = 0; i < rank; ++i) {
      if (element_strides[i] == 0 || element_strides[i] > 8) return CUDA_ERROR_INVALID_VALUE;
      if (i && element_strides[i] != 1) return CUDA_ERROR_NOT_SUPPORTED;
    }
    std::memset(out, 0, sizeof *out);
    std::memcpy(out, &map, sizeof map);
    return CUDA_SUCCESS;
  });
}
