// The kernels that an instruction set provides for matmul.h. `matmul` and `matmul_scratch_bytes` choose among them.
#pragma once

#include "kernels/matmul.h"

namespace llama3 {

// For activations kInt8 and kFloat32.
struct MatmulKernels {
  decltype(matmul_scratch_bytes)* scratch_bytes;
  decltype(matmul)* multiply;
  void (*dequantize)(Format format, const uint8_t* row, int64_t count, float* out);  // from the start of a row
};

namespace scalar {
extern const MatmulKernels kMatmul;
}
namespace avx2 {
extern const MatmulKernels kMatmul;
}
// AVX2 with AVX-VNNI's dot products for many rows of A.
namespace avx2_vnni {
extern const MatmulKernels kMatmul;
}
namespace avx512 {
extern const MatmulKernels kMatmul;
}
namespace neon {
extern const MatmulKernels kMatmul;
}

}  // namespace llama3
