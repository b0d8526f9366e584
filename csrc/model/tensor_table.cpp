#include "model/tensor_table.h"

#include <stdexcept>
#include <utility>

#include "core/check.h"

namespace gptoss {

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return "BF16";
    case DType::f16:
      return "F16";
    case DType::u8:
      return "U8";
  }
  return "";
}

DType dtype_named(const std::string& name) {
  for (const DType dtype : {DType::bf16, DType::f16, DType::u8}) {
    if (name == name_of(dtype)) return dtype;
  }
  throw std::invalid_argument(concat("tensor dtype must be BF16, F16 or U8, got ", name));
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

TensorTable make_tensor_table(const std::vector<TensorSource>& sources) {
  TensorTable table;
  std::unordered_map<std::string, std::shared_ptr<const MappedFile>> files;
  for (const TensorSource& source : sources) {
    TensorView view{.data = nullptr, .dtype = source.dtype, .shape = source.shape};
    int64_t nbytes = size_of(source.dtype);
    for (const int64_t size : source.shape) nbytes *= size;
    if (source.owner != nullptr) {
      check(source.data_bytes == nbytes, "array of ", source.role, " must have ", nbytes,
            " bytes, got ", source.data_bytes);
      view.data = source.data;
      table.owners.push_back(source.owner);
    } else {
      auto& file = files[source.path];
      if (!file) {
        file = std::make_shared<const MappedFile>(source.path);
        table.owners.push_back(file);
        table.files.add(file);
      }
      check(source.offset >= 0 && source.offset + nbytes <= file->size_bytes(), source.role,
            " ends at byte ", source.offset + nbytes, " of ", source.path, ", which has ",
            file->size_bytes());
      view.data = file->data() + source.offset;
      view.mapped = true;
    }
    table.tensors.emplace(source.role, std::move(view));
  }
  return table;
}

}  // namespace gptoss
