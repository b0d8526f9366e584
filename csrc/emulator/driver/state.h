// What the stand-in driver knows: devices, contexts, streams of work, graphs.
//
// Work is put off: a stream's queue runs when somebody waits for it, and among the streams that
// could go on, one is chosen at random from a seed. So a program that forgets to wait, or to order
// two streams, sees what it would see on the worst day of a real device.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "emulator/driver/cuda_abi.h"
#include "emulator/driver/releases.h"
#include "emulator/ptx/machine.h"
#include "emulator/ptx/program.h"

namespace gptoss::emulator::driver {

// What a test has asked to go wrong on a device: the call that would queue a piece of work, or the
// work when it runs, whose error then sticks to its context.
struct PlannedFault {
  bool at_call = false;
  uint64_t after = 0;  // pieces of work before it
  CUresult result = CUDA_SUCCESS;
};

struct Device {
  int ordinal = 0;
  int number = 0;  // among all, whatever CUDA_VISIBLE_DEVICES shows
  const DeviceProfile* profile = nullptr;
  std::string name;
  uint64_t memory_bytes = 0;
  uint32_t multiprocessors = 0;
  std::shared_ptr<Memory> memory;
  std::unique_ptr<CUctx_st> primary;
  uint64_t launches = 0;
  // The error of a device that is lost, and the launch that loses it where the environment says so.
  CUresult lost = CUDA_SUCCESS;
  uint64_t lost_at_launch = 0;
  CUresult lost_with = CUDA_ERROR_ECC_UNCORRECTABLE;
  bool is_unavailable = false;  // no context can be had, as where another process has it alone
  std::vector<PlannedFault> faults;

  bool gives_contexts() const { return !is_unavailable && lost == CUDA_SUCCESS; }
  // The result of the next piece of work, if a fault is due.
  CUresult take_fault(bool at_call);
};

// A kernel with everything that a launch gives it.
struct KernelCall {
  CUfunction function = nullptr;
  Dim3 grid, block;
  uint32_t shared_bytes = 0;
  bool cooperative = false;
  Dim3 cluster{0, 0, 0};      // of a launch attribute
  bool programmatic = false;  // may begin before the kernel ahead of it in the stream has ended
  std::vector<uint8_t> parameters;
};

struct CopyCall {
  uint64_t target = 0, source = 0;
  uint64_t width = 0, height = 1, target_pitch = 0, source_pitch = 0;
  std::vector<uint8_t> staged;  // pageable sources are read when the copy is issued
  // Of a copy between contexts: whose memory the two are.
  CUcontext target_context = nullptr, source_context = nullptr;
};

struct FillCall {
  uint64_t target = 0, pitch = 0, width = 0, height = 1;  // width in elements
  uint32_t value = 0, element_bytes = 1;
};

// What a stream or a node of a graph does.
struct Action {
  CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;
  KernelCall kernel;
  CopyCall copy;
  FillCall fill;
  CUhostFn host = nullptr;
  void* host_data = nullptr;
  CUevent event = nullptr;
};

struct Work {
  std::function<CUresult()> run;
  std::shared_ptr<Action> action;  // what runs, where it is a single action
  std::vector<std::shared_ptr<Work>> after;
  CUctx_st* context = nullptr;
  std::shared_ptr<void> keeps;  // until it is done
  bool done = false;
};

}  // namespace gptoss::emulator::driver

struct CUstream_st {
  CUcontext context = nullptr;
  unsigned flags = 0;
  int priority = 0;
  std::deque<std::shared_ptr<gptoss::emulator::driver::Work>> queue;
  std::shared_ptr<gptoss::emulator::driver::Work> last;
  std::vector<std::shared_ptr<gptoss::emulator::driver::Work>> next_after;  // cuStreamWaitEvent
  // Of a capture; the stream that began it owns the graph.
  CUgraph capture = nullptr;
  bool began_capture = false;
  CUstreamCaptureMode capture_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  std::thread::id capture_thread;
  bool is_broken = false;  // what it captured, by a call that was not safe
  std::vector<CUgraphNode> tail;
};

struct CUctx_st {
  gptoss::emulator::driver::Device* device = nullptr;
  bool is_primary = false;
  int retained = 0;
  CUresult sticky = CUDA_SUCCESS;
  CUstream_st default_stream;
  CUstream_st per_thread_stream;
  std::vector<CUstream> streams;        // all but the default ones
  std::unordered_set<CUcontext> peers;  // whose memory it may use, by cuCtxEnablePeerAccess
};

struct CUevent_st {
  CUcontext context = nullptr;
  unsigned flags = 0;
  std::shared_ptr<gptoss::emulator::driver::Work> recorded;
  double time_ms = 0;
  CUgraph capture = nullptr;  // recorded in a stream that captures
  std::vector<CUgraphNode> captured;
};

struct CUfunc_st {
  CUmodule module = nullptr;
  const gptoss::emulator::Kernel* kernel = nullptr;
  int max_dynamic_shared_bytes = 0;  // 0: the default of the device
  bool large_clusters = false;       // more than the portable size
};

struct CUmod_st {
  CUcontext context = nullptr;
  std::shared_ptr<gptoss::emulator::Module> module;
  std::map<std::string, std::unique_ptr<CUfunc_st>> functions;
  int ptx_version = 0, target = 0;
};

struct CUkern_st {
  CUlibrary library = nullptr;
  std::string name;
};

struct CUlib_st {
  std::string ptx;
  std::map<CUcontext, std::unique_ptr<CUmod_st>> modules;
  std::map<std::string, std::unique_ptr<CUkern_st>> kernels;
};

struct GraphEdge {
  CUgraphNode from = nullptr;
  bool programmatic = false;
};

struct CUgraphNode_st {
  CUgraph graph = nullptr;
  gptoss::emulator::driver::Action action;
  std::vector<GraphEdge> after;
  CUcontext context = nullptr;
  std::vector<void*> parameter_pointers;  // what GetParams hands out
};

struct CUgraph_st {
  std::vector<std::unique_ptr<CUgraphNode_st>> nodes;
};

struct CUgraphExec_st {
  CUgraph_st graph;
  std::unordered_map<CUgraphNode, CUgraphNode> of_original;
  std::shared_ptr<gptoss::emulator::driver::Work> last;
};

namespace gptoss::emulator::driver {

// Handles of one kind that are alive.
template <class T>
class Handles {
 public:
  T* add(std::unique_ptr<T> object) {
    T* handle = object.get();
    alive_[handle] = std::move(object);
    return handle;
  }
  bool has(const T* handle) const { return alive_.count(const_cast<T*>(handle)) != 0; }
  bool remove(T* handle) { return alive_.erase(handle) != 0; }
  // Out of those that are alive.
  std::unique_ptr<T> take(T* handle) { return std::move(alive_.extract(handle).mapped()); }
  template <class F>
  void each(F f) const {
    for (const auto& [handle, object] : alive_) f(handle);
  }

 private:
  std::unordered_map<T*, std::unique_ptr<T>> alive_;
};

class Driver {
 public:
  // Created at first use, from the environment (docs/emulator.md lists the variables).
  static Driver& instance();

  std::recursive_mutex mutex;
  bool is_initialised = false;
  int64_t process = 0;               // that initialised it
  Release release = kNewestRelease;  // which driver this is
  std::vector<std::unique_ptr<Device>> devices;
  Handles<CUctx_st> contexts;
  Handles<CUstream_st> streams;
  Handles<CUevent_st> events;
  Handles<CUmod_st> modules;
  Handles<CUlib_st> libraries;
  Handles<CUgraph_st> graphs;
  Handles<CUgraphExec_st> execs;
  std::unordered_set<const void*> functions, kernels, nodes;
  std::map<uint64_t, uint64_t> pinned;  // address -> size
  std::unordered_set<uint64_t> owned_pinned;
  CUresult ensure_primary(Device& device);
  // A line on stderr, unless it is to be quiet.
  void say(const std::string& what) const;
  // From now on every context of the device has the error.
  void lose(Device& device, CUresult error);

  // Whether a handle is a context that can be used.
  bool is_context(CUcontext context) const;
  // Of the calling thread; null where there is none.
  static CUcontext& current();

  // Whether work of the context may use memory of the device.
  static bool may_use(CUcontext context, const Device* device);
  // The stream that a handle means, or null.
  CUstream stream(CUcontext context, CUstream handle);
  // Runs the action in the stream, or makes a node of it while the stream captures.
  CUresult issue(CUstream stream, Action action);
  std::shared_ptr<Work> enqueue(CUstream stream, std::function<CUresult()> run);
  CUresult run(CUcontext context, const Action& action);
  CUresult run_graph(CUcontext context, const CUgraph_st& graph);
  // Runs one piece of work somewhere; false where nothing is left.
  bool run_one();
  // For ever, where the work never ends.
  void wait(const std::shared_ptr<Work>& work);
  void wait_all(CUcontext context);
  bool is_capturing(CUcontext context) const;
  // Of the calling thread.
  static CUstreamCaptureMode& capture_mode();
  // Whether a call that may not be safe while a stream captures is refused in this thread: then it
  // has broken what was captured.
  bool breaks_capture();

  CUresult check_launch(CUcontext context, const KernelCall& call);
  LaunchOptions options_of(CUcontext context, const KernelCall& call) const;
  // The device whose memory holds the range, or null for memory of the host.
  Device* device_of(uint64_t address, uint64_t bytes);
  CUresult copy(const CopyCall& call);
  CUresult fill(const FillCall& call);
  bool is_pinned(uint64_t address, uint64_t bytes) const;
  // Whether this time a call does what it may do and need not: touches pageable memory before it
  // returns, waits for work.
  bool is_kind() { return kindness_() % 2 == 0; }

  // Text of PTX in an image: itself, or out of a fat binary. An error, and why, where there is none
  // for the device, or machine code that this driver would take instead and cannot load.
  CUresult ptx_of_image(const void* image, const Device& device, std::string& out,
                        std::string& why) const;
  // Whether it loads machine code of this ABI for a card.
  bool loads_cubin(CubinAbi abi, int capability, std::string& why) const;
  CUresult load(CUcontext context, const std::string& ptx, std::unique_ptr<CUmod_st>& out,
                std::string& log);
  CUfunction function(CUmodule module, const std::string& name);
  // The function of a handle that may be a CUkernel, in the context; null for neither.
  CUfunction resolve(CUcontext context, const void* handle);

  // For tests: what the checks found since the last call of emulatorTakeReports.
  std::vector<std::string> reports;
  std::string output;
  uint64_t launches = 0, graph_launches = 0, peer_copies = 0, contexts_opened = 0;
  uint64_t overlapping = 0;  // kernels that might begin before one ahead had ended
  bool has_peers = false;    // whether devices may be given access to each other
  bool is_endless = false;   // whether work of a device that is lost never ends
  // Kernels that overlap are refused as attributes of launches, as edges, in graphs.
  bool refuses_launches = false, refuses_edges = false, refuses_graphs = false;

 private:
  Driver();
  void add_device(const std::string& description);
  void keep_visible(const std::string& list);
  void plan_loss(const std::string& list);
  void plan_refusals(const std::string& list);
  struct Overlapping {
    const KernelCall* call;
    std::vector<LaunchRequest::Prerequisite> after;
  };
  CUresult run_kernels(CUcontext context, const std::vector<Overlapping>& calls);

  std::mt19937_64 random_, kindness_;
  uint64_t seed_ = 1;
  bool strict_ = true, quiet_ = false;
  enum class Hostile { kNever, kPerDevice, kPerLaunch } hostile_ = Hostile::kPerDevice;
};

// Whether the calling thread is in a function of cuLaunchHostFunc.
bool& calls_host();
// A fork of the process that initialised the driver cannot use it.
bool is_own_process(const Driver& driver);

// Wraps the body of an entry point: lock, initialisation, and no exception across the boundary.
template <class F>
CUresult enter(F body) {
  Driver& driver = Driver::instance();
  const std::lock_guard lock(driver.mutex);
  if (!driver.is_initialised || !is_own_process(driver)) return CUDA_ERROR_NOT_INITIALIZED;
  if (calls_host()) return CUDA_ERROR_NOT_PERMITTED;
  try {
    return body(driver);
  } catch (const std::bad_alloc&) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  } catch (const std::exception&) {
    return CUDA_ERROR_UNKNOWN;
  }
}

// The same for what needs a current context; its sticky error comes first.
template <class F>
CUresult enter_context(F body) {
  return enter([&](Driver& driver) -> CUresult {
    const CUcontext context = Driver::current();
    if (!context) return CUDA_ERROR_INVALID_CONTEXT;
    if (!driver.is_context(context)) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    if (context->sticky != CUDA_SUCCESS) return context->sticky;
    const CUresult result = body(driver, context);
    return result == CUDA_SUCCESS ? context->sticky : result;
  });
}

#define DRIVER_API extern "C" __attribute__((visibility("default"))) CUresult

}  // namespace gptoss::emulator::driver
