// Keys and values of the layers of one KV group, on the CPU.
#pragma once

#include <cstdint>
#include <span>

#include "core/mapped_file.h"
#include "cpu/kernels/kernels.h"

namespace gptoss::cpu {

const char* name_of(KvType type);

// A page holds all layers of the group: layer l of the group starts layer_bytes * l behind the
// page's first byte.
class KvStorage {
 public:
  KvStorage(KvType type, int kv_heads, int head_dim, int n_layers)
      : type_(type), kv_heads_(kv_heads), head_dim_(head_dim), n_layers_(n_layers) {}

  int64_t page_bytes() const { return layer_bytes() * n_layers_; }
  uint8_t* page(int32_t page) const { return memory_.data() + page * page_bytes(); }

  // Makes room for this many pages; what was stored is lost. Throws OutOfMemory.
  void allocate(int n_pages);
  // Before a page is written to; again costs little. Throws OutOfMemory.
  void open_page(int32_t page) { memory_.commit(page * page_bytes(), page_bytes()); }

  void copy_page(int32_t from, int32_t to);

  // The pages of one sequence as layer `layer` of the group reads and writes them.
  KvPages view(int layer, std::span<const int32_t> table) const;

 private:
  int64_t layer_bytes() const { return kv_layer_bytes(type_, kv_heads_, head_dim_); }

  KvType type_;
  int kv_heads_, head_dim_, n_layers_;
  LazyMemory memory_;
};

}  // namespace gptoss::cpu
