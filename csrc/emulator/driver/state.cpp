#include "emulator/driver/state.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <thread>

#include <unistd.h>

#include "emulator/ptx/limits.h"

namespace gptoss::emulator::driver {
namespace {

std::string environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value ? value : otherwise;
}

// "8G", "512M", "1000000"
uint64_t parse_bytes(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const double unit = *end == 'G' ? 0x1p30 : *end == 'M' ? 0x1p20 : *end == 'K' ? 0x1p10 : 1;
  return static_cast<uint64_t>(value * unit);
}

double now_ms() {
  using namespace std::chrono;
  return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

// Of bytes as cuDeviceGetUuid makes them up.
std::string uuid_text(const Device& device) {
  char text[64];
  std::snprintf(text, sizeof text, "GPU-e0e0e0e0-e0e0-e0e0-e0e0-e0e0e0e0e0%02x", device.number);
  return text;
}

CUresult result_of(Fault fault) {
  switch (fault) {
    case Fault::kNone:
      return CUDA_SUCCESS;
    case Fault::kIllegalAddress:
      return CUDA_ERROR_ILLEGAL_ADDRESS;
    case Fault::kMisalignedAddress:
      return CUDA_ERROR_MISALIGNED_ADDRESS;
    case Fault::kIllegalInstruction:
      return CUDA_ERROR_ILLEGAL_INSTRUCTION;
    case Fault::kAssert:
      return CUDA_ERROR_ASSERT;
    case Fault::kTimeout:
      return CUDA_ERROR_LAUNCH_TIMEOUT;
    case Fault::kInvalidLaunch:
      return CUDA_ERROR_INVALID_VALUE;
    case Fault::kOutOfResources:
      return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    case Fault::kInvalidCluster:
      return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    case Fault::kCooperativeTooLarge:
      return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    default:
      return CUDA_ERROR_LAUNCH_FAILED;
  }
}

}  // namespace

bool& calls_host() {
  thread_local bool calls = false;
  return calls;
}

bool is_own_process(const Driver& driver) { return driver.process == getpid(); }

Driver& Driver::instance() {
  static Driver* driver = new Driver();  // outlives every thread of the host
  return *driver;
}

Driver::Driver() {
  seed_ = std::strtoull(environment("GPTOSS_EMULATOR_SEED", "1").c_str(), nullptr, 0);
  strict_ = environment("GPTOSS_EMULATOR_STRICT", "1") != "0";
  const std::string hostile = environment("GPTOSS_EMULATOR_HOSTILE", "1");
  hostile_ = hostile == "0"        ? Hostile::kNever
             : hostile == "launch" ? Hostile::kPerLaunch
                                   : Hostile::kPerDevice;
  quiet_ = environment("GPTOSS_EMULATOR_QUIET", "0") != "0";
  random_.seed(seed_);
  kindness_.seed(seed_);
  const std::string name = environment("GPTOSS_EMULATOR_DRIVER", std::string(release.name).c_str());
  const Release* const found = std::ranges::find(kReleases, name, &Release::name);
  if (found == std::end(kReleases)) {
    std::fprintf(stderr, "emulator: unknown driver %s\n", name.c_str());
    return;  // without devices
  }
  release = *found;
  std::istringstream list(environment("GPTOSS_EMULATOR_DEVICES", "A100:memory=4G"));
  for (std::string entry; std::getline(list, entry, ';');)
    if (!entry.empty()) add_device(entry);
  has_peers = environment("GPTOSS_EMULATOR_PEERS", "0") != "0";
  plan_loss(environment("GPTOSS_EMULATOR_LOSE", ""));
  is_endless = environment("GPTOSS_EMULATOR_ENDLESS", "0") != "0";
  plan_refusals(environment("GPTOSS_EMULATOR_REFUSE", ""));
  if (const char* list_of = std::getenv("CUDA_VISIBLE_DEVICES")) keep_visible(list_of);
}

// Ordinals or UUIDs, which may be cut off where they are unambiguous. What comes behind the first
// that is not a device's is not shown.
void Driver::keep_visible(const std::string& list) {
  std::vector<std::unique_ptr<Device>> shown;
  std::istringstream entries(list);
  for (std::string entry; std::getline(entries, entry, ',');) {
    std::vector<std::unique_ptr<Device>*> found;
    for (auto& device : devices) {
      if (device && (entry == std::to_string(device->number) ||
                     (entry.rfind("GPU-", 0) == 0 && uuid_text(*device).rfind(entry, 0) == 0)))
        found.push_back(&device);
    }
    if (found.size() != 1) break;
    (*found[0])->ordinal = static_cast<int>(shown.size());
    shown.push_back(std::move(*found[0]));
  }
  devices = std::move(shown);
}

// DEVICE@LAUNCH[:ERROR], separated by ';': the device is lost in that launch, counted from 1.
void Driver::plan_loss(const std::string& list) {
  std::istringstream entries(list);
  for (std::string entry; std::getline(entries, entry, ';');) {
    size_t device = 0;
    unsigned long long launch = 0;
    int error = CUDA_ERROR_ECC_UNCORRECTABLE, end = 0;
    const bool with_error =
        std::sscanf(entry.c_str(), "%zu@%llu:%d%n", &device, &launch, &error, &end) == 3;
    const bool is_read =
        with_error || std::sscanf(entry.c_str(), "%zu@%llu%n", &device, &launch, &end) == 2;
    if (!is_read || entry[static_cast<size_t>(end)] || device >= devices.size() || !launch ||
        error <= 0) {
      std::fprintf(stderr,
                   "emulator: GPTOSS_EMULATOR_LOSE: expected DEVICE@LAUNCH or DEVICE@LAUNCH:ERROR "
                   "of a device that is there, got %s\n",
                   entry.c_str());
      continue;
    }
    devices[device]->lost_at_launch = launch;
    devices[device]->lost_with = static_cast<CUresult>(error);
  }
}

// "launches", "edges", "graphs", separated by ';'.
void Driver::plan_refusals(const std::string& list) {
  std::istringstream entries(list);
  for (std::string entry; std::getline(entries, entry, ';');) {
    bool* const found = entry == "launches" ? &refuses_launches
                        : entry == "edges"  ? &refuses_edges
                        : entry == "graphs" ? &refuses_graphs
                                            : nullptr;
    if (found) {
      *found = true;
    } else {
      std::fprintf(stderr,
                   "emulator: GPTOSS_EMULATOR_REFUSE: expected launches, edges or graphs, got %s\n",
                   entry.c_str());
    }
  }
}

void Driver::say(const std::string& what) const {
  if (!quiet_) std::fprintf(stderr, "emulator: %s\n", what.c_str());
}

void Driver::lose(Device& device, CUresult error) {
  device.lost = error;
  if (device.primary) device.primary->sticky = error;
  contexts.each([&](CUcontext context) {
    if (context->device == &device) context->sticky = error;
  });
}

CUresult Device::take_fault(bool at_call) {
  for (auto fault = faults.begin(); fault != faults.end(); ++fault) {
    if (fault->at_call != at_call || fault->after-- > 0) continue;
    const CUresult result = fault->result;
    faults.erase(fault);
    return result;
  }
  return CUDA_SUCCESS;
}

// NAME[:memory=SIZE][:sms=COUNT][:unavailable]
void Driver::add_device(const std::string& description) {
  std::istringstream parts(description);
  std::string name;
  std::getline(parts, name, ':');
  auto device = std::make_unique<Device>();
  device->ordinal = device->number = static_cast<int>(devices.size());
  device->profile = find_profile(name);
  if (!device->profile) {
    std::fprintf(stderr, "emulator: unknown device %s\n", name.c_str());
    return;
  }
  const int capability = 10 * device->profile->compute_major + device->profile->compute_minor;
  if (release.cuda < oldest_cuda_of(capability)) {
    std::fprintf(stderr, "emulator: driver %s does not know %s\n",
                 std::string(release.name).c_str(), name.c_str());
    return;
  }
  device->name = "Emulated " + std::string(device->profile->name);
  device->memory_bytes = device->profile->memory_bytes;
  for (std::string option; std::getline(parts, option, ':');) {
    if (option.rfind("memory=", 0) == 0) device->memory_bytes = parse_bytes(option.substr(7));
    if (option.rfind("sms=", 0) == 0)
      device->multiprocessors = static_cast<uint32_t>(std::atoi(option.c_str() + 4));
    if (option == "unavailable") device->is_unavailable = true;
  }
  if (!device->multiprocessors) device->multiprocessors = 4;
  device->memory = std::make_shared<Memory>(device->memory_bytes);
  devices.push_back(std::move(device));
}

CUresult Driver::ensure_primary(Device& device) {
  if (device.primary) return CUDA_SUCCESS;
  device.primary = std::make_unique<CUctx_st>();
  device.primary->device = &device;
  device.primary->is_primary = true;
  device.primary->default_stream.context = device.primary.get();
  device.primary->per_thread_stream.context = device.primary.get();
  return CUDA_SUCCESS;
}

bool Driver::is_context(CUcontext context) const {
  return contexts.has(context) ||
         std::any_of(devices.begin(), devices.end(), [&](const auto& device) {
           return context && device->primary.get() == context && context->retained > 0;
         });
}

CUcontext& Driver::current() {
  thread_local CUcontext context = nullptr;
  return context;
}

bool Driver::may_use(CUcontext context, const Device* device) {
  return device == context->device ||
         std::any_of(context->peers.begin(), context->peers.end(),
                     [&](CUcontext peer) { return peer->device == device; });
}

CUstream Driver::stream(CUcontext context, CUstream handle) {
  const auto value = reinterpret_cast<uintptr_t>(handle);
  if (value <= 1) return &context->default_stream;
  if (value == 2) return &context->per_thread_stream;
  return streams.has(handle) ? handle : nullptr;
}

bool Driver::is_capturing(CUcontext context) const {
  return std::any_of(context->streams.begin(), context->streams.end(),
                     [](CUstream s) { return s->capture != nullptr; });
}

CUstreamCaptureMode& Driver::capture_mode() {
  thread_local CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  return mode;
}

bool Driver::breaks_capture() {
  if (capture_mode() == CU_STREAM_CAPTURE_MODE_RELAXED) return false;
  bool breaks = false;
  streams.each([&](CUstream s) {
    if (!s->began_capture || s->capture_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return;
    const bool is_own = s->capture_thread == std::this_thread::get_id();
    const bool is_global = s->capture_mode == CU_STREAM_CAPTURE_MODE_GLOBAL &&
                           capture_mode() == CU_STREAM_CAPTURE_MODE_GLOBAL;
    if (!is_own && !is_global) return;
    s->is_broken = true;
    breaks = true;
  });
  return breaks;
}

// ---- work ----

std::shared_ptr<Work> Driver::enqueue(CUstream s, std::function<CUresult()> run) {
  auto work = std::make_shared<Work>();
  work->run = std::move(run);
  work->context = s->context;
  work->after = std::move(s->next_after);
  s->next_after.clear();
  CUcontext context = s->context;
  // The default stream and every stream that was not made non-blocking wait for each other.
  if (s == &context->default_stream) {
    for (CUstream other : context->streams)
      if (!(other->flags & CU_STREAM_NON_BLOCKING) && other->last)
        work->after.push_back(other->last);
    if (context->per_thread_stream.last) work->after.push_back(context->per_thread_stream.last);
  } else if (!(s->flags & CU_STREAM_NON_BLOCKING) && context->default_stream.last) {
    work->after.push_back(context->default_stream.last);
  }
  std::erase_if(work->after, [](const auto& w) { return w->done; });
  s->queue.push_back(work);
  s->last = work;
  return work;
}

bool Driver::run_one() {
  std::vector<CUstream> ready;
  const auto look = [&](CUstream s) {
    if (s->queue.empty()) return;
    if (is_endless && s->context->device->lost != CUDA_SUCCESS) return;
    const Work& head = *s->queue.front();
    if (std::all_of(head.after.begin(), head.after.end(), [](const auto& w) { return w->done; }))
      ready.push_back(s);
  };
  const auto look_at = [&](CUcontext context) {
    look(&context->default_stream);
    look(&context->per_thread_stream);
    for (CUstream s : context->streams) look(s);
  };
  for (const auto& device : devices)
    if (device->primary) look_at(device->primary.get());
  contexts.each(look_at);
  if (ready.empty()) return false;
  CUstream chosen = ready[random_() % ready.size()];
  const std::shared_ptr<Work> work = chosen->queue.front();
  chosen->queue.pop_front();
  // After an error that sticks, the rest of the context's work is dropped.
  std::vector<std::shared_ptr<Work>> works{work};
  // Kernels behind a kernel, that may begin before it has ended.
  const auto overlaps = [](const Work& next) {
    return next.action && next.action->type == CU_GRAPH_NODE_TYPE_KERNEL &&
           next.action->kernel.programmatic &&
           std::all_of(next.after.begin(), next.after.end(), [](const auto& w) { return w->done; });
  };
  if (work->action && work->action->type == CU_GRAPH_NODE_TYPE_KERNEL) {
    while (!chosen->queue.empty() && overlaps(*chosen->queue.front())) {
      works.push_back(chosen->queue.front());
      chosen->queue.pop_front();
    }
  }
  if (work->context->sticky == CUDA_SUCCESS) {
    CUresult result = work->context->device->take_fault(false);
    if (result == CUDA_SUCCESS && works.size() == 1) {
      result = work->run();
    } else if (result == CUDA_SUCCESS) {
      std::vector<Overlapping> calls;
      for (const auto& w : works) {
        calls.push_back({&w->action->kernel, {}});
        if (calls.size() > 1) calls.back().after = {{calls.size() - 2, true}};
      }
      result = run_kernels(work->context, calls);
    }
    if (result != CUDA_SUCCESS && work->context->sticky == CUDA_SUCCESS)
      work->context->sticky = result;
  }
  for (const auto& w : works) {
    w->done = true;
    w->after.clear();
    w->run = nullptr;
    w->action = nullptr;
    w->keeps = nullptr;
  }
  return true;
}

void Driver::wait(const std::shared_ptr<Work>& work) {
  while (work && !work->done) {
    if (run_one()) continue;
    // Who waits for a device that is lost is told so; who waits for what waits for it is not.
    if (!is_endless || work->context->device->lost != CUDA_SUCCESS) return;
    // Other threads go on.
    mutex.unlock();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    mutex.lock();
  }
}

void Driver::wait_all(CUcontext context) {
  wait(context->default_stream.last);
  wait(context->per_thread_stream.last);
  // Others may make and destroy streams meanwhile.
  std::vector<std::shared_ptr<Work>> works;
  for (CUstream s : context->streams) works.push_back(s->last);
  for (const auto& work : works) wait(work);
}

CUresult Driver::issue(CUstream s, Action action) {
  if (s->capture) {
    auto node = std::make_unique<CUgraphNode_st>();
    node->action = std::move(action);
    node->context = s->context;
    node->graph = s->capture;
    // One kernel behind another keeps the launch's attribute, as an edge.
    const bool programmatic = node->action.type == CU_GRAPH_NODE_TYPE_KERNEL &&
                              node->action.kernel.programmatic && s->tail.size() == 1 &&
                              s->tail[0]->action.type == CU_GRAPH_NODE_TYPE_KERNEL;
    for (const CUgraphNode before : s->tail) node->after.push_back({before, programmatic});
    nodes.insert(node.get());
    s->tail = {node.get()};
    s->capture->nodes.push_back(std::move(node));
    return CUDA_SUCCESS;
  }
  // Work in the default stream would have to wait for the capturing ones.
  if (s == &s->context->default_stream) {
    for (CUstream other : s->context->streams)
      if (other->capture && !(other->flags & CU_STREAM_NON_BLOCKING) &&
          other->capture_mode != CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  }
  const CUcontext context = s->context;
  if (const CUresult r = context->device->take_fault(true); r != CUDA_SUCCESS) return r;
  const auto shared = std::make_shared<Action>(std::move(action));
  enqueue(s, [this, context, shared] { return run(context, *shared); })->action = shared;
  return CUDA_SUCCESS;
}

CUresult Driver::run(CUcontext context, const Action& action) {
  switch (action.type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
      return run_kernels(context, {{&action.kernel, {}}});
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      return copy(action.copy);
    case CU_GRAPH_NODE_TYPE_MEMSET:
      return fill(action.fill);
    case CU_GRAPH_NODE_TYPE_HOST:
      calls_host() = true;
      action.host(action.host_data);
      calls_host() = false;
      return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
      if (events.has(action.event)) action.event->time_ms = now_ms();
      return CUDA_SUCCESS;
    default:
      return CUDA_SUCCESS;
  }
}

CUresult Driver::run_graph(CUcontext context, const CUgraph_st& graph) {
  std::unordered_set<CUgraphNode> done;
  std::vector<CUgraphNode> waiting;
  for (const auto& node : graph.nodes) waiting.push_back(node.get());
  // Cards before compute capability 9.0 run one kernel after the other.
  const bool can_overlap = context->device->profile->compute_major >= 9;
  const auto is_kernel = [](CUgraphNode node) {
    return node->action.type == CU_GRAPH_NODE_TYPE_KERNEL;
  };
  while (!waiting.empty()) {
    std::vector<size_t> ready;
    for (size_t i = 0; i < waiting.size(); ++i)
      if (std::all_of(waiting[i]->after.begin(), waiting[i]->after.end(),
                      [&](const GraphEdge& e) { return done.count(e.from) != 0; }))
        ready.push_back(i);
    if (ready.empty()) return CUDA_ERROR_INVALID_VALUE;  // a cycle
    const size_t chosen = ready[random_() % ready.size()];
    const CUgraphNode first = waiting[chosen];
    waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(chosen));
    if (!is_kernel(first)) {
      if (const CUresult result = run(context, first->action); result != CUDA_SUCCESS)
        return result;
      done.insert(first);
      continue;
    }
    // Together with the kernels that may begin before it, or one of those, has ended.
    std::vector<Overlapping> calls{{&first->action.kernel, {}}};
    std::unordered_map<CUgraphNode, size_t> index{{first, 0}};
    for (size_t i = 0; can_overlap && i < waiting.size();) {
      Overlapping next{&waiting[i]->action.kernel, {}};
      bool joins = false, known = is_kernel(waiting[i]);
      for (const GraphEdge& edge : waiting[i]->after) {
        if (done.count(edge.from)) continue;
        const auto found = index.find(edge.from);
        known = known && found != index.end();
        if (!known) break;
        joins = joins || edge.programmatic;
        next.after.push_back({found->second, edge.programmatic});
      }
      if (!known || !joins) {
        ++i;
        continue;
      }
      index[waiting[i]] = calls.size();
      calls.push_back(std::move(next));
      waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(i));
      i = 0;
    }
    if (const CUresult result = run_kernels(context, calls); result != CUDA_SUCCESS) return result;
    for (const auto& [node, at] : index) done.insert(node);
  }
  return CUDA_SUCCESS;
}

// ---- kernels ----

LaunchOptions Driver::options_of(CUcontext context, const KernelCall& call) const {
  LaunchOptions options;
  options.grid = call.grid;
  options.block = call.block;
  options.dynamic_shared_bytes = call.shared_bytes;
  options.cooperative = call.cooperative;
  options.cluster = call.cluster;
  options.large_clusters = call.function->large_clusters;
  options.profile = context->device->profile;
  options.multiprocessors = context->device->multiprocessors;
  options.hostile_tensor_cores = hostile_ != Hostile::kNever;
  // Two devices of one name round alike.
  if (hostile_ == Hostile::kPerDevice) {
    options.tensor_seed = seed_ ^ std::hash<std::string_view>()(context->device->profile->name);
  }
  options.opted_in_shared =
      call.function->max_dynamic_shared_bytes >= static_cast<int>(call.shared_bytes) &&
      call.function->max_dynamic_shared_bytes > 0;
  return options;
}

CUresult Driver::check_launch(CUcontext context, const KernelCall& call) {
  const LaunchLimits limits = check_limits(*call.function->kernel, options_of(context, call));
  if (limits.fault != Fault::kNone)
    say("launch of " + call.function->kernel->name + " refused: " + limits.message);
  return result_of(limits.fault);
}

CUresult Driver::run_kernels(CUcontext context, const std::vector<Overlapping>& calls) {
  Device& device = *context->device;
  device.launches += calls.size();
  if (device.lost_at_launch && device.launches >= device.lost_at_launch)
    lose(device, device.lost_with);
  if (device.lost != CUDA_SUCCESS) return device.lost;
  std::vector<LaunchRequest> requests;
  for (const Overlapping& each : calls) {
    LaunchRequest request{each.call->function->kernel, &each.call->parameters,
                          options_of(context, *each.call), each.after};
    request.options.seed = seed_ * 1'000'003 + launches++;
    if (std::any_of(each.after.begin(), each.after.end(),
                    [](const LaunchRequest::Prerequisite& p) { return p.programmatic; }))
      ++overlapping;
    requests.push_back(std::move(request));
  }
  CUresult outcome = CUDA_SUCCESS;
  // Memory of other devices, where access to it was enabled.
  std::vector<Memory*> peers;
  for (const CUcontext peer : context->peers)
    if (peer->device->lost == CUDA_SUCCESS) peers.push_back(peer->device->memory.get());
  device.memory->set_peers(std::move(peers));
  const std::vector<LaunchResult> results = launch_all(*device.memory, requests);
  device.memory->set_peers({});
  for (const LaunchResult& result : results) {
    output += result.output;
    std::fputs(result.output.c_str(), stdout);
    for (const Report& report : result.reports) {
      reports.push_back(report.to_string());
      say(reports.back());
    }
    const CUresult own = result.fault != Fault::kNone     ? result_of(result.fault)
                         : strict_ && result.has_errors() ? CUDA_ERROR_LAUNCH_FAILED
                                                          : CUDA_SUCCESS;
    // A fault, which ended all of them, says more than a report.
    if (own != CUDA_SUCCESS && (outcome == CUDA_SUCCESS || result.fault != Fault::kNone))
      outcome = own;
  }
  return outcome;
}

// ---- memory ----

Device* Driver::device_of(uint64_t address, uint64_t bytes) {
  for (const auto& device : devices) {
    const Allocation* found = device->memory->find(address, bytes);
    if (found && !found->is_host) return device.get();
  }
  return nullptr;
}

bool Driver::is_pinned(uint64_t address, uint64_t bytes) const {
  auto after = pinned.upper_bound(address);
  if (after == pinned.begin()) return false;
  --after;
  return address + bytes <= after->first + after->second;
}

CUresult Driver::copy(const CopyCall& call) {
  for (uint64_t row = 0; row < call.height; ++row) {
    const uint64_t to = call.target + row * call.target_pitch;
    const uint64_t from = call.source + row * call.source_pitch;
    Device* target = device_of(to, call.width);
    Device* source = call.staged.empty() ? device_of(from, call.width) : nullptr;
    for (const Device* side : {target, source})
      if (side && side->lost != CUDA_SUCCESS) return side->lost;
    if (target && source) {
      if (target == source) {
        target->memory->copy(to, from, call.width);
      } else {
        std::vector<uint8_t> bytes(call.width);
        source->memory->read(bytes.data(), from, call.width);
        target->memory->write(to, bytes.data(), call.width);
      }
    } else if (target) {
      const void* bytes = call.staged.empty() ? reinterpret_cast<const void*>(from)
                                              : call.staged.data() + row * call.width;
      target->memory->write(to, bytes, call.width);
    } else if (source) {
      source->memory->read(reinterpret_cast<void*>(to), from, call.width);
    } else {
      std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), call.width);
    }
  }
  return CUDA_SUCCESS;
}

CUresult Driver::fill(const FillCall& call) {
  for (uint64_t row = 0; row < call.height; ++row) {
    const uint64_t to = call.target + row * call.pitch;
    Device* device = device_of(to, call.width * call.element_bytes);
    if (!device) return CUDA_ERROR_ILLEGAL_ADDRESS;
    if (device->lost != CUDA_SUCCESS) return device->lost;
    device->memory->fill(to, &call.value, call.element_bytes, call.width);
  }
  return CUDA_SUCCESS;
}

// ---- modules ----

CUfunction Driver::function(CUmodule module, const std::string& name) {
  auto& place = module->functions[name];
  if (!place) {
    const Kernel* kernel = module->module->find(name);
    if (!kernel) {
      module->functions.erase(name);
      return nullptr;
    }
    place = std::make_unique<CUfunc_st>();
    place->module = module;
    place->kernel = kernel;
    functions.insert(place.get());
  }
  return place.get();
}

CUfunction Driver::resolve(CUcontext context, const void* handle) {
  if (functions.count(handle)) return static_cast<CUfunction>(const_cast<void*>(handle));
  if (!kernels.count(handle)) return nullptr;
  const CUkernel kernel = static_cast<CUkernel>(const_cast<void*>(handle));
  std::unique_ptr<CUmod_st>& module = kernel->library->modules[context];
  std::string log;
  if (!module && load(context, kernel->library->ptx, module, log) != CUDA_SUCCESS) return nullptr;
  return function(module.get(), kernel->name);
}

CUresult Driver::load(CUcontext context, const std::string& ptx, std::unique_ptr<CUmod_st>& out,
                      std::string& log) {
  try {
    const Syntax syntax = parse(ptx);
    auto module = std::make_unique<CUmod_st>();
    module->context = context;
    module->ptx_version = 10 * syntax.version_major + syntax.version_minor;
    if (module->ptx_version > release.ptx) {
      log = "PTX of version " + std::to_string(syntax.version_major) + "." +
            std::to_string(syntax.version_minor) + ", driver " + std::string(release.name) +
            " compiles up to " + std::to_string(release.ptx / 10) + "." +
            std::to_string(release.ptx % 10);
      say(log);
      return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    }
    const std::string& target = syntax.target;
    module->target = target.rfind("sm_", 0) == 0 ? std::atoi(target.c_str() + 3) : 0;
    const int device =
        10 * context->device->profile->compute_major + context->device->profile->compute_minor;
    const bool exact = !target.empty() && target.back() == 'a';
    if (module->target > device || (exact && module->target != device)) {
      log = "PTX for " + target + " cannot run on compute capability " +
            std::to_string(device / 10) + "." + std::to_string(device % 10);
      return CUDA_ERROR_INVALID_PTX;
    }
    module->module = Module::load(ptx, context->device->memory);
    out = std::move(module);
    return CUDA_SUCCESS;
  } catch (const LoadError& error) {
    log = error.what();
    say(error.what());
    return CUDA_ERROR_INVALID_PTX;
  }
}

}  // namespace gptoss::emulator::driver
