// The kernels that an instruction set provides for elementwise.h.
#pragma once

#include "kernels/elementwise.h"

namespace llama3 {

struct ElementwiseKernels {
  void (*swiglu)(const float* gate, const float* up, int64_t count, float* y);
  void (*add_rms_norm_row)(const AddRMSNormCall& call, int64_t row);
};

namespace scalar {
extern const ElementwiseKernels kElementwise;
}
namespace avx2 {
extern const ElementwiseKernels kElementwise;
}
namespace avx512 {
extern const ElementwiseKernels kElementwise;
}

}  // namespace llama3
