#include "cuda/memory.h"

#include <algorithm>
#include <new>
#include <vector>

#include "platform/platform.h"

namespace gptoss::cuda {

Context::Context(const DeviceInfo& device)
    : driver_(Driver::get()), device_(device), process_(platform::process_id()) {
  driver_.check(driver_.cuDevicePrimaryCtxRetain(&context_, device_.handle), "the context of ",
                name_of(device_));
}

Context::~Context() {
  if (is_own() && !is_abandoned_) driver_.cuDevicePrimaryCtxRelease(device_.handle);
}

bool Context::is_own() const { return platform::process_id() == process_; }

int64_t Context::free_memory() const {
  size_t free = 0;
  size_t total = 0;
  driver_.check(driver_.cuMemGetInfo(&free, &total), "free memory");
  return static_cast<int64_t>(free);
}

Context::Scope::Scope(const Context& context)
    : driver_(context.driver_), capture_mode_(kCaptureRelaxed) {
  if (!context.is_own()) {
    throw BackendError(
        "[cuda] this process was forked after the model had been loaded: a device cannot be used "
        "in both; start the new process without fork (multiprocessing's \"spawn\"), and load the "
        "model there");
  }
  driver_.check(driver_.cuCtxPushCurrent(context.context_), "the context");
  driver_.cuThreadExchangeStreamCaptureMode(&capture_mode_);
}

Context::Scope::~Scope() {
  driver_.cuThreadExchangeStreamCaptureMode(&capture_mode_);
  CUcontext popped = nullptr;
  driver_.cuCtxPopCurrent(&popped);
}

int64_t allocation_bytes(int64_t bytes) {
  const int64_t grain = bytes < (int64_t{1} << 20) ? 512 : int64_t{2} << 20;
  return (bytes + grain - 1) / grain * grain;
}

DeviceMemory::DeviceMemory(const Context& context, int64_t bytes, const char* what)
    : context_(&context), bytes_(bytes) {
  const Driver& driver = context.driver();
  driver.check(driver.cuMemAlloc(&address_, static_cast<size_t>(bytes)), bytes, " bytes for ",
               what);
}

DeviceMemory::~DeviceMemory() {
  if (address_ != 0) context_->release([&](const Driver& driver) { driver.cuMemFree(address_); });
}

PinnedMemory::PinnedMemory(const Context& context, int64_t bytes, const char* what)
    : context_(&context) {
  const Driver& driver = context.driver();
  void* data = nullptr;
  driver.check(driver.cuMemHostAlloc(&data, static_cast<size_t>(bytes), kHostAllocPortable), bytes,
               " bytes of pinned host memory for ", what);
  data_ = static_cast<uint8_t*>(data);
}

PinnedMemory::~PinnedMemory() {
  if (data_ != nullptr)
    context_->release([&](const Driver& driver) { driver.cuMemFreeHost(data_); });
}

Stream::Stream(const Context& context) : context_(context) {
  const Driver& driver = context.driver();
  driver.check(driver.cuStreamCreate(&stream_, kStreamNonBlocking), "a stream");
}

struct Stream::Held {
  std::unique_ptr<Event> read;  // null: the copy was not queued
  std::vector<uint8_t> bytes;
};

Stream::~Stream() {
  context_.release([&](const Driver& driver) { driver.cuStreamDestroy(stream_); });
  // Copies that are still queued may read these.
  if (context_.is_abandoned())
    static_cast<void>(new (std::nothrow) std::list<Held>(std::move(held_)));
}

void Stream::upload(CUdeviceptr to, const void* from, int64_t bytes) const {
  if (bytes == 0) return;
  const Driver& driver = context_.driver();
  driver.check(driver.cuMemcpyHtoDAsync(to, from, static_cast<size_t>(bytes), stream_),
               "a copy of ", bytes, " bytes to the device");
}

// Of memory that is not pinned, no more than this is copied without waiting for what is ahead.
constexpr int64_t kMostAtOnce = int64_t{64} << 10;

void Stream::upload_copy(CUdeviceptr to, const void* from, int64_t bytes) const {
  if (bytes == 0) return;
  while (!held_.empty() && (held_.front().read == nullptr || held_.front().read->is_done())) {
    held_.pop_front();
  }
  const auto* const source = static_cast<const uint8_t*>(from);
  auto read = std::make_unique<Event>(context_);
  Held& held = held_.emplace_back(Held{nullptr, {source, source + bytes}});
  try {
    for (int64_t begin = 0; begin < bytes; begin += kMostAtOnce) {
      upload(to + static_cast<CUdeviceptr>(begin), held.bytes.data() + begin,
             std::min(kMostAtOnce, bytes - begin));
    }
    read->record(*this);
  } catch (...) {
    drain();
    throw;
  }
  held.read = std::move(read);
}

void Stream::download(void* to, CUdeviceptr from, int64_t bytes) const {
  if (bytes == 0) return;
  const Driver& driver = context_.driver();
  driver.check(driver.cuMemcpyDtoHAsync(to, from, static_cast<size_t>(bytes), stream_),
               "a copy of ", bytes, " bytes from the device");
}

void Stream::copy(CUdeviceptr to, CUdeviceptr from, int64_t bytes) const {
  if (bytes == 0) return;
  const Driver& driver = context_.driver();
  driver.check(driver.cuMemcpyDtoDAsync(to, from, static_cast<size_t>(bytes), stream_),
               "a copy of ", bytes, " bytes on the device");
}

void Stream::clear(CUdeviceptr to, int64_t bytes) const {
  if (bytes == 0) return;
  const Driver& driver = context_.driver();
  driver.check(driver.cuMemsetD8Async(to, 0, static_cast<size_t>(bytes), stream_), "clearing ",
               bytes, " bytes");
}

void Stream::send(const Context& to_context, CUdeviceptr to, CUdeviceptr from,
                  int64_t bytes) const {
  if (bytes == 0) return;
  const Driver& driver = context_.driver();
  driver.check(driver.cuMemcpyPeerAsync(to, to_context.handle(), from, context_.handle(),
                                        static_cast<size_t>(bytes), stream_),
               "a copy of ", bytes, " bytes to ", name_of(to_context.device()));
}

void Stream::after(const Event& event) const {
  const Driver& driver = context_.driver();
  driver.check(driver.cuStreamWaitEvent(stream_, event.handle(), 0), "waiting for an event");
}

void Stream::call(CUhostFn f, void* data) const {
  const Driver& driver = context_.driver();
  driver.check(driver.cuLaunchHostFunc(stream_, f, data), "a call of the host");
}

void Stream::wait() const {
  const Driver& driver = context_.driver();
  driver.check(driver.cuStreamSynchronize(stream_), "the device's work");
}

bool Stream::query() const {
  const Driver& driver = context_.driver();
  const CUresult result = driver.cuStreamQuery(stream_);
  if (result == kNotReady) return false;
  driver.check(result, "the device's work");
  return true;
}

WorkState Stream::state() const {
  WorkState state = WorkState::failed;
  context_.release([&](const Driver& driver) {
    const CUresult result = driver.cuStreamQuery(stream_);
    state = result == kSuccess    ? WorkState::done
            : result == kNotReady ? WorkState::pending
                                  : WorkState::failed;
  });
  return state;
}

bool Stream::drain() const {
  bool is_done = false;
  context_.release(
      [&](const Driver& driver) { is_done = driver.cuStreamSynchronize(stream_) == kSuccess; });
  return is_done;
}

Graph::Graph(const Context& context, bool may_overlap)
    : context_(context), may_overlap_(may_overlap) {
  const Driver& driver = context.driver();
  driver.check(driver.cuGraphCreate(&graph_, 0), "a graph");
}

Graph::~Graph() {
  if (graph_ == nullptr && runnable_ == nullptr) return;
  context_.release([&](const Driver& driver) {
    if (runnable_ != nullptr) driver.cuGraphExecDestroy(runnable_);
    if (graph_ != nullptr) driver.cuGraphDestroy(graph_);
  });
}

void Graph::add(const KernelNode& node, const char* name, bool overlaps) {
  const Driver& driver = context_.driver();
  const bool is_first = last_ == nullptr;
  overlaps = overlaps && may_overlap_ && !is_first && driver.cuGraphAddDependencies != nullptr;
  CUgraphNode added = nullptr;
  driver.check(
      driver.cuGraphAddKernelNode(&added, graph_, &last_, is_first || overlaps ? 0 : 1, &node),
      name, " in a graph");
  if (overlaps) {
    const CUresult result =
        driver.cuGraphAddDependencies(graph_, &last_, &added, &kProgrammaticEdge, 1);
    if (result == kSuccess) {
      has_overlaps_ = true;
    } else if (result == kOutOfMemory) {  // it may pass
      driver.check(result, name, " behind another kernel in a graph");
    } else {
      driver.check(driver.cuGraphAddDependencies(graph_, &last_, &added, nullptr, 1), name,
                   " behind another kernel in a graph");
      may_overlap_ = false;
      refusal_ = driver.describe(result);
    }
  }
  last_ = added;
}

std::string Graph::finish() {
  const Driver& driver = context_.driver();
  const CUresult result = driver.cuGraphInstantiateWithFlags(&runnable_, graph_, 0);
  if (result != kSuccess) runnable_ = nullptr;
  lacks_memory_ = result == kOutOfMemory;
  driver.cuGraphDestroy(std::exchange(graph_, nullptr));
  return result == kSuccess ? "" : driver.describe(result);
}

void Graph::launch(const Stream& stream) const {
  const Driver& driver = context_.driver();
  driver.check(driver.cuGraphLaunch(runnable_, stream.handle()), "launching a graph");
}

Event::Event(const Context& context, bool sleeps) : context_(context) {
  const Driver& driver = context.driver();
  const unsigned flags = kEventDisableTiming | (sleeps ? kEventBlockingSync : 0);
  driver.check(driver.cuEventCreate(&event_, flags), "an event");
}

Event::~Event() {
  context_.release([&](const Driver& driver) { driver.cuEventDestroy(event_); });
}

void Event::record(const Stream& stream) const {
  const Driver& driver = context_.driver();
  driver.check(driver.cuEventRecord(event_, stream.handle()), "an event");
}

void Event::wait() const {
  const Driver& driver = context_.driver();
  driver.check(driver.cuEventSynchronize(event_), "the device's work");
}

bool Event::is_done() const {
  const Driver& driver = context_.driver();
  const CUresult result = driver.cuEventQuery(event_);
  if (result == kNotReady) return false;
  driver.check(result, "the device's work");
  return true;
}

}  // namespace gptoss::cuda
