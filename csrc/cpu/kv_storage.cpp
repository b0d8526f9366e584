#include "cpu/kv_storage.h"

#include <cstring>

namespace gptoss::cpu {

const char* name_of(KvType type) {
  switch (type) {
    case KvType::f32:
      return "f32";
    case KvType::f16:
      return "f16";
    case KvType::int8:
      return "int8";
  }
  return "";
}

void KvStorage::allocate(int n_pages) { memory_ = LazyMemory(n_pages * page_bytes()); }

void KvStorage::copy_page(int32_t from, int32_t to) {
  open_page(to);
  std::memcpy(page(to), page(from), static_cast<size_t>(page_bytes()));
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
