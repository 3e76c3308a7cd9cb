// Packed activations: 256 values of one row of A, quantized and laid out for the NEON kernels.
#pragma once

#include <cstdint>

#include "kernels/activations.h"

namespace llama3::neon {

// Integers 128 * high + low: the dot product of bytes can multiply the two parts by a format's minima.
struct SplitSums {
  int8_t high[16], low[16];
};

struct alignas(64) PackedActivations {
  int8_t q[kSuperBlock];
  float scale[8];      // of each 32 values
  float sums_32[8];    // the sum of each 32 integers, times their scale
  SplitSums split_16;  // the sum of each 16 integers
  SplitSums split_32;  // of each 32; 8 are used, the others are 0
};

// Quantize 256 values of a row of A to the same integers and scales as llama3::quantize_activations.
void quantize(const float* values, bool per_32, PackedActivations& packed);

}  // namespace llama3::neon
