// Quantize activations for gemv and gemm, as described in kernels/activations.h.
#pragma once

#include "kernels/avx512/gemm.h"

namespace llama3::avx512 {

// Quantize 256 values of a row of A to the same integers and scales as llama3::quantize_activations. `block` is in the
// order of SuperBlock.
void quantize_for_gemv(const float* values, bool per_32, ActivationBlock& block);
void quantize_for_gemm(const float* values, bool per_32, GemmActivations& packed);

}  // namespace llama3::avx512
