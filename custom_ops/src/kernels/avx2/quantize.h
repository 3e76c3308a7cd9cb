// Quantize activations for gemv and gemm, as described in kernels/activations.h.
#pragma once

#include "kernels/avx2/gemm.h"
#include "kernels/avx2/gemv.h"

namespace llama3::avx2 {

// Quantize 256 values of a row of A to the same integers and scales as llama3::quantize_activations.
void quantize_for_gemv(const float* values, bool per_32, GemvActivations& block);
void quantize_for_gemm(const float* values, bool per_32, GemmActivations& packed);

}  // namespace llama3::avx2
