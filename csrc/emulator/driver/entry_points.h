// Every entry point of the stand-in: name without a version, exported symbol, what it models.
//
// X(name, symbol, text). cuGetProcAddress, the list for tests and docs/emulator.md come from here.
#pragma once

#define GPTOSS_DRIVER_ENTRY_POINTS(X)                                                            \
  X(cuInit, cuInit, "reads the devices from the environment")                                    \
  X(cuDriverGetVersion, cuDriverGetVersion, "as configured, else 13.0")                          \
  X(cuGetErrorName, cuGetErrorName, "names of the errors that the stand-in gives")               \
  X(cuGetErrorString, cuGetErrorString, "own sentences")                                         \
  X(cuGetProcAddress, cuGetProcAddress_v2, "what this driver has, else null; none per thread")   \
  X(cuDeviceGetCount, cuDeviceGetCount, "as configured")                                         \
  X(cuDeviceGet, cuDeviceGet, "")                                                                \
  X(cuDeviceGetName, cuDeviceGetName, "\"Emulated \" and the profile's name")                    \
  X(cuDeviceGetUuid, cuDeviceGetUuid_v2, "made up, different per device")                        \
  X(cuDeviceTotalMem, cuDeviceTotalMem_v2, "as configured")                                      \
  X(cuDeviceGetAttribute, cuDeviceGetAttribute, "limits of the profile; clocks are made up")     \
  X(cuDeviceGetPCIBusId, cuDeviceGetPCIBusId, "made up")                                         \
  X(cuDeviceCanAccessPeer, cuDeviceCanAccessPeer, "any other, with GPTOSS_EMULATOR_PEERS=1")     \
  X(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, "")                                      \
  X(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, "")                                 \
  X(cuDevicePrimaryCtxReset, cuDevicePrimaryCtxReset_v2, "clears a sticky error; memory stays")  \
  X(cuDevicePrimaryCtxSetFlags, cuDevicePrimaryCtxSetFlags_v2, "flags are ignored")              \
  X(cuDevicePrimaryCtxGetState, cuDevicePrimaryCtxGetState, "")                                  \
  X(cuCtxCreate, cuCtxCreate_v2, "_v2 and _v4; flags are ignored")                               \
  X(cuCtxDestroy, cuCtxDestroy_v2, "")                                                           \
  X(cuCtxSetCurrent, cuCtxSetCurrent, "")                                                        \
  X(cuCtxGetCurrent, cuCtxGetCurrent, "")                                                        \
  X(cuCtxPushCurrent, cuCtxPushCurrent_v2, "")                                                   \
  X(cuCtxPopCurrent, cuCtxPopCurrent_v2, "")                                                     \
  X(cuCtxGetDevice, cuCtxGetDevice, "")                                                          \
  X(cuCtxSynchronize, cuCtxSynchronize, "runs all work of the context")                          \
  X(cuCtxEnablePeerAccess, cuCtxEnablePeerAccess, "for copies, fills and kernels")               \
  X(cuCtxDisablePeerAccess, cuCtxDisablePeerAccess, "")                                          \
  X(cuCtxGetStreamPriorityRange, cuCtxGetStreamPriorityRange, "0 to -5; priorities do nothing")  \
  X(cuModuleLoadData, cuModuleLoadData, "PTX, or uncompressed PTX in a fat binary; no cubins")   \
  X(cuModuleLoadDataEx, cuModuleLoadDataEx, "of the options only the error log")                 \
  X(cuModuleLoadFatBinary, cuModuleLoadFatBinary, "as cuModuleLoadData")                         \
  X(cuModuleLoad, cuModuleLoad, "as cuModuleLoadData, from a file")                              \
  X(cuModuleUnload, cuModuleUnload, "")                                                          \
  X(cuModuleGetFunction, cuModuleGetFunction, "")                                                \
  X(cuModuleGetGlobal, cuModuleGetGlobal_v2, "")                                                 \
  X(cuLibraryLoadData, cuLibraryLoadData, "options are ignored")                                 \
  X(cuLibraryUnload, cuLibraryUnload, "")                                                        \
  X(cuLibraryGetKernel, cuLibraryGetKernel, "")                                                  \
  X(cuLibraryGetModule, cuLibraryGetModule, "")                                                  \
  X(cuLibraryGetGlobal, cuLibraryGetGlobal, "")                                                  \
  X(cuKernelGetFunction, cuKernelGetFunction, "")                                                \
  X(cuKernelSetAttribute, cuKernelSetAttribute, "as cuFuncSetAttribute, in the current context") \
  X(cuKernelGetAttribute, cuKernelGetAttribute, "as cuFuncGetAttribute, in the current context") \
  X(cuFuncGetAttribute, cuFuncGetAttribute, "registers: .maxnreg, or 0")                         \
  X(cuFuncSetAttribute, cuFuncSetAttribute, "dynamic shared memory, large clusters; no others")  \
  X(cuFuncSetCacheConfig, cuFuncSetCacheConfig, "ignored")                                       \
  X(cuFuncGetModule, cuFuncGetModule, "")                                                        \
  X(cuFuncGetName, cuFuncGetName, "")                                                            \
  X(cuFuncGetParamInfo, cuFuncGetParamInfo, "")                                                  \
  X(cuOccupancyMaxActiveBlocksPerMultiprocessor, cuOccupancyMaxActiveBlocksPerMultiprocessor,    \
    "without registers, which PTX does not tell")                                                \
  X(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags,                                        \
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags, "flags are ignored")                   \
  X(cuOccupancyMaxActiveClusters, cuOccupancyMaxActiveClusters,                                  \
    "over the simulated multiprocessors, without registers; clusters share multiprocessors")     \
  X(cuOccupancyMaxPotentialClusterSize, cuOccupancyMaxPotentialClusterSize, "powers of two")     \
  X(cuMemGetInfo, cuMemGetInfo_v2, "")                                                           \
  X(cuMemAlloc, cuMemAlloc_v2,                                                                   \
    "poisoned, gaps between allocations, out of memory at the set size")                         \
  X(cuMemAllocPitch, cuMemAllocPitch_v2, "pitch is a multiple of 512")                           \
  X(cuMemFree, cuMemFree_v2, "waits for all work first, or does not")                            \
  X(cuMemAllocAsync, cuMemAllocAsync, "allocates at once")                                       \
  X(cuMemFreeAsync, cuMemFreeAsync, "frees in the order of the stream")                          \
  X(cuMemAllocHost, cuMemAllocHost_v2, "")                                                       \
  X(cuMemHostAlloc, cuMemHostAlloc, "portable and mapped, whatever the flags")                   \
  X(cuMemFreeHost, cuMemFreeHost, "waits for all work first")                                    \
  X(cuMemHostRegister, cuMemHostRegister_v2, "")                                                 \
  X(cuMemHostUnregister, cuMemHostUnregister, "")                                                \
  X(cuMemHostGetDevicePointer, cuMemHostGetDevicePointer_v2, "the same address")                 \
  X(cuMemGetAddressRange, cuMemGetAddressRange_v2, "")                                           \
  X(cuPointerGetAttribute, cuPointerGetAttribute, "context, type, pointers, ordinal, range")     \
  X(cuMemcpy, cuMemcpy, "device memory: of the context, or of a peer that it has access to")     \
  X(cuMemcpyAsync, cuMemcpyAsync, "pinned memory is touched late, pageable late or at once")     \
  X(cuMemcpyHtoD, cuMemcpyHtoD_v2, "")                                                           \
  X(cuMemcpyDtoH, cuMemcpyDtoH_v2, "")                                                           \
  X(cuMemcpyDtoD, cuMemcpyDtoD_v2, "")                                                           \
  X(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2, "")                                                 \
  X(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2, "where the target is pageable, waits or does not")  \
  X(cuMemcpyDtoDAsync, cuMemcpyDtoDAsync_v2, "")                                                 \
  X(cuMemcpyPeer, cuMemcpyPeer, "waits for both contexts first")                                 \
  X(cuMemcpyPeerAsync, cuMemcpyPeerAsync, "needs no access to a peer")                           \
  X(cuMemcpy2D, cuMemcpy2D_v2, "no arrays")                                                      \
  X(cuMemcpy2DAsync, cuMemcpy2DAsync_v2, "no arrays")                                            \
  X(cuMemsetD8, cuMemsetD8_v2, "")                                                               \
  X(cuMemsetD16, cuMemsetD16_v2, "")                                                             \
  X(cuMemsetD32, cuMemsetD32_v2, "")                                                             \
  X(cuMemsetD8Async, cuMemsetD8Async, "")                                                        \
  X(cuMemsetD16Async, cuMemsetD16Async, "")                                                      \
  X(cuMemsetD32Async, cuMemsetD32Async, "")                                                      \
  X(cuStreamCreate, cuStreamCreate, "")                                                          \
  X(cuStreamCreateWithPriority, cuStreamCreateWithPriority, "the priority is kept, not used")    \
  X(cuStreamDestroy, cuStreamDestroy_v2, "its work is finished first")                           \
  X(cuStreamSynchronize, cuStreamSynchronize, "")                                                \
  X(cuStreamQuery, cuStreamQuery, "each query lets some work go on")                             \
  X(cuStreamWaitEvent, cuStreamWaitEvent, "")                                                    \
  X(cuStreamGetFlags, cuStreamGetFlags, "")                                                      \
  X(cuStreamGetPriority, cuStreamGetPriority, "")                                                \
  X(cuStreamGetCtx, cuStreamGetCtx, "")                                                          \
  X(cuStreamBeginCapture, cuStreamBeginCapture_v2,                                               \
    "modes differ for the default stream, allocations and cuEventQuery")                         \
  X(cuThreadExchangeStreamCaptureMode, cuThreadExchangeStreamCaptureMode, "")                    \
  X(cuStreamEndCapture, cuStreamEndCapture, "")                                                  \
  X(cuStreamIsCapturing, cuStreamIsCapturing, "")                                                \
  X(cuLaunchHostFunc, cuLaunchHostFunc, "which may not call the driver")                         \
  X(cuEventCreate, cuEventCreate, "")                                                            \
  X(cuEventDestroy, cuEventDestroy_v2, "")                                                       \
  X(cuEventRecord, cuEventRecord, "")                                                            \
  X(cuEventRecordWithFlags, cuEventRecordWithFlags, "not external")                              \
  X(cuEventQuery, cuEventQuery, "each query lets some work go on")                               \
  X(cuEventSynchronize, cuEventSynchronize, "")                                                  \
  X(cuEventElapsedTime, cuEventElapsedTime, "time of the emulation, not of a device")            \
  X(cuLaunchKernel, cuLaunchKernel, "limits are checked at once, faults come with the wait")     \
  X(cuLaunchKernelEx, cuLaunchKernelEx,                                                          \
    "cooperative; clusters and programmatic serialization on cards of 9.0 and up")               \
  X(cuLaunchCooperativeKernel, cuLaunchCooperativeKernel, "all blocks must fit at once")         \
  X(cuTensorMapEncodeTiled, cuTensorMapEncodeTiled,                                              \
    "no interleaving, strides between elements or fill with NaN; the map is the emulator's own") \
  X(cuGraphCreate, cuGraphCreate, "")                                                            \
  X(cuGraphDestroy, cuGraphDestroy, "")                                                          \
  X(cuGraphAddKernelNode, cuGraphAddKernelNode_v2, "")                                           \
  X(cuGraphAddMemcpyNode, cuGraphAddMemcpyNode, "no arrays, depth 1")                            \
  X(cuGraphAddMemsetNode, cuGraphAddMemsetNode, "")                                              \
  X(cuGraphAddHostNode, cuGraphAddHostNode, "")                                                  \
  X(cuGraphAddEmptyNode, cuGraphAddEmptyNode, "")                                                \
  X(cuGraphAddDependencies, cuGraphAddDependencies,                                              \
    "also _v2; programmatic edges, no launch order")                                             \
  X(cuGraphGetNodes, cuGraphGetNodes, "")                                                        \
  X(cuGraphNodeGetType, cuGraphNodeGetType, "")                                                  \
  X(cuGraphKernelNodeGetParams, cuGraphKernelNodeGetParams_v2, "")                               \
  X(cuGraphKernelNodeSetParams, cuGraphKernelNodeSetParams_v2, "")                               \
  X(cuGraphInstantiate, cuGraphInstantiateWithFlags, "flags do nothing; not for device launch")  \
  X(cuGraphInstantiateWithFlags, cuGraphInstantiateWithFlags,                                    \
    "flags do nothing; not for device launch")                                                   \
  X(cuGraphExecKernelNodeSetParams, cuGraphExecKernelNodeSetParams_v2, "")                       \
  X(cuGraphExecUpdate, cuGraphExecUpdate_v2, "same nodes and edges; other parameters")           \
  X(cuGraphUpload, cuGraphUpload, "nothing to do")                                               \
  X(cuGraphLaunch, cuGraphLaunch, "nodes run in a random order that the edges allow")            \
  X(cuGraphExecDestroy, cuGraphExecDestroy, "what runs ends first, and nobody waits")
