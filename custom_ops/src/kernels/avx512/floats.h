// Products in float32: of f32, f16 and bf16 weights, and of dequantized ones where activations stay float32.
#pragma once

#include "kernels/avx512/dequantize.h"
#include "kernels/matmul.h"

namespace llama3::avx512 {

inline constexpr int kFloatTileRows = 32;  // weight rows of an item

// Rows first to first + count of the product, for rows 0 to M of A. Each call needs scratch memory of its own: a
// dequantized row, or a tile of them with its sums.
void multiply_float_rows(const Product& product, Dequantize* dequantize, int64_t first, int64_t count, const float* A,
                         int64_t M, std::byte* scratch);
size_t float_row_scratch_bytes(int64_t K);

void multiply_float_tile(const Product& product, Dequantize* dequantize, int64_t first, int64_t count, const float* A,
                         int64_t M, std::byte* scratch);
size_t float_tile_scratch_bytes(int64_t M);

}  // namespace llama3::avx512
