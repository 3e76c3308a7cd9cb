// Activations::kInt8x2: the rest after rounding A to int8 is also rounded to int8, and multiplied by the weights as a
// second row of A. So the int8 kernel of any instruction set yields about 15 bits, for twice the arithmetic. It reads
// the same weights.
#pragma once

#include "kernels/matmul_kernels.h"

namespace llama3::int8x2 {

size_t scratch_bytes(const MatmulKernels& kernels, std::span<const Product> products, int64_t M, size_t width);

// See `matmul` in matmul.h.
void multiply(const MatmulKernels& kernels, std::span<const Product> products, const float* A, int64_t M,
              Parallel& parallel, std::byte* scratch);

}  // namespace llama3::int8x2
