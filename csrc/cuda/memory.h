// A device's context and what lives in it: memory, streams, events. All of it is given back when
// its object is destroyed; in a process that was forked from the one that made it, nothing is done.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <utility>

#include "cuda/driver.h"

namespace gptoss::cuda {

// The device's primary context, which other libraries of the process use too: retained, never
// reset, and current only within a Scope.
class Context {
 public:
  explicit Context(const DeviceInfo& device);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const DeviceInfo& device() const { return device_; }
  const Driver& driver() const { return driver_; }
  // False in a fork of the process.
  bool is_own() const;
  // From now on nothing that lives in it is given back, nor is it released: work that does not end
  // may still use all of it.
  void abandon() { is_abandoned_ = true; }
  bool is_abandoned() const { return is_abandoned_; }
  CUcontext handle() const { return context_; }
  // Bytes that are free on the device. In a Scope.
  int64_t free_memory() const;

  // The context is current in this thread, as long as it lives. Meanwhile the thread may do what
  // other libraries' captures, of whatever thread, forbid to those that share their streams: as it
  // uses its own alone, it breaks none. Throws BackendError in a fork.
  class Scope {
   public:
    explicit Scope(const Context& context);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    const Driver& driver_;
    int capture_mode_;  // that the thread had, and has
  };

  // Runs f(driver) in the context, for destructors: does nothing where it cannot be had.
  template <class F>
  void release(F&& f) const {
    if (is_abandoned_ || !is_own() || driver_.cuCtxPushCurrent(context_) != kSuccess) return;
    int mode = kCaptureRelaxed;
    driver_.cuThreadExchangeStreamCaptureMode(&mode);
    f(driver_);
    driver_.cuThreadExchangeStreamCaptureMode(&mode);
    CUcontext popped = nullptr;
    driver_.cuCtxPopCurrent(&popped);
  }

 private:
  const Driver& driver_;
  const DeviceInfo device_;
  const int64_t process_;
  CUcontext context_ = nullptr;
  bool is_abandoned_ = false;
};

// What an allocation of so many bytes takes: the driver hands out small ones by 512 bytes, others
// by 2 MiB.
int64_t allocation_bytes(int64_t bytes);

// Memory of the device, not initialised. Made in a Scope.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  // Throws OutOfMemory naming what it was for.
  DeviceMemory(const Context& context, int64_t bytes, const char* what);
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept { *this = std::move(other); }
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(context_, other.context_);
    std::swap(address_, other.address_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  CUdeviceptr address() const { return address_; }
  int64_t size_bytes() const { return bytes_; }
  // As kernels take it; not for the host to follow.
  template <class T>
  T* as(int64_t offset_bytes = 0) const {
    return reinterpret_cast<T*>(address_ + static_cast<CUdeviceptr>(offset_bytes));
  }

 private:
  const Context* context_ = nullptr;
  CUdeviceptr address_ = 0;
  int64_t bytes_ = 0;
};

// Memory of the host that the device reads and writes itself. Made in a Scope.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  // Throws OutOfMemory.
  PinnedMemory(const Context& context, int64_t bytes, const char* what);
  ~PinnedMemory();
  PinnedMemory(PinnedMemory&& other) noexcept { *this = std::move(other); }
  PinnedMemory& operator=(PinnedMemory&& other) noexcept {
    std::swap(context_, other.context_);
    std::swap(data_, other.data_);
    return *this;
  }

  uint8_t* data() const { return data_; }

 private:
  const Context* context_ = nullptr;
  uint8_t* data_ = nullptr;
};

class Event;

// What has become of work that was queued.
enum class WorkState { pending, done, failed };

// A queue of work that does not wait for the one that other libraries use by default.
class Stream {
 public:
  explicit Stream(const Context& context);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  CUstream handle() const { return stream_; }
  // The host's memory is read or written at some time until the stream has come past the copy,
  // pinned or not: a driver may copy what is not pinned before it returns, and need not.
  void upload(CUdeviceptr to, const void* from, int64_t bytes) const;
  void download(void* to, CUdeviceptr from, int64_t bytes) const;
  // For small memory that may change or go as soon as this returns: a copy of it is uploaded.
  void upload_copy(CUdeviceptr to, const void* from, int64_t bytes) const;
  void copy(CUdeviceptr to, CUdeviceptr from, int64_t bytes) const;
  void clear(CUdeviceptr to, int64_t bytes) const;
  // To memory of another device, or of this one. The driver finds the way: through the host's
  // memory, unless some library of the process has given the two access to each other.
  void send(const Context& to_context, CUdeviceptr to, CUdeviceptr from, int64_t bytes) const;
  // What is queued from now on waits for an event, of whatever device, as it was last recorded.
  void after(const Event& event) const;
  // f(data) in a thread of the driver's, which must not call the driver; not after an error of what
  // was queued before.
  void call(CUhostFn f, void* data) const;
  // Waits for all that was queued. Throws BackendError with what went wrong in it.
  void wait() const;
  // Waits for nothing: whether all that was queued has ended. Throws BackendError with what is
  // known to have gone wrong.
  bool query() const;
  // Likewise, for what is given up. Not in a Scope.
  WorkState state() const;
  // As wait(), for what is given up: false where something went wrong.
  bool drain() const;

 private:
  // A copy's source, until it has been read.
  struct Held;

  const Context& context_;
  CUstream stream_ = nullptr;
  mutable std::list<Held> held_;
};

// Waits, when it goes, for what was queued, however it went: what that uses goes later.
class Drain {
 public:
  explicit Drain(const Stream& stream) : stream_(stream) {}
  ~Drain() { stream_.drain(); }
  Drain(const Drain&) = delete;
  Drain& operator=(const Drain&) = delete;

 private:
  const Stream& stream_;
};

// Kernels, one after the other, which are launched together.
class Graph {
 public:
  // `may_overlap`: kernels may begin before the one ahead has ended, where the driver knows of that
  // and takes it.
  Graph(const Context& context, bool may_overlap);
  ~Graph();
  Graph(Graph&& other) noexcept
      : context_(other.context_),
        may_overlap_(other.may_overlap_),
        has_overlaps_(other.has_overlaps_),
        lacks_memory_(other.lacks_memory_),
        refusal_(std::move(other.refusal_)),
        graph_(std::exchange(other.graph_, nullptr)),
        last_(other.last_),
        runnable_(std::exchange(other.runnable_, nullptr)) {}
  Graph& operator=(Graph&&) = delete;

  // Appends a kernel; its parameters are copied. `overlaps`: it is one that may.
  void add(const KernelNode& node, const char* name, bool overlaps);
  // After the last one; what the driver says where it refuses, as for lack of memory, else empty.
  std::string finish();
  void launch(const Stream& stream) const;

  // Whether that was for lack of memory.
  bool lacks_memory() const { return lacks_memory_; }
  // Whether kernels in it do.
  bool has_overlaps() const { return has_overlaps_; }
  // What the driver said when a kernel that may was to; then it does not. Empty: nothing.
  const std::string& refusal() const { return refusal_; }

 private:
  const Context& context_;
  bool may_overlap_;
  bool has_overlaps_ = false;
  bool lacks_memory_ = false;
  std::string refusal_;
  CUgraph graph_ = nullptr;
  CUgraphNode last_ = nullptr;
  CUgraphExec runnable_ = nullptr;
};

// A point in a stream's work.
class Event {
 public:
  // `sleeps`: a thread that waits for it gives up its CPU meanwhile, instead of asking again and
  // again, which is sooner.
  explicit Event(const Context& context, bool sleeps = false);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  CUevent handle() const { return event_; }
  void record(const Stream& stream) const;
  void wait() const;
  // Waits for nothing. Throws BackendError with what went wrong before it.
  bool is_done() const;

 private:
  const Context& context_;
  CUevent event_ = nullptr;
};

}  // namespace gptoss::cuda
