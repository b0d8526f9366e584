// What a device does for the forward pass.
//
// The pass (backend/layers.h) is written once against these phases. They are coarse on purpose, so
// that each can be one fused kernel; activations stay with the backend from begin_step() to
// unembed(), and a backend that would rather run a whole step at once (a CUDA graph, a persistent
// kernel) overrides run_step().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/kv_page.h"
#include "model/config.h"
#include "model/weights.h"

namespace gptoss {

// A ragged batch: the new tokens of several sequences, one after the other. A prompt chunk, a
// single decoded token and any mix of them are the same thing.
struct StepInput {
  std::span<const int32_t> tokens;  // (T)
  std::span<const int32_t>
      sequence_offsets;  // (S + 1): sequence s has tokens [offset s, offset s+1)
  std::span<const int32_t> first_positions;  // (S): position of a sequence's first token here
  // Page tables of the full and the window layers, all sequences flattened. Position p of sequence
  // s lies in page table[offset s + (p / kPageTokens) % (offset s+1 - offset s)].
  std::span<const int32_t> full_pages, full_page_offsets;      // (S + 1) offsets
  std::span<const int32_t> window_pages, window_page_offsets;  // (S + 1) offsets
  std::span<const int32_t> logit_rows;  // tokens whose logits are wanted, ascending
};

enum class Precision : uint8_t {
  reference,  // f32 activations and KV cache
  automatic,  // what is fast and errs no more than bf16: f16 KV cache, int8 inputs of the experts
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string description() const = 0;

  // Bytes of KV cache that a page takes in the full and in the window layers together.
  virtual int64_t full_page_bytes() const = 0;
  virtual int64_t window_page_bytes() const = 0;
  // Bytes that can still be allocated on the device.
  virtual int64_t free_memory_bytes() const = 0;
  // Makes room for this many pages; what was cached is lost. Throws OutOfMemory.
  virtual void allocate_kv(int n_full_pages, int n_window_pages) = 0;

  // Copies a page of the window layers, or of the full ones.
  virtual void copy_kv_page(bool window, int32_t from, int32_t to) = 0;

  virtual void begin_step(const StepInput& input) = 0;
  virtual void embed() = 0;
  virtual void attention_in(int layer) = 0;   // norm, QKV, bias, RoPE, KV write
  virtual void attend(int layer) = 0;         // banded attention with sinks
  virtual void attention_out(int layer) = 0;  // output projection, bias, residual
  virtual void route(int layer) = 0;          // norm, router, top-k
  virtual void experts_in(int layer) = 0;     // gate and up, SwiGLU
  virtual void experts_out(int layer) = 0;    // down, weighted sum, residual
  // logits (n_logit_rows, V) f32 in host memory.
  virtual void unembed(float* logits) = 0;

  // Takes over the whole step and returns true, or returns false to be driven phase by phase.
  virtual bool run_step(const StepInput&, float* /*logits*/) { return false; }
};

struct BackendOptions {
  int threads = 0;  // CPU: 0 means the default
  Precision precision = Precision::automatic;
  // How attention's matrices and the unembedding are stored: bf16 is the checkpoint's own; bf12 and
  // q8 are made when the model is loaded, and go with Precision::automatic only, as does an int8 KV
  // cache.
  Format dense = Format::bf16;
  bool int8_kv_cache = false;  // keys and values in int8, one scale per token and head
};

struct BackendInfo {
  std::string name;
  bool available;
  std::string detail;  // what it would run on, or why it is not available
};

// Every backend this build knows, the preferred one first.
std::vector<BackendInfo> list_backends();

// `device`: "auto" or a backend's name. Throws BackendError naming what is available.
std::unique_ptr<Backend> make_backend(const std::string& device, Weights weights,
                                      const BackendOptions& options);

// What each device folder, or its stub twin, provides.
namespace cpu {
BackendInfo info();
std::unique_ptr<Backend> make(Weights weights, const BackendOptions& options);
}  // namespace cpu
namespace cuda {
BackendInfo info();
std::unique_ptr<Backend> make(Weights weights, const BackendOptions& options);
}  // namespace cuda
namespace metal {
BackendInfo info();
std::unique_ptr<Backend> make(Weights weights, const BackendOptions& options);
}  // namespace metal

}  // namespace gptoss
