// Products in float32: of f32, f16 and bf16 weights, and of dequantized ones where activations stay float32.
#pragma once

#include "kernels/matmul_kernels.h"

namespace llama3::neon {

inline constexpr int kFloatTileRows = 16;  // weight rows of an item

// `count` weights from the start of a row on.
using Dequantize = decltype(MatmulKernels::dequantize);

// Rows first to first + count of the product, for rows 0 to M of A. Each call needs scratch memory of its own: a
// dequantized row, or a tile of them with its sums.
void multiply_float_rows(const Product& product, Dequantize dequantize, int64_t first, int64_t count, const float* A,
                         int64_t M, std::byte* scratch);
size_t float_row_scratch_bytes(int64_t K);

void multiply_float_tile(const Product& product, Dequantize dequantize, int64_t first, int64_t count, const float* A,
                         int64_t M, std::byte* scratch);
size_t float_tile_scratch_bytes(int64_t M);

void dequantize_floats(Format format, const uint8_t* row, int64_t count, float* out);  // of f32, f16 and bf16

}  // namespace llama3::neon
