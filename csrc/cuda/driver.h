// The CUDA driver, found when a device is first asked for: its library is opened by name, so that
// one build works with and without it.
//
// Types, numbers and entry points are those of the driver's binary interface, which does not
// change.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/check.h"

namespace gptoss::cuda {

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct CUctx_st*;
using CUmodule = struct CUmod_st*;
using CUfunction = struct CUfunc_st*;
using CUstream = struct CUstream_st*;
using CUevent = struct CUevent_st*;
using CUgraph = struct CUgraph_st*;
using CUgraphNode = struct CUgraphNode_st*;
using CUgraphExec = struct CUgraphExec_st*;
using CUhostFn = void (*)(void*);

inline constexpr CUresult kSuccess = 0;
inline constexpr CUresult kOutOfMemory = 2;
inline constexpr CUresult kNoDevice = 100;
inline constexpr CUresult kInvalidImage = 200;
inline constexpr CUresult kNoBinaryForGpu = 209;
inline constexpr CUresult kInvalidPtx = 218;
inline constexpr CUresult kUnsupportedPtxVersion = 222;
inline constexpr CUresult kNotReady = 600;

inline constexpr int kAttributeMultiprocessors = 16;
inline constexpr int kAttributeCapabilityMajor = 75;
inline constexpr int kAttributeCapabilityMinor = 76;
inline constexpr int kAttributeSharedPerBlockOptin = 97;
inline constexpr int kFunctionSharedBytes = 1;  // static
inline constexpr int kFunctionPtxVersion = 5;   // of the architecture: 80 of compute_80
inline constexpr int kFunctionMaxDynamicShared = 8;
inline constexpr unsigned kStreamNonBlocking = 1;
inline constexpr unsigned kEventBlockingSync = 1;
inline constexpr unsigned kEventDisableTiming = 2;
inline constexpr unsigned kHostAllocPortable = 1;
inline constexpr int kCaptureRelaxed = 2;
inline constexpr int kJitErrorLog = 5;
inline constexpr int kJitErrorLogBytes = 6;

// CUDA_KERNEL_NODE_PARAMS_v2.
struct KernelNode {
  CUfunction function;
  unsigned grid_x, grid_y, grid_z;
  unsigned block_x, block_y, block_z;
  unsigned dynamic_shared;
  void** parameters;
  void** extra;
  void* kernel;
  CUcontext context;
};

// CUlaunchAttribute and CUlaunchConfig.
struct LaunchAttribute {
  int id;
  char padding[4];
  alignas(8) int is_on;
  char others[60];  // of other attributes
};
inline constexpr int kLaunchProgrammatic = 6;  // it may begin before the kernel ahead has ended
struct LaunchConfig {
  unsigned grid_x, grid_y, grid_z;
  unsigned block_x, block_y, block_z;
  unsigned dynamic_shared;
  CUstream stream;
  LaunchAttribute* attributes;
  unsigned n_attributes;
};

// CUgraphEdgeData.
struct GraphEdge {
  unsigned char from_port, to_port, type, reserved[5];
};
// Of kernels: the second may begin when all blocks of the first have called launch_dependents().
inline constexpr GraphEdge kProgrammaticEdge = {1, 0, 1, {}};

// The oldest driver whose interface is enough: CUDA 12.0, driver 525.
inline constexpr int kOldestVersion = 12000;

// X(name, parameters) of every entry point that is used.
#define GPTOSS_CUDA_ENTRY_POINTS(X)                                                               \
  X(cuInit, (unsigned))                                                                           \
  X(cuGetErrorName, (CUresult, const char**))                                                     \
  X(cuGetErrorString, (CUresult, const char**))                                                   \
  X(cuDeviceGetCount, (int*))                                                                     \
  X(cuDeviceGet, (CUdevice*, int))                                                                \
  X(cuDeviceGetName, (char*, int, CUdevice))                                                      \
  X(cuDeviceTotalMem, (size_t*, CUdevice))                                                        \
  X(cuDeviceGetAttribute, (int*, int, CUdevice))                                                  \
  X(cuDevicePrimaryCtxRetain, (CUcontext*, CUdevice))                                             \
  X(cuDevicePrimaryCtxRelease, (CUdevice))                                                        \
  X(cuCtxPushCurrent, (CUcontext))                                                                \
  X(cuCtxPopCurrent, (CUcontext*))                                                                \
  X(cuThreadExchangeStreamCaptureMode, (int*))                                                    \
  X(cuMemGetInfo, (size_t*, size_t*))                                                             \
  X(cuMemAlloc, (CUdeviceptr*, size_t))                                                           \
  X(cuMemFree, (CUdeviceptr))                                                                     \
  X(cuMemHostAlloc, (void**, size_t, unsigned))                                                   \
  X(cuMemFreeHost, (void*))                                                                       \
  X(cuMemcpyHtoDAsync, (CUdeviceptr, const void*, size_t, CUstream))                              \
  X(cuMemcpyDtoHAsync, (void*, CUdeviceptr, size_t, CUstream))                                    \
  X(cuMemcpyDtoDAsync, (CUdeviceptr, CUdeviceptr, size_t, CUstream))                              \
  X(cuMemcpyPeerAsync, (CUdeviceptr, CUcontext, CUdeviceptr, CUcontext, size_t, CUstream))        \
  X(cuMemsetD8Async, (CUdeviceptr, unsigned char, size_t, CUstream))                              \
  X(cuStreamCreate, (CUstream*, unsigned))                                                        \
  X(cuStreamDestroy, (CUstream))                                                                  \
  X(cuStreamSynchronize, (CUstream))                                                              \
  X(cuStreamQuery, (CUstream))                                                                    \
  X(cuStreamWaitEvent, (CUstream, CUevent, unsigned))                                             \
  X(cuLaunchHostFunc, (CUstream, CUhostFn, void*))                                                \
  X(cuEventCreate, (CUevent*, unsigned))                                                          \
  X(cuEventDestroy, (CUevent))                                                                    \
  X(cuEventQuery, (CUevent))                                                                      \
  X(cuEventRecord, (CUevent, CUstream))                                                           \
  X(cuEventSynchronize, (CUevent))                                                                \
  X(cuModuleLoadDataEx, (CUmodule*, const void*, unsigned, int*, void**))                         \
  X(cuModuleUnload, (CUmodule))                                                                   \
  X(cuModuleGetFunction, (CUfunction*, CUmodule, const char*))                                    \
  X(cuFuncGetAttribute, (int*, int, CUfunction))                                                  \
  X(cuFuncSetAttribute, (CUfunction, int, int))                                                   \
  X(cuLaunchKernelEx, (const LaunchConfig*, CUfunction, void**, void**))                          \
  X(cuGraphCreate, (CUgraph*, unsigned))                                                          \
  X(cuGraphAddKernelNode, (CUgraphNode*, CUgraph, const CUgraphNode*, size_t, const KernelNode*)) \
  X(cuGraphInstantiateWithFlags, (CUgraphExec*, CUgraph, unsigned long long))                     \
  X(cuGraphLaunch, (CUgraphExec, CUstream))                                                       \
  X(cuGraphExecDestroy, (CUgraphExec))                                                            \
  X(cuGraphDestroy, (CUgraph))

// X(name, version, parameters) of those that are used where there are any: null in drivers of
// before that version of CUDA.
#define GPTOSS_CUDA_LATER_ENTRY_POINTS(X) \
  X(cuGraphAddDependencies, 12030,        \
    (CUgraph, const CUgraphNode*, const CUgraphNode*, const GraphEdge*, size_t))

class Driver {
 public:
  // Opens and initialises it at the first call. Throws BackendError: no driver, or an older one
  // than is needed (with both versions), or what it says, or that a fork cannot use it.
  static const Driver& get();

  // As cuDriverGetVersion has it: 12040 is CUDA 12.4.
  int version() const { return version_; }

#define GPTOSS_CUDA_POINTER(name, parameters) CUresult(*name) parameters = nullptr;
#define GPTOSS_CUDA_LATER_POINTER(name, version, parameters) GPTOSS_CUDA_POINTER(name, parameters)
  GPTOSS_CUDA_ENTRY_POINTS(GPTOSS_CUDA_POINTER)
  GPTOSS_CUDA_LATER_ENTRY_POINTS(GPTOSS_CUDA_LATER_POINTER)
#undef GPTOSS_CUDA_LATER_POINTER
#undef GPTOSS_CUDA_POINTER

  // "sentence (NAME)" of an error.
  std::string describe(CUresult result) const;
  // Throws OutOfMemory or BackendError unless the call succeeded.
  template <class... Args>
  void check(CUresult result, const Args&... what) const {
    if (result != kSuccess) fail(result, concat(what...));
  }

 private:
  Driver();
  [[noreturn]] void fail(CUresult result, const std::string& what) const;

  int version_ = 0;
  int64_t process_ = 0;
};

// "12.4" of 12040.
std::string version_text(int version);
// "CUDA 12.4 (driver 550)": the first that has it, where that is known.
std::string driver_text(int version);

// A device that can run the kernels.
struct DeviceInfo {
  int ordinal;  // among those that the driver shows (CUDA_VISIBLE_DEVICES)
  CUdevice handle;
  std::string name;
  int major, minor;  // compute capability
  int multiprocessors;
  int shared_per_block;  // bytes that a block may ask for
  int64_t memory;        // bytes
};

// "cuda:1", as load() takes it, and "cuda:1 (NVIDIA A100)".
std::string label_of(const DeviceInfo& device);
std::string name_of(const DeviceInfo& device);

// The devices of these ordinals, in their order, or all whose compute capability is 8.0 or newer.
// Throws BackendError naming what there is instead: where there is none of that kind, where an
// ordinal is not one of those that the driver shows or comes twice, or is an older device's.
std::vector<DeviceInfo> find_devices(std::span<const int> ordinals = {});

}  // namespace gptoss::cuda
