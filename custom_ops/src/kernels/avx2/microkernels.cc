// The tile kernels, compiled once for each set of traits that a format has.
#include "kernels/avx2/microkernels.h"

namespace llama3::avx2 {

template TileKernel* const* tile_kernels<TileTraits{
    .dot = Dot::kPairs, .sub_block = 32, .run = 32, .integer_scales = true, .minima = Minima::kIntegers}>();
template TileKernel* const* tile_kernels<TileTraits{
    .dot = Dot::kPairs, .sub_block = 32, .run = 16, .integer_scales = true, .minima = Minima::kIntegers}>();
template TileKernel* const* tile_kernels<TileTraits{
    .dot = Dot::kPairs, .sub_block = 16, .run = 16, .integer_scales = true, .minima = Minima::kIntegers}>();
template TileKernel* const*
tile_kernels<TileTraits{.dot = Dot::kPairs, .sub_block = 32, .run = 32, .shifted = true, .integer_scales = true}>();
template TileKernel* const*
tile_kernels<TileTraits{.dot = Dot::kPairs, .sub_block = 16, .run = 16, .shifted = true, .integer_scales = true}>();
template TileKernel* const*
tile_kernels<TileTraits{.dot = Dot::kPairs, .sub_block = 32, .run = 32, .shifted = true, .per_32 = true}>();
template TileKernel* const*
tile_kernels<TileTraits{.dot = Dot::kPairs, .sub_block = 32, .run = 32, .minima = Minima::kFloats, .per_32 = true}>();
template TileKernel* const*
tile_kernels<TileTraits{.dot = Dot::kPairs, .sub_block = 32, .run = 16, .minima = Minima::kFloats, .per_32 = true}>();
template TileKernel* const* tile_kernels<TileTraits{.dot = Dot::kWords, .sub_block = 32, .run = 32, .per_32 = true}>();
template TileKernel* const* tile_kernels<TileTraits{.dot = Dot::kWords, .sub_block = 32, .run = 32}>();
template TileKernel* const* tile_kernels<TileTraits{.dot = Dot::kWords, .sub_block = 16, .run = 16, .per_32 = true}>();
template TileKernel* const* tile_kernels<TileTraits{.dot = Dot::kWords, .sub_block = 16, .run = 16}>();

}  // namespace llama3::avx2
