// A program as the host side of a backend would write it: the driver is looked up at run time. It
// runs unmodified on a real driver and on the stand-in (two devices of it for the last part).
//
//   host_program LIBRARY CORPUS.ptx FATBIN
//
// Built with GPTOSS_CUDA_H it takes its declarations from the toolkit's cuda.h.
#ifdef GPTOSS_CUDA_H
#include <cuda.h>
#else
#include "emulator/driver/cuda_abi.h"
#endif

#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

namespace {

int g_failures = 0;
void* g_library = nullptr;

void check(bool ok, const char* what, int line) {
  if (ok) return;
  std::printf("FAILED line %d: %s\n", line, what);
  ++g_failures;
}
#define CHECK(condition) check((condition), #condition, __LINE__)
#define OK(call) check((call) == CUDA_SUCCESS, #call, __LINE__)
#define GIVES(call, error) check((call) == (error), #call " gives " #error, __LINE__)

using GetProc = CUresult (*)(const char*, void**, int, unsigned long long,
                             CUdriverProcAddressQueryResult*);

template <class F>
F* entry(const char* name) {
  static const auto get = reinterpret_cast<GetProc>(dlsym(g_library, "cuGetProcAddress_v2"));
  void* address = nullptr;
  CUdriverProcAddressQueryResult status;
  if (!get || get(name, &address, 12000, 0, &status) != CUDA_SUCCESS) {
    std::printf("FAILED: no entry point %s\n", name);
    std::exit(1);
  }
  return reinterpret_cast<F*>(address);
}

// Signatures as they have been for years; the loader gives the newest version of each.
auto* Init = static_cast<CUresult (*)(unsigned)>(nullptr);
CUresult (*DeviceGetCount)(int*);
CUresult (*DeviceGet)(CUdevice*, int);
CUresult (*DeviceGetName)(char*, int, CUdevice);
CUresult (*DeviceTotalMem)(size_t*, CUdevice);
CUresult (*DeviceGetAttribute)(int*, CUdevice_attribute, CUdevice);
CUresult (*CtxRetain)(CUcontext*, CUdevice);
CUresult (*CtxReset)(CUdevice);
CUresult (*CtxSetCurrent)(CUcontext);
CUresult (*CtxSynchronize)();
CUresult (*ModuleLoadData)(CUmodule*, const void*);
CUresult (*ModuleUnload)(CUmodule);
CUresult (*ModuleGetFunction)(CUfunction*, CUmodule, const char*);
CUresult (*ModuleGetGlobal)(CUdeviceptr*, size_t*, CUmodule, const char*);
CUresult (*FuncSetAttribute)(CUfunction, CUfunction_attribute, int);
CUresult (*FuncGetAttribute)(int*, CUfunction_attribute, CUfunction);
CUresult (*MemGetInfo)(size_t*, size_t*);
CUresult (*MemAlloc)(CUdeviceptr*, size_t);
CUresult (*MemFree)(CUdeviceptr);
CUresult (*MemHostAlloc)(void**, size_t, unsigned);
CUresult (*MemFreeHost)(void*);
CUresult (*HtoD)(CUdeviceptr, const void*, size_t);
CUresult (*DtoH)(void*, CUdeviceptr, size_t);
CUresult (*HtoDAsync)(CUdeviceptr, const void*, size_t, CUstream);
CUresult (*DtoHAsync)(void*, CUdeviceptr, size_t, CUstream);
CUresult (*DtoDAsync)(CUdeviceptr, CUdeviceptr, size_t, CUstream);
CUresult (*MemsetD32Async)(CUdeviceptr, unsigned, size_t, CUstream);
CUresult (*StreamCreate)(CUstream*, unsigned);
CUresult (*StreamDestroy)(CUstream);
CUresult (*StreamSynchronize)(CUstream);
CUresult (*StreamQuery)(CUstream);
CUresult (*StreamWaitEvent)(CUstream, CUevent, unsigned);
CUresult (*StreamBeginCapture)(CUstream, CUstreamCaptureMode);
CUresult (*StreamEndCapture)(CUstream, CUgraph*);
CUresult (*EventCreate)(CUevent*, unsigned);
CUresult (*EventRecord)(CUevent, CUstream);
CUresult (*EventQuery)(CUevent);
CUresult (*EventSynchronize)(CUevent);
CUresult (*EventElapsedTime)(float*, CUevent, CUevent);
CUresult (*EventDestroy)(CUevent);
CUresult (*LaunchKernel)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                         unsigned, CUstream, void**, void**);
CUresult (*LaunchKernelEx)(const CUlaunchConfig*, CUfunction, void**, void**);
CUresult (*LaunchHostFunc)(CUstream, CUhostFn, void*);
CUresult (*GraphCreate)(CUgraph*, unsigned);
CUresult (*GraphDestroy)(CUgraph);
CUresult (*GraphAddKernelNode)(CUgraphNode*, CUgraph, const CUgraphNode*, size_t,
                               const CUDA_KERNEL_NODE_PARAMS*);
CUresult (*GraphAddMemsetNode)(CUgraphNode*, CUgraph, const CUgraphNode*, size_t,
                               const CUDA_MEMSET_NODE_PARAMS*, CUcontext);
CUresult (*GraphGetNodes)(CUgraph, CUgraphNode*, size_t*);
CUresult (*GraphInstantiate)(CUgraphExec*, CUgraph, unsigned long long);
CUresult (*GraphLaunch)(CUgraphExec, CUstream);
CUresult (*GraphExecUpdate)(CUgraphExec, CUgraph, CUgraphExecUpdateResultInfo*);
CUresult (*GraphExecKernelNodeSetParams)(CUgraphExec, CUgraphNode, const CUDA_KERNEL_NODE_PARAMS*);
CUresult (*GraphExecDestroy)(CUgraphExec);
CUresult (*Occupancy)(int*, CUfunction, int, size_t);

template <class F>
void look_up(F*& target, const char* name) {
  target = entry<F>(name);
}

void look_up_all() {
  look_up(Init, "cuInit");
  look_up(DeviceGetCount, "cuDeviceGetCount");
  look_up(DeviceGet, "cuDeviceGet");
  look_up(DeviceGetName, "cuDeviceGetName");
  look_up(DeviceTotalMem, "cuDeviceTotalMem");
  look_up(DeviceGetAttribute, "cuDeviceGetAttribute");
  look_up(CtxRetain, "cuDevicePrimaryCtxRetain");
  look_up(CtxReset, "cuDevicePrimaryCtxReset");
  look_up(CtxSetCurrent, "cuCtxSetCurrent");
  look_up(CtxSynchronize, "cuCtxSynchronize");
  look_up(ModuleLoadData, "cuModuleLoadData");
  look_up(ModuleUnload, "cuModuleUnload");
  look_up(ModuleGetFunction, "cuModuleGetFunction");
  look_up(ModuleGetGlobal, "cuModuleGetGlobal");
  look_up(FuncSetAttribute, "cuFuncSetAttribute");
  look_up(FuncGetAttribute, "cuFuncGetAttribute");
  look_up(MemGetInfo, "cuMemGetInfo");
  look_up(MemAlloc, "cuMemAlloc");
  look_up(MemFree, "cuMemFree");
  look_up(MemHostAlloc, "cuMemHostAlloc");
  look_up(MemFreeHost, "cuMemFreeHost");
  look_up(HtoD, "cuMemcpyHtoD");
  look_up(DtoH, "cuMemcpyDtoH");
  look_up(HtoDAsync, "cuMemcpyHtoDAsync");
  look_up(DtoHAsync, "cuMemcpyDtoHAsync");
  look_up(DtoDAsync, "cuMemcpyDtoDAsync");
  look_up(MemsetD32Async, "cuMemsetD32Async");
  look_up(StreamCreate, "cuStreamCreate");
  look_up(StreamDestroy, "cuStreamDestroy");
  look_up(StreamSynchronize, "cuStreamSynchronize");
  look_up(StreamQuery, "cuStreamQuery");
  look_up(StreamWaitEvent, "cuStreamWaitEvent");
  look_up(StreamBeginCapture, "cuStreamBeginCapture");
  look_up(StreamEndCapture, "cuStreamEndCapture");
  look_up(EventCreate, "cuEventCreate");
  look_up(EventRecord, "cuEventRecord");
  look_up(EventQuery, "cuEventQuery");
  look_up(EventSynchronize, "cuEventSynchronize");
  look_up(EventElapsedTime, "cuEventElapsedTime");
  look_up(EventDestroy, "cuEventDestroy");
  look_up(LaunchKernel, "cuLaunchKernel");
  look_up(LaunchKernelEx, "cuLaunchKernelEx");
  look_up(LaunchHostFunc, "cuLaunchHostFunc");
  look_up(GraphCreate, "cuGraphCreate");
  look_up(GraphDestroy, "cuGraphDestroy");
  look_up(GraphAddKernelNode, "cuGraphAddKernelNode");
  look_up(GraphAddMemsetNode, "cuGraphAddMemsetNode");
  look_up(GraphGetNodes, "cuGraphGetNodes");
  look_up(GraphInstantiate, "cuGraphInstantiate");
  look_up(GraphLaunch, "cuGraphLaunch");
  look_up(GraphExecUpdate, "cuGraphExecUpdate");
  look_up(GraphExecKernelNodeSetParams, "cuGraphExecKernelNodeSetParams");
  look_up(GraphExecDestroy, "cuGraphExecDestroy");
  look_up(Occupancy, "cuOccupancyMaxActiveBlocksPerMultiprocessor");
}

std::string read_file(const char* path) {
  std::ostringstream out;
  out << std::ifstream(path, std::ios::binary).rdbuf();
  return out.str();
}

// Prefix sums of 256 integers: `scan` of the corpus.
bool is_scan(const std::vector<int>& x, const std::vector<int>& got) {
  std::vector<int> want(x.size());
  for (size_t block = 0; block < x.size(); block += 256)
    std::partial_sum(x.begin() + static_cast<long>(block),
                     x.begin() + static_cast<long>(block + 256),
                     want.begin() + static_cast<long>(block));
  return got == want;
}

CUfunction function(CUmodule module, const char* name) {
  CUfunction f = nullptr;
  OK(ModuleGetFunction(&f, module, name));
  return f;
}

CUresult launch_scan(CUfunction f, CUdeviceptr x, CUdeviceptr out, unsigned blocks,
                     CUstream stream) {
  void* arguments[] = {&x, &out};
  return LaunchKernel(f, blocks, 1, 1, 256, 1, 1, 0, stream, arguments, nullptr);
}

void devices() {
  int count = 0;
  OK(DeviceGetCount(&count));
  CHECK(count == 2);
  CUdevice device;
  OK(DeviceGet(&device, 0));
  GIVES(DeviceGet(&device, 2), CUDA_ERROR_INVALID_DEVICE);
  char name[64];
  OK(DeviceGetName(name, sizeof name, 0));
  CHECK(!std::strcmp(name, "Emulated A100"));
  OK(DeviceGetName(name, sizeof name, 1));
  CHECK(!std::strcmp(name, "Emulated RTX 4090"));
  int value = 0;
  OK(DeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 1));
  CHECK(value == 9);
  OK(DeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 1));
  CHECK(value == 6);
  OK(DeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 0));
  CHECK(value == 163 * 1024);
  size_t bytes = 0;
  OK(DeviceTotalMem(&bytes, 1));
  CHECK(bytes == 64u << 20);
}

void memory() {
  size_t free_before = 0, free_after = 0, total = 0;
  OK(MemGetInfo(&free_before, &total));
  CUdeviceptr a = 0, b = 0;
  OK(MemAlloc(&a, 1000));
  OK(MemGetInfo(&free_after, &total));
  CHECK(free_before - free_after == 1000);
  GIVES(MemAlloc(&b, total), CUDA_ERROR_OUT_OF_MEMORY);
  GIVES(MemAlloc(&b, 0), CUDA_ERROR_INVALID_VALUE);
  OK(MemAlloc(&b, 1000));  // an error of this kind does not stick
  CHECK(b >= a + 1000 || a >= b + 1000);
  std::vector<char> bytes(1000, 7), back(1000);
  OK(HtoD(a, bytes.data(), 1000));
  GIVES(HtoD(a, bytes.data(), 1001), CUDA_ERROR_INVALID_VALUE);
  GIVES(HtoD(12345, bytes.data(), 10), CUDA_ERROR_INVALID_VALUE);
  OK(DtoH(back.data(), a, 1000));
  CHECK(bytes == back);
  OK(MemFree(a));
  GIVES(MemFree(a), CUDA_ERROR_INVALID_VALUE);
  GIVES(MemFree(b + 8), CUDA_ERROR_INVALID_VALUE);
  OK(MemFree(b));
  OK(MemFree(0));
}

void modules(const std::string& ptx, const std::string& fatbin) {
  CUmodule module = nullptr;
  CUfunction f = nullptr;
  GIVES(ModuleLoadData(&module, "no PTX at all"), CUDA_ERROR_INVALID_PTX);
  GIVES(ModuleLoadData(&module, ".version 8.0\n.target sm_90a\n.address_size 64\n"),
        CUDA_ERROR_INVALID_PTX);
  OK(ModuleLoadData(&module, ptx.c_str()));
  GIVES(ModuleGetFunction(&f, module, "no_such_kernel"), CUDA_ERROR_NOT_FOUND);
  CUdeviceptr launches = 0;
  size_t size = 0;
  OK(ModuleGetGlobal(&launches, &size, module, "launches"));
  CHECK(size == 4);
  unsigned value = 5;
  OK(DtoH(&value, launches, 4));
  CHECK(value == 0);
  OK(ModuleUnload(module));
  GIVES(ModuleGetFunction(&f, module, "scan"), CUDA_ERROR_INVALID_HANDLE);
  OK(ModuleLoadData(&module, fatbin.data()));
  OK(ModuleGetFunction(&f, module, "scan"));
  OK(ModuleUnload(module));
}

void launches(CUmodule module) {
  CUfunction scan = function(module, "scan");
  int value = 0;
  OK(FuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, scan));
  CHECK(value == 256 * 4 + 8 * 4);
  OK(Occupancy(&value, scan, 256, 0));
  CHECK(value == 8);
  OK(Occupancy(&value, scan, 256, 70 * 1024));
  CHECK(value == 2);
  CUdeviceptr x = 0;
  OK(MemAlloc(&x, 1024));
  void* arguments[] = {&x, &x};
  GIVES(LaunchKernel(scan, 0, 1, 1, 256, 1, 1, 0, nullptr, arguments, nullptr),
        CUDA_ERROR_INVALID_VALUE);
  GIVES(LaunchKernel(scan, 1, 1, 1, 2048, 1, 1, 0, nullptr, arguments, nullptr),
        CUDA_ERROR_INVALID_VALUE);
  GIVES(LaunchKernel(scan, 1, 1, 1, 512, 1, 1, 0, nullptr, arguments, nullptr),
        CUDA_ERROR_INVALID_VALUE);
  GIVES(LaunchKernel(scan, 1, 1, 1, 256, 1, 1, 60000, nullptr, arguments, nullptr),
        CUDA_ERROR_INVALID_VALUE);
  OK(FuncSetAttribute(scan, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 60000));
  GIVES(FuncSetAttribute(scan, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 200000),
        CUDA_ERROR_INVALID_VALUE);
  std::vector<int> numbers(256, 1), out(256);
  OK(HtoD(x, numbers.data(), 1024));
  CUdeviceptr y = 0;
  OK(MemAlloc(&y, 1024));
  arguments[1] = &y;
  OK(LaunchKernel(scan, 1, 1, 1, 256, 1, 1, 60000, nullptr, arguments, nullptr));
  OK(DtoH(out.data(), y, 1024));
  CHECK(is_scan(numbers, out));

  CUlaunchAttribute attribute{};
  attribute.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
  attribute.value.cooperative = 1;
  CUlaunchConfig config{};
  config.gridDimX = 4;
  config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1;
  config.blockDimX = 64;
  config.attrs = &attribute;
  config.numAttrs = 1;
  CUfunction phases = function(module, "grid_phases");
  CUdeviceptr middle = 0;
  OK(MemAlloc(&middle, 1024));
  int n = 256;
  void* phase_arguments[] = {&x, &middle, &y, &n};
  OK(LaunchKernelEx(&config, phases, phase_arguments, nullptr));
  OK(DtoH(out.data(), y, 1024));
  CHECK(out == std::vector<int>(256, 3));
  config.gridDimX = 100000;
  GIVES(LaunchKernelEx(&config, phases, phase_arguments, nullptr),
        CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
  attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
  attribute.value.programmaticStreamSerializationAllowed = 1;
  config.gridDimX = 1;
  config.blockDimX = 256;
  OK(LaunchKernelEx(&config, scan, arguments, nullptr));
  OK(CtxSynchronize());
  for (CUdeviceptr p : {x, y, middle}) OK(MemFree(p));
}

void add_one(void* data) { ++*static_cast<int*>(data); }

void streams(CUmodule module) {
  CUfunction scan = function(module, "scan");
  constexpr size_t kCount = 1024;
  CUstream first, second;
  OK(StreamCreate(&first, CU_STREAM_NON_BLOCKING));
  OK(StreamCreate(&second, CU_STREAM_NON_BLOCKING));
  CUevent start, done;
  OK(EventCreate(&start, 0));
  OK(EventCreate(&done, 0));
  int *in = nullptr, *out = nullptr;
  OK(MemHostAlloc(reinterpret_cast<void**>(&in), 4 * kCount, 0));
  OK(MemHostAlloc(reinterpret_cast<void**>(&out), 4 * kCount, 0));
  CUdeviceptr x, y;
  OK(MemAlloc(&x, 4 * kCount));
  OK(MemAlloc(&y, 4 * kCount));
  int host_calls = 0;
  for (int round = 0; round < 5; ++round) {
    for (size_t i = 0; i < kCount; ++i)
      in[i] = static_cast<int>(i * 7 + static_cast<size_t>(round)) % 100;
    const std::vector<int> sent(in, in + kCount);
    OK(EventRecord(start, first));
    OK(HtoDAsync(x, in, 4 * kCount, first));
    OK(launch_scan(scan, x, y, kCount / 256, first));
    OK(EventRecord(done, first));
    // The copy back is in another stream, ordered by the event.
    OK(StreamWaitEvent(second, done, 0));
    OK(DtoHAsync(out, y, 4 * kCount, second));
    OK(LaunchHostFunc(second, add_one, &host_calls));
    CUresult state;
    int polls = 0;
    while ((state = StreamQuery(second)) == CUDA_ERROR_NOT_READY) ++polls;
    CHECK(state == CUDA_SUCCESS);
    CHECK(polls > 0);
    CHECK(host_calls == round + 1);
    CHECK(is_scan(sent, std::vector<int>(out, out + kCount)));
    // The second stream has done its part of this round: the input may change again.
    OK(EventSynchronize(done));
    float ms = -1;
    OK(EventElapsedTime(&ms, start, done));
    CHECK(ms >= 0);
  }
  // Pageable memory may be read at any time until the stream has come past the copy.
  std::vector<int> pageable(kCount, 3);
  OK(HtoDAsync(x, pageable.data(), 4 * kCount, first));
  OK(StreamSynchronize(first));
  pageable.assign(kCount, 9);
  OK(DtoH(pageable.data(), x, 4 * kCount));
  CHECK(pageable == std::vector<int>(kCount, 3));
  // The default stream waits for blocking streams.
  CUstream blocking;
  OK(StreamCreate(&blocking, 0));
  OK(MemsetD32Async(x, 5, kCount, blocking));
  OK(DtoDAsync(y, x, 4 * kCount, nullptr));
  OK(DtoH(pageable.data(), y, 4 * kCount));
  CHECK(pageable == std::vector<int>(kCount, 5));
  GIVES(launch_scan(scan, x, y, 1, reinterpret_cast<CUstream>(0x1234)), CUDA_ERROR_INVALID_HANDLE);
  for (CUstream s : {first, second, blocking}) OK(StreamDestroy(s));
  GIVES(StreamSynchronize(first), CUDA_ERROR_INVALID_HANDLE);
  OK(EventDestroy(start));
  OK(EventDestroy(done));
  OK(MemFreeHost(in));
  OK(MemFreeHost(out));
  OK(MemFree(x));
  OK(MemFree(y));
}

void graphs(CUmodule module, CUcontext context) {
  CUfunction scan = function(module, "scan");
  CUdeviceptr x, y, z;
  for (CUdeviceptr* p : {&x, &y, &z}) OK(MemAlloc(p, 1024));
  const std::vector<int> ones(256, 1);
  std::vector<int> out(256);
  OK(HtoD(x, ones.data(), 1024));
  CUstream stream, side;
  OK(StreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  OK(StreamCreate(&side, CU_STREAM_NON_BLOCKING));
  CUevent fork, join;
  OK(EventCreate(&fork, CU_EVENT_DISABLE_TIMING));
  OK(EventCreate(&join, CU_EVENT_DISABLE_TIMING));

  // Captured: y = scan(x), then z = scan(y) in a second stream, joined.
  const auto capture = [&](CUdeviceptr source) {
    CUgraph graph = nullptr;
    OK(StreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(launch_scan(scan, source, y, 1, stream));
    OK(EventRecord(fork, stream));
    OK(StreamWaitEvent(side, fork, 0));
    OK(launch_scan(scan, y, z, 1, side));
    OK(EventRecord(join, side));
    OK(StreamWaitEvent(stream, join, 0));
    GIVES(StreamSynchronize(stream), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    GIVES(EventQuery(join), CUDA_ERROR_CAPTURED_EVENT);
    OK(StreamEndCapture(stream, &graph));
    return graph;
  };
  CUgraph graph = capture(x);
  size_t count = 0;
  OK(GraphGetNodes(graph, nullptr, &count));
  CHECK(count == 2);
  CUgraphExec exec;
  OK(GraphInstantiate(&exec, graph, 0));
  for (int i = 0; i < 3; ++i) {
    OK(MemsetD32Async(z, 0, 256, stream));
    OK(GraphLaunch(exec, stream));
    OK(StreamSynchronize(stream));
    OK(DtoH(out.data(), z, 1024));
    for (int t = 0; t < 256; ++t) CHECK(out[static_cast<size_t>(t)] == (t + 1) * (t + 2) / 2);
  }
  // The same graph on another buffer.
  CUdeviceptr twos;
  OK(MemAlloc(&twos, 1024));
  OK(HtoD(twos, std::vector<int>(256, 2).data(), 1024));
  CUgraph changed = capture(twos);
  CUgraphExecUpdateResultInfo info{};
  OK(GraphExecUpdate(exec, changed, &info));
  OK(GraphLaunch(exec, stream));
  OK(StreamSynchronize(stream));
  OK(DtoH(out.data(), z, 1024));
  CHECK(out[255] == 256 * 257);

  // Built by hand: a fill, then a kernel.
  CUgraph built;
  OK(GraphCreate(&built, 0));
  CUDA_MEMSET_NODE_PARAMS fill{};
  fill.dst = x;
  fill.value = 4;
  fill.elementSize = 4;
  fill.width = 256;
  fill.height = 1;
  CUgraphNode fill_node, kernel_node;
  OK(GraphAddMemsetNode(&fill_node, built, nullptr, 0, &fill, context));
  CUDA_KERNEL_NODE_PARAMS kernel{};
  void* arguments[] = {&x, &y};
  kernel.func = scan;
  kernel.gridDimX = kernel.gridDimY = kernel.gridDimZ = kernel.blockDimY = kernel.blockDimZ = 1;
  kernel.blockDimX = 256;
  kernel.kernelParams = arguments;
  OK(GraphAddKernelNode(&kernel_node, built, &fill_node, 1, &kernel));
  CUgraphExec built_exec;
  OK(GraphInstantiate(&built_exec, built, 0));
  arguments[1] = &z;
  OK(GraphExecKernelNodeSetParams(built_exec, kernel_node, &kernel));
  OK(GraphLaunch(built_exec, stream));
  OK(StreamSynchronize(stream));
  OK(DtoH(out.data(), z, 1024));
  CHECK(out[255] == 4 * 256);
  GIVES(GraphExecUpdate(built_exec, graph, &info), CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);

  // A stream that was drawn into a capture must be joined.
  OK(StreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
  OK(launch_scan(scan, x, y, 1, stream));
  OK(EventRecord(fork, stream));
  OK(StreamWaitEvent(side, fork, 0));
  OK(launch_scan(scan, y, z, 1, side));
  CUgraph unjoined;
  GIVES(StreamEndCapture(stream, &unjoined), CUDA_ERROR_STREAM_CAPTURE_UNJOINED);

  // What is not safe breaks it.
  OK(StreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
  OK(launch_scan(scan, x, y, 1, stream));
  CUdeviceptr more;
  GIVES(MemAlloc(&more, 64), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  GIVES(StreamEndCapture(stream, &unjoined), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

  OK(GraphExecDestroy(exec));
  OK(GraphExecDestroy(built_exec));
  for (CUgraph g : {graph, changed, built}) OK(GraphDestroy(g));
  for (CUevent e : {fork, join}) OK(EventDestroy(e));
  for (CUstream s : {stream, side}) OK(StreamDestroy(s));
  for (CUdeviceptr p : {x, y, z, twos}) OK(MemFree(p));
}

// A kernel that goes wrong stops its device, and only that.
void sticky_errors(const std::string& ptx, CUcontext first, CUcontext second) {
  OK(CtxSetCurrent(second));
  CUmodule module;
  OK(ModuleLoadData(&module, ptx.c_str()));
  CUfunction scan = function(module, "scan");
  CUdeviceptr x;
  OK(MemAlloc(&x, 1024));
  OK(HtoD(x, std::vector<int>(256, 1).data(), 1024));
  CUdeviceptr too_small;
  OK(MemAlloc(&too_small, 1000));
  OK(launch_scan(scan, x, too_small, 1, nullptr));  // the launch itself is fine
  GIVES(CtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
  GIVES(CtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
  CUdeviceptr p;
  GIVES(MemAlloc(&p, 16), CUDA_ERROR_ILLEGAL_ADDRESS);
  OK(CtxSetCurrent(first));
  OK(MemAlloc(&p, 16));
  OK(MemFree(p));
  OK(CtxReset(1));
  OK(CtxSetCurrent(second));
  OK(CtxSynchronize());
  // A race does not change the result here, but it is an error, too.
  OK(launch_scan(scan, x, x, 1, nullptr));
  OK(CtxSynchronize());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  g_library = dlopen(argv[1], RTLD_NOW);
  if (!g_library) {
    std::printf("no driver: %s\n", dlerror());
    return 2;
  }
  look_up_all();
  const std::string ptx = read_file(argv[2]), fatbin = read_file(argv[3]);
  int count;
  GIVES(DeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
  OK(Init(0));
  devices();
  CUdeviceptr p;
  GIVES(MemAlloc(&p, 16), CUDA_ERROR_INVALID_CONTEXT);
  CUcontext first, second;
  OK(CtxRetain(&first, 0));
  OK(CtxRetain(&second, 1));
  for (CUcontext context : {first, second}) {
    OK(CtxSetCurrent(context));
    memory();
    modules(ptx, fatbin);
    CUmodule module;
    OK(ModuleLoadData(&module, ptx.c_str()));
    if (context == first) launches(module);
    streams(module);
    graphs(module, context);
    OK(ModuleUnload(module));
  }
  sticky_errors(ptx, first, second);
  std::printf("%s\n", g_failures ? "failed" : "all right");
  return g_failures ? 1 : 0;
}
