// A checkpoint's tensors: where their bytes are, and views of them in host memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/mapped_file.h"

namespace gptoss {

enum class DType : uint8_t { bf16, f16, u8 };

// "BF16", "F16" and "U8", as safetensors files spell them.
const char* name_of(DType dtype);
// Throws std::invalid_argument.
DType dtype_named(const std::string& name);
inline int64_t size_of(DType dtype) { return dtype == DType::u8 ? 1 : 2; }
// "(2, 3)".
std::string shape_text(const std::vector<int64_t>& shape);

// One tensor of a checkpoint, by its role in the model (model/weights.h): bytes of a file, or of
// memory.
struct TensorSource {
  std::string role;
  DType dtype = DType::u8;
  std::vector<int64_t> shape;
  // Of a file.
  std::string path;
  int64_t offset = 0;
  // Of memory, if `owner` is set: it keeps `data_bytes` bytes alive.
  std::shared_ptr<const void> owner;
  const uint8_t* data = nullptr;
  int64_t data_bytes = 0;
};

// Row-major; `data` may have any alignment, as tensors lie in a file.
struct TensorView {
  const uint8_t* data = nullptr;
  DType dtype = DType::u8;
  std::vector<int64_t> shape;
  bool mapped = false;  // from a file: the system can read the bytes again
};

// Tensors by role, with whatever keeps their bytes alive.
struct TensorTable {
  std::unordered_map<std::string, TensorView> tensors;
  std::vector<std::shared_ptr<const void>> owners;
  MappedFiles files;
};

// Maps each file once. Throws std::invalid_argument naming the tensor whose bytes do not lie within
// its file or memory, and BackendError where a file cannot be mapped.
TensorTable make_tensor_table(const std::vector<TensorSource>& sources);

}  // namespace gptoss
