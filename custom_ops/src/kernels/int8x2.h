// Activations::kInt8x2: what rounding A to int8 leaves is rounded to int8 too, and multiplied with the weights as a
// second row of A. So any instruction set's int8 kernel gives some 15 bits, for twice the arithmetic and the same
// weights read.
#pragma once

#include "kernels/matmul_kernels.h"

namespace llama3::int8x2 {

size_t scratch_bytes(const MatmulKernels& kernels, std::span<const Product> products, int64_t M, size_t width);

// As `matmul` in matmul.h.
void multiply(const MatmulKernels& kernels, std::span<const Product> products, const float* A, int64_t M,
              Parallel& parallel, std::byte* scratch);

}  // namespace llama3::int8x2
