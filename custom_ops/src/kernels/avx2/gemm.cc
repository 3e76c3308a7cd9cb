// The gemm kernels, compiled once for each set of traits that a format has.
#include "kernels/avx2/gemm_kernels.h"

namespace llama3::avx2 {

template GemmKernel* const* gemm_kernels<GemmTraits{
    .dot = Dot::kPairs, .sub_block = 32, .run = 32, .integer_scales = true, .minima = Minima::kIntegers}>();
template GemmKernel* const* gemm_kernels<GemmTraits{
    .dot = Dot::kPairs, .sub_block = 32, .run = 16, .integer_scales = true, .minima = Minima::kIntegers}>();
template GemmKernel* const* gemm_kernels<GemmTraits{
    .dot = Dot::kPairs, .sub_block = 16, .run = 16, .integer_scales = true, .minima = Minima::kIntegers}>();
template GemmKernel* const*
gemm_kernels<GemmTraits{.dot = Dot::kPairs, .sub_block = 32, .run = 32, .shifted = true, .integer_scales = true}>();
template GemmKernel* const*
gemm_kernels<GemmTraits{.dot = Dot::kPairs, .sub_block = 16, .run = 16, .shifted = true, .integer_scales = true}>();
template GemmKernel* const*
gemm_kernels<GemmTraits{.dot = Dot::kPairs, .sub_block = 32, .run = 32, .shifted = true, .per_32 = true}>();
template GemmKernel* const*
gemm_kernels<GemmTraits{.dot = Dot::kPairs, .sub_block = 32, .run = 32, .minima = Minima::kFloats, .per_32 = true}>();
template GemmKernel* const*
gemm_kernels<GemmTraits{.dot = Dot::kPairs, .sub_block = 32, .run = 16, .minima = Minima::kFloats, .per_32 = true}>();
template GemmKernel* const* gemm_kernels<GemmTraits{.dot = Dot::kWords, .sub_block = 32, .run = 32, .per_32 = true}>();
template GemmKernel* const* gemm_kernels<GemmTraits{.dot = Dot::kWords, .sub_block = 32, .run = 32}>();
template GemmKernel* const* gemm_kernels<GemmTraits{.dot = Dot::kWords, .sub_block = 16, .run = 16, .per_32 = true}>();
template GemmKernel* const* gemm_kernels<GemmTraits{.dot = Dot::kWords, .sub_block = 16, .run = 16}>();

}  // namespace llama3::avx2
