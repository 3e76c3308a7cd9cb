// Quantizing activations, as kernels/activations.h says it, for the two kinds of kernels.
#pragma once

#include "kernels/avx2/gemm.h"
#include "kernels/avx2/gemv.h"

namespace llama3::avx2 {

// 256 values of a row of A. The integers and scales are those of llama3::quantize_activations.
void quantize_for_gemv(const float* values, bool per_32, GemvActivations& block);
void quantize_for_gemm(const float* values, bool per_32, GemmActivations& packed);

}  // namespace llama3::avx2
