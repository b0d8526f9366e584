#include "cpu/kv_storage.h"

#include <cstring>

namespace gptoss::cpu {

void KvStorage::allocate(int n_pages) { memory_ = LazyMemory(n_pages * page_bytes()); }

void KvStorage::copy_page(int32_t from, int32_t to) {
  std::memcpy(memory_.data() + to * page_bytes(), memory_.data() + from * page_bytes(),
              static_cast<size_t>(page_bytes()));
}

KvPages KvStorage::view(int layer, std::span<const int32_t> table) const {
  return {.base = memory_.data() + layer * layer_bytes(),
          .page_bytes = page_bytes(),
          .table = table.data(),
          .table_size = static_cast<int>(table.size()),
          .type = type_,
          .kv_heads = kv_heads_,
          .head_dim = head_dim_};
}

}  // namespace gptoss::cpu
