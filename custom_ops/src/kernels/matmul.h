// Products of activations and weight matrices that stay in GGUF's formats: Y = A W^T (+ bias). Also rows of such a
// matrix as float32. The instruction set is chosen at run time (cpu.h).
//
// Activations::kInt8 quantizes A to int8 and multiplies integers. A scale covers 256 values if the format's blocks have
// 256 weights, and 32 values otherwise. A group of activations with a NaN or an infinity makes its row of the output
// NaN; a group whose largest magnitude is below 2^-120 counts as zero. Formats f32, f16 and bf16 always use float32
// activations. Activations::kInt8x2 also rounds the rest to int8 and adds its product. Activations::kFloat32 multiplies
// the dequantized weights by A in float32.
//
// The result does not depend on the number of threads or on the rows that share a call, but few rows may be computed
// differently from many, with different rounding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/formats.h"
#include "parallel.h"

namespace llama3 {

struct Matrix {
  const uint8_t* data;  // any alignment
  Format format;
  int64_t rows;  // N
  int64_t cols;  // K, a multiple of the format's block
  size_t row_bytes() const {
    return static_cast<size_t>(cols / info(format).block_weights) * static_cast<size_t>(info(format).block_bytes);
  }
};

enum class Activations { kInt8, kInt8x2, kFloat32 };

struct Product {
  Matrix weight;
  const float* bias;  // [N], or null
  float* output;      // [M, N]
};

inline constexpr size_t kMaxProducts = 16;  // per call

// Return the bytes of scratch memory that `matmul` needs with a pool of this width. Every product has the same K.
size_t matmul_scratch_bytes(std::span<const Product> products, int64_t M, Activations activations, size_t width);

// Multiply A [M, K] by each product's weight. `scratch` is aligned to 64 bytes.
void matmul(std::span<const Product> products, const float* A, int64_t M, Activations activations, Parallel& parallel,
            std::byte* scratch);

// Set output[i] to row row_ids[i] of the matrix, [count, K]. The caller has checked the ids.
void dequantize_rows(const Matrix& matrix, const int64_t* row_ids, int64_t count, float* output, Parallel& parallel);

}  // namespace llama3
