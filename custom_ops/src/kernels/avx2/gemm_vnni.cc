// The gemm kernels that multiply with vpdpbusd.
#include "kernels/avx2/gemm_kernels.h"

namespace llama3::avx2 {

template GemmKernel* const*
gemm_kernels<GemmTraits{.dot = Dot::kVNNI, .sub_block = 32, .run = 32, .minima = Minima::kIntegers}>();
template GemmKernel* const*
gemm_kernels<GemmTraits{.dot = Dot::kVNNI, .sub_block = 16, .run = 16, .minima = Minima::kIntegers}>();
template GemmKernel* const* gemm_kernels<GemmTraits{.dot = Dot::kVNNI, .sub_block = 16, .run = 16, .shifted = true}>();
template GemmKernel* const* gemm_kernels<GemmTraits{.dot = Dot::kVNNI, .sub_block = 32, .run = 32, .shifted = true}>();
template GemmKernel* const*
gemm_kernels<GemmTraits{.dot = Dot::kVNNI, .sub_block = 32, .run = 32, .shifted = true, .per_32 = true}>();
template GemmKernel* const*
gemm_kernels<GemmTraits{.dot = Dot::kVNNI, .sub_block = 32, .run = 32, .minima = Minima::kFloats, .per_32 = true}>();
template GemmKernel* const*
gemm_kernels<GemmTraits{.dot = Dot::kVNNI, .sub_block = 16, .run = 16, .shifted = true, .per_32 = true}>();

}  // namespace llama3::avx2
