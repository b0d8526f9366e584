// y = x @ w^T + bias, w held in 12 bits (core/bf12.h)
//   x        (T, K)             f32   row-major
//   rows     (N, row bytes)     u8    from bf12_encode
//   escapes  (n, 64)            u16   from bf12_encode; may be empty
//   bias     (N)                f32   nullable
//   y        (T, N)             f32   overwritten; must not alias x
// Requires T, N, K >= 1. The bits of dense_matmul with `fast` on the same w.
#pragma once

#include <cstdint>
#include <vector>

#include "core/bf12.h"
#include "core/check.h"

namespace gptoss::ops {

// w (N, K) bf16 without loss: rows (N, bf12_row_bytes(K)), escapes (n, 64).
struct Bf12Encode {
  const uint16_t* w;
  uint8_t* rows;
  std::vector<uint16_t>* escapes;
  int n, k;
};

struct Bf12Matmul {
  const float* x;
  const uint8_t* rows;
  const uint16_t* escapes;
  const float* bias;
  float* y;
  int tokens, n, k;
  int64_t n_escapes;  // groups
};

inline void validate(const Bf12Encode& op) {
  check(op.n >= 1 && op.k >= 1, "[bf12_encode] N and K must be at least 1, got ", op.n, ", ", op.k);
}

inline void validate(const Bf12Matmul& op) {
  check(op.tokens >= 1 && op.n >= 1 && op.k >= 1,
        "[bf12_matmul] T, N and K must be at least 1, got ", op.tokens, ", ", op.n, ", ", op.k);
}

inline void validate_values(const Bf12Matmul& op) {
  for (int64_t row = 0; row < op.n; ++row) {
    const int64_t end = bf12_escapes_end(op.rows + row * bf12_row_bytes(op.k), op.k);
    check(end <= op.n_escapes, "[bf12_matmul] row ", row, " needs ", end, " escaped groups, got ",
          op.n_escapes);
  }
}

}  // namespace gptoss::ops
