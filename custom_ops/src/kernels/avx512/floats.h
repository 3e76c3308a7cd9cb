// Products in float32: of f32, f16 and bf16 weights, and of dequantized ones where activations stay float32.
#pragma once

#include "kernels/avx512/dequantize.h"
#include "kernels/matmul.h"

namespace llama3::avx512 {

inline constexpr int kFloatTileRows = 32;  // weight rows of an item

// The scratch memory of one item over `columns` rows of A: its packed weights and its sums.
size_t float_scratch_bytes(int64_t columns);

// Rows first to first + count of the product, for rows 0 to M of A.
void multiply_float_rows(const Product& product, Dequantize* dequantize, int64_t first, int64_t count, const float* A,
                         int64_t M);
void multiply_float_tile(const Product& product, Dequantize* dequantize, int64_t first, int64_t count, const float* A,
                         int64_t M, std::byte* scratch);

}  // namespace llama3::avx512
