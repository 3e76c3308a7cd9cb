// The gemm kernels, compiled once for each set of traits that a format has.
#include "kernels/avx512/gemm.h"

namespace llama3::avx512 {

template <GemmTraits T>
GemmKernel* const* gemm_kernels() {
  static constexpr GemmKernel* kForM[kMaxGemmM] = {gemm<T, 1>, gemm<T, 2>, gemm<T, 3>,
                                                   gemm<T, 4>, gemm<T, 5>, gemm<T, 6>};
  return kForM;
}

template GemmKernel* const* gemm_kernels<GemmTraits{.sub_block = 32, .minima = Minima::kInteger}>();
template GemmKernel* const* gemm_kernels<GemmTraits{.sub_block = 16, .minima = Minima::kInteger}>();
template GemmKernel* const* gemm_kernels<GemmTraits{.sub_block = 16, .is_signed = true}>();
template GemmKernel* const* gemm_kernels<GemmTraits{.sub_block = 32, .is_signed = true}>();
template GemmKernel* const* gemm_kernels<GemmTraits{.sub_block = 32, .is_signed = true, .per_32 = true}>();
template GemmKernel* const* gemm_kernels<GemmTraits{.sub_block = 32, .minima = Minima::kFloat, .per_32 = true}>();
template GemmKernel* const* gemm_kernels<GemmTraits{.sub_block = 16, .is_signed = true, .per_32 = true}>();

}  // namespace llama3::avx512
