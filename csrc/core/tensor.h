// Non-owning views of tensors in host memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/mapped_file.h"

namespace gptoss {

enum class DType : uint8_t { bf16, u8 };

inline int64_t size_of(DType dtype) { return dtype == DType::bf16 ? 2 : 1; }
inline const char* name_of(DType dtype) { return dtype == DType::bf16 ? "BF16" : "U8"; }

// Row-major; `data` may have any alignment, as tensors lie in a file.
struct TensorView {
  const uint8_t* data = nullptr;
  DType dtype = DType::u8;
  std::vector<int64_t> shape;
  bool mapped = false;  // from a file: the system can read the bytes again
};

// A checkpoint's tensors by name, with whatever keeps their bytes alive.
struct TensorTable {
  std::unordered_map<std::string, TensorView> tensors;
  std::vector<std::shared_ptr<const void>> owners;
  MappedFiles files;
};

}  // namespace gptoss
