#include "model/tensor_table.h"

#include <utility>

#include "core/check.h"

namespace gptoss {

const char* name_of(DType dtype) { return dtype == DType::bf16 ? "BF16" : "U8"; }

DType dtype_named(const std::string& name) {
  check(name == "BF16" || name == "U8", "tensor dtype must be BF16 or U8, got ", name);
  return name == "BF16" ? DType::bf16 : DType::u8;
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
