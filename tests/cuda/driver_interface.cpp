// What csrc/cuda/driver.h says of the driver's interface, compared with cuda.h as this compiles.
// ENTRY_POINTS is a header with SAME(name, typedef of cudaTypedefs.h) for each entry point.
#include <cuda.h>
#include <cudaTypedefs.h>

#include <cstddef>
#include <type_traits>

#include "cuda/driver.h"

namespace own = gptoss::cuda;

namespace {

template <class A>
constexpr bool is_number = std::is_enum_v<A> || std::is_integral_v<A>;

// Whether arguments are handed over alike: numbers of one size, pointers to what is alike. Structs
// are compared below, member by member; handles are pointers to what nobody looks into.
template <class A, class B>
struct Same : std::bool_constant<is_number<A> == is_number<B> && !std::is_pointer_v<A> &&
                                 !std::is_pointer_v<B>> {};
template <class A, class B>
  requires(is_number<A> && is_number<B>)
struct Same<A, B> : std::bool_constant<sizeof(A) == sizeof(B)> {};
template <class A, class B>
struct Same<A*, B*>
    : std::bool_constant<std::is_const_v<A> == std::is_const_v<B> &&
                         Same<std::remove_const_t<A>, std::remove_const_t<B>>::value> {};
template <class R, class... A, class S, class... B>
  requires(sizeof...(A) != sizeof...(B))
struct Same<R (*)(A...), S (*)(B...)> : std::false_type {};
template <class R, class... A, class S, class... B>
  requires(sizeof...(A) == sizeof...(B))
struct Same<R (*)(A...), S (*)(B...)>
    : std::bool_constant<(std::is_void_v<R> ? std::is_void_v<S> : Same<R, S>::value) &&
                         (Same<A, B>::value && ...)> {};

#define SAME(name, type) \
  static_assert(Same<decltype(own::Driver::name), type>::value, #name " is not " #type);
#include ENTRY_POINTS
#undef SAME

// Differences are seen.
static_assert(!Same<int (*)(int), int (*)(long)>::value);
static_assert(!Same<int (*)(int), int (*)(int*)>::value);
static_assert(!Same<int (*)(int*), int (*)(const int*)>::value);
static_assert(!Same<int (*)(int*), int (*)(int**)>::value);
static_assert(!Same<int (*)(int), int (*)(int, int)>::value);
static_assert(!Same<int (*)(int), void (*)(int)>::value);

#define NUMBER(ours, theirs) \
  static_assert(static_cast<long long>(own::ours) == static_cast<long long>(theirs), #theirs)
NUMBER(kSuccess, CUDA_SUCCESS);
NUMBER(kOutOfMemory, CUDA_ERROR_OUT_OF_MEMORY);
NUMBER(kNoDevice, CUDA_ERROR_NO_DEVICE);
NUMBER(kInvalidImage, CUDA_ERROR_INVALID_IMAGE);
NUMBER(kNoBinaryForGpu, CUDA_ERROR_NO_BINARY_FOR_GPU);
NUMBER(kInvalidPtx, CUDA_ERROR_INVALID_PTX);
NUMBER(kUnsupportedPtxVersion, CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
NUMBER(kNotReady, CUDA_ERROR_NOT_READY);
NUMBER(kAttributeMultiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
NUMBER(kAttributeCapabilityMajor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
NUMBER(kAttributeCapabilityMinor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
NUMBER(kAttributeSharedPerBlockOptin, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
NUMBER(kFunctionSharedBytes, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
NUMBER(kFunctionPtxVersion, CU_FUNC_ATTRIBUTE_PTX_VERSION);
NUMBER(kFunctionMaxDynamicShared, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
NUMBER(kStreamNonBlocking, CU_STREAM_NON_BLOCKING);
NUMBER(kEventBlockingSync, CU_EVENT_BLOCKING_SYNC);
NUMBER(kEventDisableTiming, CU_EVENT_DISABLE_TIMING);
NUMBER(kHostAllocPortable, CU_MEMHOSTALLOC_PORTABLE);
NUMBER(kCaptureRelaxed, CU_STREAM_CAPTURE_MODE_RELAXED);
NUMBER(kJitErrorLog, CU_JIT_ERROR_LOG_BUFFER);
NUMBER(kJitErrorLogBytes, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES);
NUMBER(kLaunchProgrammatic, CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
NUMBER(kProgrammaticEdge.type, CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC);
NUMBER(kProgrammaticEdge.from_port, CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC);
NUMBER(kProgrammaticEdge.to_port, CU_GRAPH_KERNEL_NODE_PORT_DEFAULT);

#define SIZE(ours, theirs)                                                           \
  static_assert(sizeof(own::ours) == sizeof(theirs), #theirs);                       \
  static_assert(alignof(own::ours) == alignof(theirs), "the alignment of " #theirs); \
  static_assert(std::is_standard_layout_v<own::ours>)
#define MEMBER(ours, member, theirs, their_member)                               \
  static_assert(offsetof(own::ours, member) == offsetof(theirs, their_member) && \
                    sizeof(own::ours::member) == sizeof(theirs::their_member),   \
                #theirs "." #their_member)

SIZE(KernelNode, CUDA_KERNEL_NODE_PARAMS_v2);
MEMBER(KernelNode, function, CUDA_KERNEL_NODE_PARAMS_v2, func);
MEMBER(KernelNode, grid_x, CUDA_KERNEL_NODE_PARAMS_v2, gridDimX);
MEMBER(KernelNode, grid_y, CUDA_KERNEL_NODE_PARAMS_v2, gridDimY);
MEMBER(KernelNode, grid_z, CUDA_KERNEL_NODE_PARAMS_v2, gridDimZ);
MEMBER(KernelNode, block_x, CUDA_KERNEL_NODE_PARAMS_v2, blockDimX);
MEMBER(KernelNode, block_y, CUDA_KERNEL_NODE_PARAMS_v2, blockDimY);
MEMBER(KernelNode, block_z, CUDA_KERNEL_NODE_PARAMS_v2, blockDimZ);
MEMBER(KernelNode, dynamic_shared, CUDA_KERNEL_NODE_PARAMS_v2, sharedMemBytes);
MEMBER(KernelNode, parameters, CUDA_KERNEL_NODE_PARAMS_v2, kernelParams);
MEMBER(KernelNode, extra, CUDA_KERNEL_NODE_PARAMS_v2, extra);
MEMBER(KernelNode, kernel, CUDA_KERNEL_NODE_PARAMS_v2, kern);
MEMBER(KernelNode, context, CUDA_KERNEL_NODE_PARAMS_v2, ctx);

SIZE(LaunchAttribute, CUlaunchAttribute);
MEMBER(LaunchAttribute, id, CUlaunchAttribute, id);
static_assert(offsetof(own::LaunchAttribute, is_on) == offsetof(CUlaunchAttribute, value));
static_assert(sizeof(own::LaunchAttribute::is_on) ==
              sizeof(CUlaunchAttributeValue::programmaticStreamSerializationAllowed));

SIZE(LaunchConfig, CUlaunchConfig);
MEMBER(LaunchConfig, grid_x, CUlaunchConfig, gridDimX);
MEMBER(LaunchConfig, grid_y, CUlaunchConfig, gridDimY);
MEMBER(LaunchConfig, grid_z, CUlaunchConfig, gridDimZ);
MEMBER(LaunchConfig, block_x, CUlaunchConfig, blockDimX);
MEMBER(LaunchConfig, block_y, CUlaunchConfig, blockDimY);
MEMBER(LaunchConfig, block_z, CUlaunchConfig, blockDimZ);
MEMBER(LaunchConfig, dynamic_shared, CUlaunchConfig, sharedMemBytes);
MEMBER(LaunchConfig, stream, CUlaunchConfig, hStream);
MEMBER(LaunchConfig, attributes, CUlaunchConfig, attrs);
MEMBER(LaunchConfig, n_attributes, CUlaunchConfig, numAttrs);

SIZE(GraphEdge, CUgraphEdgeData);
MEMBER(GraphEdge, from_port, CUgraphEdgeData, from_port);
MEMBER(GraphEdge, to_port, CUgraphEdgeData, to_port);
MEMBER(GraphEdge, type, CUgraphEdgeData, type);
MEMBER(GraphEdge, reserved, CUgraphEdgeData, reserved);

}  // namespace
