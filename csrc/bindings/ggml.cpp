// Rows of GGUF files, turned into what the kernels read. Callers cut the work into pieces and call
// from several threads.
#include "core/ggml.h"

#include <pybind11/stl.h>

#include <optional>
#include <utility>

#include "bindings/register.h"
#include "core/check.h"
#include "core/mxfp4.h"

namespace gptoss::bindings {
namespace {

using namespace py::literals;

// Where row i goes: first + i * step of `rows`.
struct Destination {
  int64_t first, step;

  void check_rows(int64_t count, int64_t rows) const {
    check(first >= 0 && step >= 1 && (count == 0 || first + (count - 1) * step < rows), count,
          " rows from ", first, " in steps of ", step, " must lie within ", rows);
  }
};

void mxfp4_rows(const Array<uint8_t>& ggml, Array<uint8_t>& blocks, Array<uint8_t>& scales,
                int64_t first, int64_t step) {
  const int64_t row_blocks = scales.shape(1);
  check(ggml.shape(1) == row_blocks * kGgmlMxfp4Bytes && blocks.shape(0) == scales.shape(0) &&
            blocks.shape(1) == row_blocks * kMxfp4BlockBytes,
        "rows of ", ggml.shape(1), " bytes do not make ", blocks.shape(1), " and ", row_blocks);
  const Destination to = {first, step};
  to.check_rows(ggml.shape(0), scales.shape(0));
  const uint8_t* const from = ggml.data();
  uint8_t* const out_blocks = blocks.mutable_data();
  uint8_t* const out_scales = scales.mutable_data();
  const int64_t rows = ggml.shape(0);
  const py::gil_scoped_release release;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = (to.first + row * to.step) * row_blocks;
    mxfp4_from_ggml(from + row * row_blocks * kGgmlMxfp4Bytes, row_blocks,
                    out_blocks + at * kMxfp4BlockBytes, out_scales + at);
  }
}

// (row, block) of the first scale that is not finite, if there is one.
std::optional<std::pair<int64_t, int64_t>> q8_0_rows(const Array<uint8_t>& ggml,
                                                     Array<int8_t>& codes, Array<uint16_t>& scales,
                                                     int64_t first) {
  const int64_t k = codes.shape(1);
  check(k % kGgmlBlock == 0 && ggml.shape(1) == k / kGgmlBlock * kGgmlQ80Bytes &&
            scales.shape(0) == codes.shape(0) && scales.shape(1) == k / kGgmlBlock,
        "rows of ", ggml.shape(1), " bytes do not make ", k, " codes");
  const Destination to = {first, 1};
  to.check_rows(ggml.shape(0), codes.shape(0));
  const uint8_t* const from = ggml.data();
  int8_t* const out_codes = codes.mutable_data();
  uint16_t* const out_scales = scales.mutable_data();
  const int64_t rows = ggml.shape(0);
  const int64_t row_bytes = ggml.shape(1);
  const py::gil_scoped_release release;
  std::optional<std::pair<int64_t, int64_t>> found;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t bad = q8_0_from_ggml(from + row * row_bytes, k, out_codes + (first + row) * k,
                                       out_scales + (first + row) * (k / kGgmlBlock));
    if (bad >= 0 && !found) found = {first + row, bad};
  }
  return found;
}

}  // namespace

void register_ggml(py::module_& m) {
  m.def("mxfp4_from_ggml", &mxfp4_rows, "ggml"_a.noconvert(), "blocks"_a.noconvert(),
        "scales"_a.noconvert(), "first"_a = 0, "step"_a = 1,
        "Write ggml's MXFP4 rows (n, K/32*17) as rows first, first + step, ... of blocks (N, "
        "K/32*16) and scales (N, K/32).");
  m.def("q8_0_from_ggml", &q8_0_rows, "ggml"_a.noconvert(), "codes"_a.noconvert(),
        "scales"_a.noconvert(), "first"_a = 0,
        "Write Q8_0 rows (n, K/32*34) as rows from `first` on of codes (N, K) and float16 scales "
        "(N, K/32) as uint16, in the kernels' order; return (row, block) of the first scale that "
        "is not finite, or None.");
}

}  // namespace gptoss::bindings
