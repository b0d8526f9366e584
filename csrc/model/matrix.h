// Weights and the formats that they are stored in: what a backend's matmuls read.
#pragma once

#include <cstdint>
#include <string>

namespace gptoss {

// What a matrix's `data` and `scales` are. A checkpoint has bf16 and mxfp4, and one in GGUF q8_0;
// the others are made of bf16 when a model is loaded.
enum class Format : uint8_t {
  bf16,   // data (N, K) bf16; no scales
  bf12,   // data (N, bf12_row_bytes(K)), scales: the matrix's escapes; see core/bf12.h
  q8,     // data (N, K) i8 codes, scales (N, K/32) bf16; see core/q8.h
  q8_0,   // data (N, K) i8 codes, scales (N, K/32) f16; see core/q8.h
  mxfp4,  // data (N, K/32, 16) blocks, scales (N, K/32) E8M0; see core/mxfp4.h
};

// As users and reports spell it.
const char* name_of(Format format);
// Throws std::invalid_argument.
Format format_named(const std::string& name);

// Bytes of the data, and of the scales, of a matrix (n, k). How many escapes bf12 has depends on
// its numbers; they are not counted.
int64_t data_bytes(Format format, int64_t n, int64_t k);
int64_t scales_bytes(Format format, int64_t n, int64_t k);

// w (N, K) of y = x @ w^T, row-major, at any address. Dimensions are int as everywhere; products
// of them are not.
struct Matrix {
  Format format = Format::bf16;
  int n = 0, k = 0;
  const void* data = nullptr;
  const void* scales = nullptr;
  bool mapped = false;  // from a file: the system can read the bytes again
};

// Matrices of one format and shape, one for each expert, stored one after the other.
struct ExpertMatrices {
  Matrix first;  // of expert 0

  Matrix operator[](int64_t expert) const;
};

// Norms, biases and sinks: bf16, at any address.
struct Vector {
  int64_t size = 0;
  const uint16_t* data = nullptr;
};

}  // namespace gptoss
