// The steps between a layer's matrix products, on rows of float32, each in one pass over memory. The results do not
// depend on the instruction set.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace llama3 {

// Compute y = silu(gate) * up, `count` values each, with silu(x) = x / (1 + e^-x).
void swiglu(const float* gate, const float* up, int64_t count, float* y, Parallel& parallel);

// sum = x + branch, and normed = sum / sqrt(mean(sum^2) + epsilon) * weight, for each row.
struct AddRMSNormCall {
  const float* x;       // [rows, cols]
  const float* branch;  // [rows, cols]
  const float* weight;  // [cols]
  float epsilon;
  int64_t rows, cols;
  float* normed;  // [rows, cols]
  float* sum;     // [rows, cols]
};
void add_rms_norm(const AddRMSNormCall& call, Parallel& parallel);

}  // namespace llama3
