// Memory of devices, pinned memory of the host, copies and fills.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "emulator/driver/state.h"

using namespace gptoss::emulator;
using namespace gptoss::emulator::driver;

namespace {

uint64_t address_of(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

// Whether the stand-in knows the whole range as memory of a device or as pinned.
bool is_known(Driver& driver, uint64_t address, uint64_t bytes) {
  return driver.device_of(address, bytes) || driver.is_pinned(address, bytes);
}

enum class Side { kDevice, kHost, kEither };

// `owner`: the context that memory of a device must be of, or one that may use it.
CUresult check_side(Driver& driver, CUcontext owner, uint64_t address, uint64_t bytes, Side side) {
  if (side == Side::kHost) return address ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  const Device* const device = driver.device_of(address, bytes);
  if (device && !Driver::may_use(owner, device)) return CUDA_ERROR_INVALID_VALUE;
  if (is_known(driver, address, bytes)) return CUDA_SUCCESS;
  // A range that begins in a device's memory and leaves it is wrong whatever was meant.
  if (side == Side::kDevice || driver.device_of(address, 1)) return CUDA_ERROR_INVALID_VALUE;
  return address ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult copy(CopyCall call, Side target, Side source, CUstream handle, bool is_async) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    if (!call.width || !call.height) return CUDA_SUCCESS;
    CUstream stream = driver.stream(context, handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    const uint64_t to_bytes = (call.height - 1) * call.target_pitch + call.width;
    const uint64_t from_bytes = (call.height - 1) * call.source_pitch + call.width;
    const CUcontext to = call.target_context ? call.target_context : stream->context;
    const CUcontext from = call.source_context ? call.source_context : stream->context;
    if (const CUresult r = check_side(driver, to, call.target, to_bytes, target); r != CUDA_SUCCESS)
      return r;
    if (const CUresult r = check_side(driver, from, call.source, from_bytes, source);
        r != CUDA_SUCCESS)
      return r;
    if (!is_async && driver.is_capturing(context)) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    const bool pageable_source = !is_known(driver, call.source, from_bytes);
    const bool pageable_target = !is_known(driver, call.target, to_bytes);
    const bool within_host = !driver.device_of(call.target, 1) && !driver.device_of(call.source, 1);
    const bool at_once = within_host || driver.is_kind();
    if (is_async && pageable_source && at_once && !stream->capture) {
      call.staged.resize(call.width * call.height);
      for (uint64_t row = 0; row < call.height; ++row)
        std::memcpy(&call.staged[row * call.width],
                    reinterpret_cast<const void*>(call.source + row * call.source_pitch),
                    call.width);
    }
    const bool captures = stream->capture != nullptr;
    Action action;
    action.type = CU_GRAPH_NODE_TYPE_MEMCPY;
    action.copy = std::move(call);
    if (const CUresult r = driver.issue(stream, std::move(action)); r != CUDA_SUCCESS) return r;
    if (!captures && (!is_async || within_host || (pageable_target && at_once)))
      driver.wait(stream->last);
    return CUDA_SUCCESS;
  });
}

CUresult copy_line(uint64_t to, uint64_t from, size_t bytes, Side target, Side source,
                   CUstream stream, bool is_async) {
  CopyCall call;
  call.target = to;
  call.source = from;
  call.width = bytes;
  return copy(std::move(call), target, source, stream, is_async);
}

// Memory of each context is its own device's, and no access to a peer is needed.
CUresult copy_peer(uint64_t to, CUcontext to_context, uint64_t from, CUcontext from_context,
                   size_t bytes, CUstream stream, bool is_async) {
  const CUresult known = enter_context([&](Driver& driver, CUcontext) -> CUresult {
    for (const CUcontext context : {to_context, from_context}) {
      if (!driver.is_context(context)) return CUDA_ERROR_INVALID_CONTEXT;
      if (context->sticky != CUDA_SUCCESS) return context->sticky;
    }
    const Device* const target = driver.device_of(to, bytes);
    const Device* const source = driver.device_of(from, bytes);
    if (target != to_context->device || source != from_context->device)
      return CUDA_ERROR_INVALID_VALUE;
    ++driver.peer_copies;
    if (!is_async) {  // waits for both contexts
      driver.wait_all(to_context);
      driver.wait_all(from_context);
    }
    return CUDA_SUCCESS;
  });
  if (known != CUDA_SUCCESS) return known;
  CopyCall call;
  call.target = to;
  call.source = from;
  call.width = bytes;
  call.target_context = to_context;
  call.source_context = from_context;
  return copy(std::move(call), Side::kDevice, Side::kDevice, stream, is_async);
}

CUresult copy_plane(const CUDA_MEMCPY2D* p, CUstream stream, bool is_async) {
  if (!p) return CUDA_ERROR_INVALID_VALUE;
  if (p->srcMemoryType == CU_MEMORYTYPE_ARRAY || p->dstMemoryType == CU_MEMORYTYPE_ARRAY)
    return CUDA_ERROR_NOT_SUPPORTED;
  CopyCall call;
  const bool from_host = p->srcMemoryType == CU_MEMORYTYPE_HOST;
  const bool to_host = p->dstMemoryType == CU_MEMORYTYPE_HOST;
  call.source_pitch = p->srcPitch ? p->srcPitch : p->WidthInBytes;
  call.target_pitch = p->dstPitch ? p->dstPitch : p->WidthInBytes;
  if (call.source_pitch < p->WidthInBytes || call.target_pitch < p->WidthInBytes)
    return CUDA_ERROR_INVALID_VALUE;
  call.source = (from_host ? address_of(p->srcHost) : p->srcDevice) + p->srcY * call.source_pitch +
                p->srcXInBytes;
  call.target = (to_host ? address_of(p->dstHost) : p->dstDevice) + p->dstY * call.target_pitch +
                p->dstXInBytes;
  call.width = p->WidthInBytes;
  call.height = p->Height;
  const auto side = [](CUmemorytype type) {
    return type == CU_MEMORYTYPE_HOST     ? Side::kHost
           : type == CU_MEMORYTYPE_DEVICE ? Side::kDevice
                                          : Side::kEither;
  };
  return copy(std::move(call), side(p->dstMemoryType), side(p->srcMemoryType), stream, is_async);
}

CUresult fill(CUdeviceptr target, uint32_t value, uint32_t element, size_t count, CUstream handle,
              bool is_async) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    if (!count) return CUDA_SUCCESS;
    CUstream stream = driver.stream(context, handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    const Device* const device = driver.device_of(target, count * element);
    if (target % element || !device || !Driver::may_use(stream->context, device))
      return CUDA_ERROR_INVALID_VALUE;
    Action action;
    action.type = CU_GRAPH_NODE_TYPE_MEMSET;
    action.fill = {target, 0, count, 1, value, element};
    if (const CUresult r = driver.issue(stream, std::move(action)); r != CUDA_SUCCESS) return r;
    if (!is_async) driver.wait(stream->last);
    return CUDA_SUCCESS;
  });
}

CUresult allocate(CUdeviceptr* out, size_t bytes) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    if (!out || !bytes) return CUDA_ERROR_INVALID_VALUE;
    if (driver.breaks_capture()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    static uint64_t number = 0;
    const uint64_t address =
        context->device->memory->allocate(bytes, "allocation " + std::to_string(++number));
    if (!address) return CUDA_ERROR_OUT_OF_MEMORY;
    *out = address;
    return CUDA_SUCCESS;
  });
}

CUresult pin(Driver& driver, void* bytes, size_t size) {
  driver.pinned[address_of(bytes)] = size;
  for (const auto& device : driver.devices) device->memory->map_host(bytes, size, "pinned memory");
  return CUDA_SUCCESS;
}

void unpin(Driver& driver, void* bytes) {
  driver.pinned.erase(address_of(bytes));
  for (const auto& device : driver.devices) device->memory->free(address_of(bytes));
}

CUresult allocate_host(void** out, size_t bytes) {
  return enter_context([&](Driver& driver, CUcontext) -> CUresult {
    if (!out || !bytes) return CUDA_ERROR_INVALID_VALUE;
    if (driver.breaks_capture()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    void* memory = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!memory) return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(memory, kPoison, bytes);
    driver.owned_pinned.insert(address_of(memory));
    *out = memory;
    return pin(driver, memory, bytes);
  });
}

}  // namespace

DRIVER_API cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
  return enter_context([&](Driver&, CUcontext context) -> CUresult {
    const Memory& memory = *context->device->memory;
    if (free_bytes) *free_bytes = memory.capacity() - memory.used();
    if (total) *total = memory.capacity();
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuMemAlloc_v2(CUdeviceptr* out, size_t bytes) { return allocate(out, bytes); }

DRIVER_API cuMemAllocPitch_v2(CUdeviceptr* out, size_t* pitch, size_t width, size_t height,
                              unsigned element) {
  if (!pitch || (element != 4 && element != 8 && element != 16)) return CUDA_ERROR_INVALID_VALUE;
  *pitch = (width + 511) / 512 * 512;
  return allocate(out, *pitch * height);
}

DRIVER_API cuMemFree_v2(CUdeviceptr address) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    if (!address) return CUDA_SUCCESS;
    if (driver.breaks_capture()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    Device* device = driver.device_of(address, 1);
    if (!device) return CUDA_ERROR_INVALID_VALUE;
    if (driver.is_endless || driver.is_kind()) driver.wait_all(context);
    return device->memory->free(address) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

DRIVER_API cuMemAllocAsync(CUdeviceptr* out, size_t bytes, CUstream) {
  return allocate(out, bytes);
}

DRIVER_API cuMemFreeAsync(CUdeviceptr address, CUstream handle) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    CUstream stream = driver.stream(context, handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture) return CUDA_ERROR_NOT_SUPPORTED;
    Device* device = driver.device_of(address, 1);
    if (!device) return CUDA_ERROR_INVALID_VALUE;
    driver.enqueue(stream, [device, address] {
      return device->memory->free(address) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    });
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuMemAllocHost_v2(void** out, size_t bytes) { return allocate_host(out, bytes); }
DRIVER_API cuMemHostAlloc(void** out, size_t bytes, unsigned flags) {
  constexpr unsigned kKnown =
      CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
  return flags & ~kKnown ? CUDA_ERROR_INVALID_VALUE : allocate_host(out, bytes);
}

DRIVER_API cuMemFreeHost(void* memory) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    if (!driver.owned_pinned.count(address_of(memory))) return CUDA_ERROR_INVALID_VALUE;
    if (driver.breaks_capture()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    driver.wait_all(context);
    driver.owned_pinned.erase(address_of(memory));
    unpin(driver, memory);
    std::free(memory);
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuMemHostRegister_v2(void* memory, size_t bytes, unsigned) {
  return enter_context([&](Driver& driver, CUcontext) -> CUresult {
    if (!memory || !bytes) return CUDA_ERROR_INVALID_VALUE;
    if (driver.is_pinned(address_of(memory), 1)) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    return pin(driver, memory, bytes);
  });
}

DRIVER_API cuMemHostUnregister(void* memory) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    if (!driver.pinned.count(address_of(memory)) || driver.owned_pinned.count(address_of(memory)))
      return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    driver.wait_all(context);
    unpin(driver, memory);
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuMemHostGetDevicePointer_v2(CUdeviceptr* out, void* memory, unsigned) {
  return enter_context([&](Driver& driver, CUcontext) -> CUresult {
    if (!out || !driver.is_pinned(address_of(memory), 1)) return CUDA_ERROR_INVALID_VALUE;
    *out = address_of(memory);
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuMemGetAddressRange_v2(CUdeviceptr* base, size_t* bytes, CUdeviceptr address) {
  return enter_context([&](Driver& driver, CUcontext) -> CUresult {
    Device* device = driver.device_of(address, 1);
    if (!device) return CUDA_ERROR_NOT_FOUND;
    const Allocation* found = device->memory->find(address, 1);
    if (base) *base = found->base;
    if (bytes) *bytes = found->size;
    return CUDA_SUCCESS;
  });
}

DRIVER_API cuPointerGetAttribute(void* data, CUpointer_attribute which, CUdeviceptr address) {
  return enter_context([&](Driver& driver, CUcontext context) -> CUresult {
    Device* device = driver.device_of(address, 1);
    if (!data || !is_known(driver, address, 1)) return CUDA_ERROR_INVALID_VALUE;
    switch (which) {
      case CU_POINTER_ATTRIBUTE_CONTEXT:
        *static_cast<CUcontext*>(data) =
            device && device->primary ? device->primary.get() : context;
        return CUDA_SUCCESS;
      case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *static_cast<CUmemorytype*>(data) = device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
        return CUDA_SUCCESS;
      case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        *static_cast<CUdeviceptr*>(data) = address;
        return CUDA_SUCCESS;
      case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        if (device) return CUDA_ERROR_INVALID_VALUE;
        *static_cast<CUdeviceptr*>(data) = address;
        return CUDA_SUCCESS;
      case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *static_cast<int*>(data) = device ? device->ordinal : context->device->ordinal;
        return CUDA_SUCCESS;
      case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      case CU_POINTER_ATTRIBUTE_RANGE_SIZE: {
        const Allocation* found = (device ? device : context->device)->memory->find(address, 1);
        *static_cast<uint64_t*>(data) =
            which == CU_POINTER_ATTRIBUTE_RANGE_SIZE ? found->size : found->base;
        return CUDA_SUCCESS;
      }
    }
    return CUDA_ERROR_INVALID_VALUE;
  });
}

// ---- copies ----

DRIVER_API cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return copy_line(to, from, bytes, Side::kEither, Side::kEither, nullptr, false);
}
DRIVER_API cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return copy_line(to, from, bytes, Side::kEither, Side::kEither, stream, true);
}
DRIVER_API cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
  return copy_line(to, address_of(from), bytes, Side::kDevice, Side::kHost, nullptr, false);
}
DRIVER_API cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
  return copy_line(address_of(to), from, bytes, Side::kHost, Side::kDevice, nullptr, false);
}
DRIVER_API cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return copy_line(to, from, bytes, Side::kDevice, Side::kDevice, nullptr, false);
}
DRIVER_API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  return copy_line(to, address_of(from), bytes, Side::kDevice, Side::kHost, stream, true);
}
DRIVER_API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return copy_line(address_of(to), from, bytes, Side::kHost, Side::kDevice, stream, true);
}
DRIVER_API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return copy_line(to, from, bytes, Side::kDevice, Side::kDevice, stream, true);
}
DRIVER_API cuMemcpyPeer(CUdeviceptr to, CUcontext to_context, CUdeviceptr from,
                        CUcontext from_context, size_t bytes) {
  return copy_peer(to, to_context, from, from_context, bytes, nullptr, false);
}
DRIVER_API cuMemcpyPeerAsync(CUdeviceptr to, CUcontext to_context, CUdeviceptr from,
                             CUcontext from_context, size_t bytes, CUstream stream) {
  return copy_peer(to, to_context, from, from_context, bytes, stream, true);
}
DRIVER_API cuMemcpy2D_v2(const CUDA_MEMCPY2D* p) { return copy_plane(p, nullptr, false); }
DRIVER_API cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* p, CUstream s) { return copy_plane(p, s, true); }

DRIVER_API cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
  return fill(to, value, 1, count, nullptr, false);
}
DRIVER_API cuMemsetD16_v2(CUdeviceptr to, unsigned short value, size_t count) {
  return fill(to, value, 2, count, nullptr, false);
}
DRIVER_API cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) {
  return fill(to, value, 4, count, nullptr, false);
}
DRIVER_API cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream s) {
  return fill(to, value, 1, count, s, true);
}
DRIVER_API cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, CUstream s) {
  return fill(to, value, 2, count, s, true);
}
DRIVER_API cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream s) {
  return fill(to, value, 4, count, s, true);
}
