// The template that gemm.cc and gemm_vnni.cc instantiate.
#pragma once

#include "kernels/avx2/gemm.h"

namespace llama3::avx2 {

template <GemmTraits T>
GemmKernel* const* gemm_kernels() {
  static constexpr GemmKernel* kForM[kMaxGemmM] = {gemm<T, 1>, gemm<T, 2>, gemm<T, 3>};
  return kForM;
}

}  // namespace llama3::avx2
