// What the engine knows of a device: it computes steps.
//
// A step runs the new tokens of several sequences through the model and chooses what follows them.
// Calls come from one thread at a time, in this order for every step:
//   submit -> (masks are made) -> sample -> wait
// Up to traits().max_steps_ahead further steps may be submitted before one is waited for. Device
// work is done in the order of the calls: copies of pages, writes of pages and changes of slots
// included. What a step in flight may read or write (pages, slots, adapters) is not handed on,
// cached or freed by the engine before that step has been waited for.
//
// Errors of a step come out of its wait(). After one that leaves the device unusable every later
// call throws at once, with the same cause.
//
// Backends that are driven layer by layer build on backend/layers.h.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/step.h"
#include "core/kv_page.h"
#include "model/adapter.h"
#include "model/weights.h"

namespace gptoss {

enum class Precision : uint8_t {
  reference,  // f32 activations and KV cache
  automatic,  // what is fast and errs no more than bf16: f16 KV cache, int8 inputs of the experts
};

struct BackendTraits {
  int max_steps_ahead = 0;       // steps that may be submitted before the oldest is waited for
  bool adapters = false;         // StepInput.adapters may be other than 0
  bool drafts = true;            // a sequence may have guesses behind its token
  bool reads = false;            // StepInput.keeps may be other than empty
  bool steers = false;           // StepInput.steers may be other than empty
  std::vector<Format> formats;   // that its matmuls read
  std::vector<int> batch_sizes;  // preferred numbers of sequences that decode; empty: any
};

// Bytes on the device.
struct MemoryPlan {
  // A way to load that leaves more for pages, as an argument of load().
  struct Saving {
    std::string option;
    std::vector<int64_t> bytes;  // of each share, or of the one memory
  };
  // What one of several devices has: a piece of every page, and of the sums below its own.
  struct Share {
    std::string device;
    int begin_layer = 0, end_layer = 0;
    int64_t weights = 0;
    int64_t workspace = 0;
    std::vector<int64_t> page;
    int64_t available = 0;
  };

  int64_t weights = 0;          // allocated for the model's weights; mapped files do not count
  int64_t workspace = 0;        // activations, logits and tables of a step
  std::vector<int64_t> page;    // of a page of each KV group
  int64_t available = 0;        // left for pages beside all that; negative where that is too much
  bool is_lazy = false;         // a page takes memory from its first use on, not when allocated
  int max_steps_ahead = 0;      // as BackendTraits has it
  std::vector<Saving> savings;  // for those who say that there is too little
  std::vector<Share> shares;    // of devices that have some layers each; empty: there is one memory
  int cpu_experts = 0;          // of so many layers, the first ones, the CPU has the experts
};

// Some layers of a model that lies on several devices.
struct LayerPlace {
  std::string device;
  int begin, end;
  int64_t weight_bytes;
};

// How long a step takes, by its number of tokens; only ratios matter.
struct StepCost {
  double fixed = 0.0;
  double per_token = 1.0;

  double of(double tokens) const { return fixed + per_token * tokens; }
};

// Parts of a step, and what they are called in statistics.
enum class Phase : uint8_t {
  begin_step,
  embed,
  attention_in,
  attend,
  attention_out,
  route,
  experts_in,
  experts_out,
  unembed,
  sample,
  constrain,  // the engine's: masks and forced tokens
  device,     // waiting for a device that computes a step as a whole
};
inline constexpr std::array kPhaseNames = {"begin_step",    "embed",  "attention_in", "attend",
                                           "attention_out", "route",  "experts_in",   "experts_out",
                                           "unembed",       "sample", "constrain",    "device"};
using PhaseSeconds = std::array<double, kPhaseNames.size()>;

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string description() const = 0;
  // What the bits of a result depend on beside the model: kernels and number formats, and not how
  // many threads there are.
  virtual std::string arithmetic() const = 0;
  virtual const BackendTraits& traits() const = 0;
  virtual StepCost cost() const = 0;

  // What steps within these limits need, before anything is allocated for them. Before prepare().
  virtual MemoryPlan plan(const StepLimits& limits) const = 0;
  // Allocates the workspace and so many pages of each KV group, and first the weights where that is
  // the device's own memory; once. Throws OutOfMemory, CheckpointError.
  virtual void prepare(const StepLimits& limits, std::span<const int> n_pages) = 0;

  // A sequence begins or, after its place was taken, goes on: what it has seen and made so far, for
  // penalties, its last token and the index of its next one.
  virtual void open_slot(int slot, std::span<const int32_t> prompt,
                         std::span<const int32_t> output) = 0;
  // Tokens that were not sampled but decided on join the slot's output.
  virtual void append_output(int slot, std::span<const int32_t> tokens) = 0;
  virtual void close_slot(int slot) = 0;

  // Takes an adapter under an id that is not in use, 1 or more: steps that are submitted from now
  // on may name it. Without traits().adapters nobody calls these. Throws OutOfMemory.
  virtual void add_adapter(int id, const std::shared_ptr<const Adapter>& adapter);
  // Lets go of it. No step in flight uses it.
  virtual void remove_adapter(int id);

  virtual void copy_pages(std::span<const PageCopy> copies) = 0;
  // Contents of pages of a group, one after the other, to and from host memory. Bytes mean
  // something only to backends of the same kv_layout().
  virtual std::string kv_layout() const = 0;
  virtual void read_pages(int group, std::span<const int32_t> pages, uint8_t* bytes) = 0;
  virtual void write_pages(int group, std::span<const int32_t> pages, const uint8_t* bytes) = 0;

  // Runs the model up to the logits; returns at once where it can. The input is copied. `abandon`
  // is looked at between layers, where there is a between: once true, the rest of the step may be
  // left out, and its pages hold garbage at the positions of this step alone.
  virtual StepId submit(const StepInput& input, const std::atomic<bool>& abandon) = 0;
  // Uses the step's logits; once for every step, before the next one is submitted. The input is
  // copied.
  virtual void sample(StepId step, const SampleInput& input) = 0;
  // The oldest step that has not been waited for.
  virtual StepResult wait(StepId step) = 0;

  // Logits (n_rows, V) f32 of rows [first_row, first_row + n_rows) of a step, there once it has
  // been waited for. Called before the next step is submitted.
  virtual void read_logits(StepId step, int first_row, int n_rows, float* logits) = 0;
  // Likewise what StepInput.keeps[keep] says of a layer: (rows, ...), as Activation has it.
  virtual void read(StepId step, int keep, Activation activation, int layer, void* values) = 0;

  // Of how many layers the CPU computes the experts for a device.
  virtual int cpu_experts() const { return 0; }
  // Where layers lie if there are several devices; empty: on one.
  virtual std::vector<LayerPlace> layer_places() const { return {}; }

  // Since it was made.
  virtual PhaseSeconds phase_seconds() const = 0;
};

// What is to have a place beside the weights, where a device's memory may not hold them all.
struct Room {
  StepLimits limits{};
  std::vector<int64_t> n_pages;  // [group]
  int64_t kv_memory_bytes = 0;   // that the first group's pages may take at most; 0: any
  // Throws OutOfMemory if what plan() leaves is too little for a KV cache. Empty: nothing is.
  std::function<void(const std::function<MemoryPlan(const StepLimits&)>& plan)> check_kv_cache;
};

// In BackendOptions.cpu_experts: none where everything fits, else as few as let the rest fit.
inline constexpr int kFewestCpuExperts = -1;

struct BackendOptions {
  int threads = 0;  // CPU: 0 means the default
  Precision precision = Precision::automatic;
  // How attention's matrices and the unembedding are stored: bf16 is the checkpoint's own; bf12 and
  // q8 are made when the model is loaded, and go with Precision::automatic only, as does an int8 KV
  // cache.
  Format dense = Format::bf16;
  bool int8_kv_cache = false;  // keys and values in int8, one scale per token and head
  // GPU: those that share the layers, by their ordinals; empty: as few as can have them.
  std::vector<int> devices{};
  // GPU: of so many layers, the first ones, the experts stay in the host's memory, and the CPU
  // computes them.
  int cpu_experts = kFewestCpuExperts;
  Room room{};  // that kFewestCpuExperts leaves; without limits all experts go to the device
};

// A device's memory to plan with.
struct DeviceRoom {
  std::string name;
  int64_t usable;  // bytes
};

struct BackendInfo {
  std::string name;
  bool available;
  std::string detail;  // what it would run on, or why it is not available
};

// Every backend this build knows, the preferred one first.
std::vector<BackendInfo> list_backends();

// `device`: "auto", a backend's name, or one with ordinals of its devices, as "cuda:1" or
// "cuda:0,1", which are options.devices then. Throws BackendError naming what is available.
std::unique_ptr<Backend> make_backend(const std::string& device, Weights weights,
                                      const BackendOptions& options);

// Of devices with so many bytes, which need not be here, or, where none are given, of those that
// are: each is asked once, which for a GPU means that it is started. Throws BackendError if there
// are none.
std::vector<DeviceRoom> device_rooms(const std::string& device,
                                     std::span<const int64_t> device_bytes);

// Memory that a model of these shapes and formats (shapes_of) would take on such devices, without
// its weights being read: what its backend's plan() says, with options.room as it chooses what lies
// where. No device is asked.
MemoryPlan plan_memory(const std::string& device, const Weights& shapes,
                       const BackendOptions& options, const StepLimits& limits,
                       std::span<const DeviceRoom> rooms);

// What each device folder, or its stub twin, provides.
namespace cpu {
BackendInfo info();
std::unique_ptr<Backend> make(Weights weights, const BackendOptions& options);
std::vector<DeviceRoom> rooms(std::span<const int> ordinals, std::span<const int64_t> device_bytes);
MemoryPlan plan(const Weights& shapes, const BackendOptions& options, const StepLimits& limits,
                std::span<const DeviceRoom> rooms);
}  // namespace cpu
namespace cuda {
BackendInfo info();
std::unique_ptr<Backend> make(Weights weights, const BackendOptions& options);
std::vector<DeviceRoom> rooms(std::span<const int> ordinals, std::span<const int64_t> device_bytes);
MemoryPlan plan(const Weights& shapes, const BackendOptions& options, const StepLimits& limits,
                std::span<const DeviceRoom> rooms);
}  // namespace cuda
namespace metal {
BackendInfo info();
std::unique_ptr<Backend> make(Weights weights, const BackendOptions& options);
std::vector<DeviceRoom> rooms(std::span<const int> ordinals, std::span<const int64_t> device_bytes);
MemoryPlan plan(const Weights& shapes, const BackendOptions& options, const StepLimits& limits,
                std::span<const DeviceRoom> rooms);
}  // namespace metal

}  // namespace gptoss
