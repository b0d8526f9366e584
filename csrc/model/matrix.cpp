#include "model/matrix.h"

#include "core/bf12.h"
#include "core/check.h"
#include "core/mxfp4.h"
#include "core/q8.h"

namespace gptoss {

const char* name_of(Format format) {
  switch (format) {
    case Format::bf16:
      return "bf16";
    case Format::bf12:
      return "bf12";
    case Format::q8:
      return "q8";
    case Format::q8_0:
      return "q8_0";
    case Format::mxfp4:
      return "mxfp4";
  }
  return "";
}

Format format_named(const std::string& name) {
  for (const Format format :
       {Format::bf16, Format::bf12, Format::q8, Format::q8_0, Format::mxfp4}) {
    if (name == name_of(format)) return format;
  }
  throw std::invalid_argument(concat("unknown format '", name, "'"));
}

int64_t data_bytes(Format format, int64_t n, int64_t k) {
  switch (format) {
    case Format::bf16:
      return n * k * int64_t{sizeof(uint16_t)};
    case Format::bf12:
      return n * bf12_row_bytes(k);
    case Format::q8:
    case Format::q8_0:
      return n * k;
    case Format::mxfp4:
      return n * (k / kMxfp4BlockSize) * kMxfp4BlockBytes;
  }
  return 0;
}

int64_t scales_bytes(Format format, int64_t n, int64_t k) {
  switch (format) {
    case Format::bf16:
    case Format::bf12:
      return 0;
    case Format::q8:
    case Format::q8_0:
      return n * (k / kQ8Block) * int64_t{sizeof(uint16_t)};
    case Format::mxfp4:
      return n * (k / kMxfp4BlockSize);
  }
  return 0;
}

Matrix ExpertMatrices::operator[](int64_t expert) const {
  Matrix matrix = first;
  matrix.data =
      static_cast<const uint8_t*>(first.data) + expert * data_bytes(first.format, first.n, first.k);
  matrix.scales = static_cast<const uint8_t*>(first.scales) +
                  expert * scales_bytes(first.format, first.n, first.k);
  return matrix;
}

}  // namespace gptoss
