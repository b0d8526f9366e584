// Initialisation, errors, devices and contexts.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include <unistd.h>

#include "emulator/driver/state.h"

using namespace gptoss::emulator;
using namespace gptoss::emulator::driver;

namespace {

struct ErrorText {
  CUresult code;
  const char* name;
  const char* text;
};
#define ERROR(code, text) {code, #code, text}
constexpr ErrorText kErrors[] = {
    ERROR(CUDA_SUCCESS, "no error"),
    ERROR(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    ERROR(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    ERROR(CUDA_ERROR_NOT_INITIALIZED, "cuInit was not called"),
    ERROR(CUDA_ERROR_DEVICE_UNAVAILABLE, "the device is lost, or in use elsewhere"),
    ERROR(CUDA_ERROR_NO_DEVICE, "no device"),
    ERROR(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    ERROR(CUDA_ERROR_INVALID_IMAGE, "the image is not one of a kernel"),
    ERROR(CUDA_ERROR_INVALID_CONTEXT, "invalid context, or none is current"),
    ERROR(CUDA_ERROR_NO_BINARY_FOR_GPU, "no code for this device in the image"),
    ERROR(CUDA_ERROR_ECC_UNCORRECTABLE,
          "memory of the device has an error that cannot be corrected"),
    ERROR(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, "the devices cannot use each other's memory"),
    ERROR(CUDA_ERROR_INVALID_PTX, "PTX that cannot be loaded"),
    ERROR(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "PTX of a newer version"),
    ERROR(CUDA_ERROR_FILE_NOT_FOUND, "file not found"),
    ERROR(CUDA_ERROR_INVALID_HANDLE, "invalid handle"),
    ERROR(CUDA_ERROR_NOT_FOUND, "no such name"),
    ERROR(CUDA_ERROR_NOT_READY, "work is not finished yet"),
    ERROR(CUDA_ERROR_ILLEGAL_ADDRESS, "a kernel accessed memory that it may not"),
    ERROR(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "a launch needs more than the device has"),
    ERROR(CUDA_ERROR_LAUNCH_TIMEOUT, "a kernel does not end"),
    ERROR(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, "access to the peer is enabled already"),
    ERROR(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, "access to the peer was not enabled"),
    ERROR(CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE, "the primary context is in use"),
    ERROR(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the context was destroyed"),
    ERROR(CUDA_ERROR_ASSERT, "an assertion failed in a kernel"),
    ERROR(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "host memory is registered already"),
    ERROR(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "host memory is not registered"),
    ERROR(CUDA_ERROR_ILLEGAL_INSTRUCTION, "a kernel executed an illegal instruction"),
    ERROR(CUDA_ERROR_MISALIGNED_ADDRESS, "a kernel used a misaligned address"),
    ERROR(CUDA_ERROR_LAUNCH_FAILED, "a kernel failed"),
    ERROR(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, "too many blocks for a cooperative launch"),
    ERROR(CUDA_ERROR_NOT_PERMITTED, "not permitted in a call of the host"),
    ERROR(CUDA_ERROR_NOT_SUPPORTED, "not supported"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "not permitted while a stream captures"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the capture was broken by an earlier error"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_MERGE, "two captures cannot be merged"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "the stream did not begin this capture"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "a stream of the capture was not joined"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "the default stream would wait for a capture"),
    ERROR(CUDA_ERROR_CAPTURED_EVENT, "the event belongs to a capture"),
    ERROR(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, "the graph cannot take the update"),
    ERROR(CUDA_ERROR_INVALID_CLUSTER_SIZE, "clusters of this size cannot be launched"),
    ERROR(CUDA_ERROR_UNKNOWN, "unknown error"),
};
#undef ERROR

Device* device_at(Driver& driver, CUdevice ordinal) {
  if (ordinal < 0 || ordinal >= static_cast<int>(driver.devices.size())) return nullptr;
  return driver.devices[static_cast<size_t>(ordinal)].get();
}

std::vector<CUcontext>& context_stack() {
  thread_local std::vector<CUcontext> stack;
  return stack;
}

CUresult attribute(const Device& device, CUdevice_attribute which, int& out) {
  const DeviceProfile& p = *device.profile;
  const auto small = [](uint64_t value) { return static_cast<int>(value); };
  switch (which) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y:
      out = small(p.threads_per_block);
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z:
      out = 64;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X:
      out = 0x7fffffff;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z:
      out = 65535;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
      out = small(p.shared_per_block_bytes);
      break;
    case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY:
      out = 65536;
      break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
      out = kLanes;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_PITCH:
      out = 0x7fffffff;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
      out = small(p.registers_per_block);
      break;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
      out = 1'000'000;
      break;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
      out = 1'000'000;
      break;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
      out = 1024;
      break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      out = small(device.multiprocessors);
      break;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
      out = small(p.l2_bytes);
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
      out = small(p.threads_per_multiprocessor);
      break;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
      out = 2;
      break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      out = p.compute_major;
      break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
      out = p.compute_minor;
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
      out = small(p.shared_per_multiprocessor_bytes);
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR:
      out = small(p.registers_per_multiprocessor);
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
      out = small(p.shared_per_block_optin_bytes);
      break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR:
      out = small(p.blocks_per_multiprocessor);
      break;
    case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK:
      out = small(p.shared_reserved_bytes);
      break;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
      out = device.number + 1;
      break;
    case CU_DEVICE_ATTRIBUTE_GPU_OVERLAP:
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
      out = 1;
      break;
    case CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH:
      out = p.compute_major >= 9;
      break;
    // What the stand-in does not model it does not claim.
    case CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT:
    case CU_DEVICE_ATTRIBUTE_INTEGRATED:
    case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE:
    case CU_DEVICE_ATTRIBUTE_ECC_ENABLED:
    case CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID:
    case CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID:
    case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY:
    case CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS:
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED:
      out = 0;
      break;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUresult create_context(CUcontext* out, CUdevice ordinal) {
  return enter([&](Driver& driver) -> CUresult {
    Device* device = device_at(driver, ordinal);
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    if (!device) return CUDA_ERROR_INVALID_DEVICE;
    if (!device->gives_contexts()) return CUDA_ERROR_DEVICE_UNAVAILABLE;
    auto context = std::make_unique<CUctx_st>();
    context->device = device;
    context->default_stream.context = context.get();
    context->per_thread_stream.context = context.get();
    *out = driver.contexts.add(std::move(context));
    context_stack().push_back(Driver::current());
    Driver::current() = *out;
    return CUDA_SUCCESS;
  });
}

}  // namespace

DRIVER_API cuInit(unsigned flags) {
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  if (flags) return CUDA_ERROR_INVALID_VALUE;
  if (driver.is_initialised && !is_own_process(driver)) return CUDA_ERROR_NOT_INITIALIZED;
  if (driver.devices.empty()) return CUDA_ERROR_NO_DEVICE;
  driver.is_initialised = true;
  driver.process = getpid();
  return CUDA_SUCCESS;
}

DRIVER_API cuDriverGetVersion(int* version) {
  if (!version) return CUDA_ERROR_INVALID_VALUE;
  *version = Driver::instance().release.cuda;
  return CUDA_SUCCESS;
}

DRIVER_API cuGetErrorName(CUresult error, const char** out) {
  for (const ErrorText& e : kErrors) {
    if (e.code != error) continue;
    *out = e.name;
    return CUDA_SUCCESS;
  }
  *out = nullptr;
  return CUDA_ERROR_INVALID_VALUE;
}

DRIVER_API cuGetErrorString(CUresult error, const char** out) {
  for (const ErrorText& e : kErrors) {
    if (e.code != error) continue;
    *out = e.text;
    return CUDA_SUCCESS;
  }
  *out = nullptr;
  return CUDA_ERROR_INVALID_VALUE;
}

// ---- devices ----

DRIVER_API cuDeviceGetCount(int* count) {
  return enter([&](Driver& driver) -> CUresult {
    if (!count) return CUDA_ERROR_INVALID_VALUE;
    *count = static_cast<int>(driver.devices.size());
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuDeviceGet(CUdevice* out, int ordinal) {
  return enter([&](Driver& driver) -> CUresult {
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    if (!device_at(driver, ordinal)) return CUDA_ERROR_INVALID_DEVICE;
    *out = ordinal;
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuDeviceGetName(char* name, int length, CUdevice ordinal) {
  return enter([&](Driver& driver) -> CUresult {
    const Device* device = device_at(driver, ordinal);
    if (!device) return CUDA_ERROR_INVALID_DEVICE;
    if (!name || length < 1) return CUDA_ERROR_INVALID_VALUE;
    std::snprintf(name, static_cast<size_t>(length), "%s", device->name.c_str());
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice ordinal) {
  return enter([&](Driver& driver) -> CUresult {
    if (!device_at(driver, ordinal)) return CUDA_ERROR_INVALID_DEVICE;
    if (!uuid) return CUDA_ERROR_INVALID_VALUE;
    std::memset(uuid, 0xe0, sizeof *uuid);
    uuid->bytes[15] = static_cast<char>(device_at(driver, ordinal)->number);
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuDeviceTotalMem_v2(size_t* bytes, CUdevice ordinal) {
  return enter([&](Driver& driver) -> CUresult {
    const Device* device = device_at(driver, ordinal);
    if (!device) return CUDA_ERROR_INVALID_DEVICE;
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    *bytes = device->memory_bytes;
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice ordinal) {
  return enter([&](Driver& driver) -> CUresult {
    const Device* device = device_at(driver, ordinal);
    if (!device) return CUDA_ERROR_INVALID_DEVICE;
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    return attribute(*device, which, *value);
  });
}

DRIVER_API cuDeviceGetPCIBusId(char* text, int length, CUdevice ordinal) {
  return enter([&](Driver& driver) -> CUresult {
    const Device* device = device_at(driver, ordinal);
    if (!device) return CUDA_ERROR_INVALID_DEVICE;
    if (!text || length < 13) return CUDA_ERROR_INVALID_VALUE;
    std::snprintf(text, static_cast<size_t>(length), "0000:%02x:00.0", device->number + 1);
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuDeviceCanAccessPeer(int* can, CUdevice device, CUdevice peer) {
  return enter([&](Driver& driver) -> CUresult {
    if (!device_at(driver, device) || !device_at(driver, peer)) return CUDA_ERROR_INVALID_DEVICE;
    if (!can) return CUDA_ERROR_INVALID_VALUE;
    *can = driver.has_peers && device != peer;
    return CUDA_SUCCESS;
  });
}

// ---- contexts ----

DRIVER_API cuDevicePrimaryCtxRetain(CUcontext* out, CUdevice ordinal) {
  return enter([&](Driver& driver) -> CUresult {
    Device* device = device_at(driver, ordinal);
    if (!device) return CUDA_ERROR_INVALID_DEVICE;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    if (!device->gives_contexts()) return CUDA_ERROR_DEVICE_UNAVAILABLE;
    driver.ensure_primary(*device);
    if (device->primary->retained++ == 0) ++driver.contexts_opened;
    *out = device->primary.get();
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuDevicePrimaryCtxRelease_v2(CUdevice ordinal) {
  return enter([&](Driver& driver) -> CUresult {
    Device* device = device_at(driver, ordinal);
    if (!device) return CUDA_ERROR_INVALID_DEVICE;
    if (!device->primary || !device->primary->retained) return CUDA_ERROR_INVALID_CONTEXT;
    if (--device->primary->retained > 0) return CUDA_SUCCESS;
    // Which resets it, but here its memory stays: what is not given back is seen.
    if (device->lost == CUDA_SUCCESS) driver.wait_all(device->primary.get());
    device->primary->sticky = device->lost;
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuDevicePrimaryCtxReset_v2(CUdevice ordinal) {
  return enter([&](Driver& driver) -> CUresult {
    Device* device = device_at(driver, ordinal);
    if (!device) return CUDA_ERROR_INVALID_DEVICE;
    if (!device->primary) return CUDA_SUCCESS;
    driver.wait_all(device->primary.get());
    device->primary->sticky = device->lost;  // which nothing clears
    return device->lost;
  });
}

DRIVER_API cuDevicePrimaryCtxSetFlags_v2(CUdevice ordinal, unsigned) {
  return enter([&](Driver& driver) -> CUresult {
    return device_at(driver, ordinal) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
  });
}

DRIVER_API cuDevicePrimaryCtxGetState(CUdevice ordinal, unsigned* flags, int* active) {
  return enter([&](Driver& driver) -> CUresult {
    const Device* device = device_at(driver, ordinal);
    if (!device) return CUDA_ERROR_INVALID_DEVICE;
    if (!flags || !active) return CUDA_ERROR_INVALID_VALUE;
    *flags = 0;
    *active = device->primary && device->primary->retained;
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuCtxCreate_v2(CUcontext* out, unsigned, CUdevice ordinal) {
  return create_context(out, ordinal);
}
DRIVER_API cuCtxCreate_v4(CUcontext* out, void*, unsigned, CUdevice ordinal) {
  return create_context(out, ordinal);
}

DRIVER_API cuCtxDestroy_v2(CUcontext context) {
  return enter([&](Driver& driver) -> CUresult {
    if (!driver.contexts.has(context)) return CUDA_ERROR_INVALID_CONTEXT;
    driver.wait_all(context);
    for (CUstream stream : context->streams) driver.streams.remove(stream);
    if (Driver::current() == context) Driver::current() = nullptr;
    driver.contexts.remove(context);
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuCtxSetCurrent(CUcontext context) {
  return enter([&](Driver& driver) -> CUresult {
    if (context && !driver.is_context(context)) return CUDA_ERROR_INVALID_CONTEXT;
    Driver::current() = context;
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuCtxGetCurrent(CUcontext* out) {
  return enter([&](Driver&) -> CUresult {
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    *out = Driver::current();
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuCtxPushCurrent_v2(CUcontext context) {
  return enter([&](Driver& driver) -> CUresult {
    if (!driver.is_context(context)) return CUDA_ERROR_INVALID_CONTEXT;
    context_stack().push_back(Driver::current());
    Driver::current() = context;
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuCtxPopCurrent_v2(CUcontext* out) {
  return enter([&](Driver&) -> CUresult {
    if (!Driver::current()) return CUDA_ERROR_INVALID_CONTEXT;
    if (out) *out = Driver::current();
    auto& stack = context_stack();
    Driver::current() = stack.empty() ? nullptr : stack.back();
    if (!stack.empty()) stack.pop_back();
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuCtxGetDevice(CUdevice* out) {
  return enter([&](Driver&) -> CUresult {
    if (!Driver::current()) return CUDA_ERROR_INVALID_CONTEXT;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    *out = Driver::current()->device->ordinal;
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuCtxSynchronize() {
  return enter_context([](Driver& driver, CUcontext context) -> CUresult {
    if (driver.is_capturing(context)) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    driver.wait_all(context);
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuCtxEnablePeerAccess(CUcontext peer, unsigned flags) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    if (!driver.is_context(peer)) return CUDA_ERROR_INVALID_CONTEXT;
    if (!driver.has_peers || peer->device == context->device)
      return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
    return context->peers.insert(peer).second ? CUDA_SUCCESS
                                              : CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
  });
}

DRIVER_API cuCtxDisablePeerAccess(CUcontext peer) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    if (!driver.is_context(peer)) return CUDA_ERROR_INVALID_CONTEXT;
    return context->peers.erase(peer) ? CUDA_SUCCESS : CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
  });
}

DRIVER_API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return CUDA_SUCCESS;
}

// ---- for tests ----

// What the checks reported since the last call: texts, each ended by an empty line.
extern "C" __attribute__((visibility("default"))) const char* emulatorTakeReports() {
  static thread_local std::string text;
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  text.clear();
  for (const std::string& report : driver.reports) text += report + "\n\n";
  driver.reports.clear();
  return text.c_str();
}

// Loses a device as if it had fallen off the bus: every call in its contexts gives `error` from now
// on, by default that of memory beyond repair. False where there is no such device.
extern "C" __attribute__((visibility("default"))) bool emulatorLoseDevice(int ordinal,
                                                                          CUresult error) {
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  Device* const device = device_at(driver, ordinal);
  if (!device) return false;
  driver.lose(*device, error == CUDA_SUCCESS ? CUDA_ERROR_ECC_UNCORRECTABLE : error);
  return true;
}

// Loses it in the launch that follows so many others from now on.
extern "C" __attribute__((visibility("default"))) bool emulatorLoseAfter(int ordinal,
                                                                         uint64_t launches) {
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  Device* const device = device_at(driver, ordinal);
  if (!device) return false;
  device->lost_at_launch = device->launches + launches + 1;
  device->lost_with = CUDA_ERROR_ECC_UNCORRECTABLE;
  return true;
}

// How many kernels were run so far.
extern "C" __attribute__((visibility("default"))) uint64_t emulatorLaunches() {
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  return driver.launches;
}

// How many copies between contexts were issued so far.
extern "C" __attribute__((visibility("default"))) uint64_t emulatorPeerCopies() {
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  return driver.peer_copies;
}

// How often a primary context was opened: retained while nobody had it.
extern "C" __attribute__((visibility("default"))) uint64_t emulatorContexts() {
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  return driver.contexts_opened;
}

// Has a piece of a device's work fail after so many others: the call that queues it, or the work
// itself when it runs, whose error its context then keeps. The device is not lost (for that:
// emulatorLoseDevice): its other contexts go on, and cuDevicePrimaryCtxReset clears the error.
extern "C" __attribute__((visibility("default"))) void emulatorFail(int ordinal, int at_call,
                                                                    uint64_t after, int result) {
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  if (Device* const device = device_at(driver, ordinal))
    device->faults.push_back({at_call != 0, after, static_cast<CUresult>(result)});
}

// How many graphs were launched so far.
extern "C" __attribute__((visibility("default"))) uint64_t emulatorGraphLaunches() {
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  return driver.graph_launches;
}

// How many kernels were run so far that might begin before one ahead of them had ended.
extern "C" __attribute__((visibility("default"))) uint64_t emulatorOverlapping() {
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  return driver.overlapping;
}
