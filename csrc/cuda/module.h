// The kernels, as they are embedded in this library, loaded on a device.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "cuda/kernels/args.h"
#include "cuda/memory.h"

namespace gptoss::cuda {

// Fat binaries, one after the other (CMakeLists.txt, cmake/cuda_kernels.cmake).
std::span<const uint8_t> embedded_kernels();

// How kernels may begin before the one ahead of them has ended.
enum class Overlap : uint8_t { launches, graphs };

// Whether a device's driver has refused that in this process.
bool is_refused(Overlap overlap, const DeviceInfo& device);
// Takes that down, and says so once, on the standard error.
void refuse(Overlap overlap, const DeviceInfo& device, const std::string& why);

class Module {
 public:
  // `images`: fat binaries, one after the other. Throws BackendError where the kernels cannot run
  // on the device.
  Module(const Context& context, std::span<const uint8_t> images);
  ~Module();
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  // As long as it lives, what is queued becomes nodes of a graph instead.
  class Recording {
   public:
    Recording(Module& module, Graph& graph) : module_(module) { module.recorded_ = &graph; }
    ~Recording() { module_.recorded_ = nullptr; }
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;

   private:
    Module& module_;
  };

  // Queues a kernel with one of the structs of kernels/args.h; none where its grid is empty.
  template <class Args>
  void run(const Stream& stream, const Args& args) {
    Args copy = args;
    launch(stream, launch_of(args), &copy);
  }

 private:
  void load(std::span<const uint8_t> image);
  void launch(const Stream& stream, const Launch& launch, void* args);

  struct Entry {
    CUfunction function;
    int dynamic_shared;
    bool overlaps;  // may begin before the kernel ahead of it has ended
  };
  const Entry& entry(const Launch& launch);

  const Context& context_;
  const bool may_overlap_;
  bool launches_overlap_;  // until the driver has refused it
  std::vector<CUmodule> modules_;
  Graph* recorded_ = nullptr;
  std::unordered_map<const char*, Entry> entries_;  // by the address of a name, which is a literal
};

}  // namespace gptoss::cuda
