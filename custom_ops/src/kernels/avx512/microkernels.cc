// The tile kernels, compiled once for each set of traits that a format has.
#include "kernels/avx512/tiles.h"

namespace llama3::avx512 {

template <TileTraits T>
TileKernel* const* tile_kernels() {
  static constexpr TileKernel* kForColumns[kTileColumns] = {multiply_tiles<T, 1>, multiply_tiles<T, 2>,
                                                            multiply_tiles<T, 3>, multiply_tiles<T, 4>,
                                                            multiply_tiles<T, 5>, multiply_tiles<T, 6>};
  return kForColumns;
}

template TileKernel* const* tile_kernels<TileTraits{.sub_block = 32, .minima = Minima::kInteger}>();
template TileKernel* const* tile_kernels<TileTraits{.sub_block = 16, .minima = Minima::kInteger}>();
template TileKernel* const* tile_kernels<TileTraits{.sub_block = 16, .is_signed = true}>();
template TileKernel* const* tile_kernels<TileTraits{.sub_block = 32, .is_signed = true}>();
template TileKernel* const* tile_kernels<TileTraits{.sub_block = 32, .is_signed = true, .per_32 = true}>();
template TileKernel* const* tile_kernels<TileTraits{.sub_block = 32, .minima = Minima::kFloat, .per_32 = true}>();
template TileKernel* const* tile_kernels<TileTraits{.sub_block = 16, .is_signed = true, .per_32 = true}>();

}  // namespace llama3::avx512
