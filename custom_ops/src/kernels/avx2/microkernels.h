// What microkernels.cc and microkernels_vnni.cc instantiate.
#pragma once

#include "kernels/avx2/tiles.h"

namespace llama3::avx2 {

template <TileTraits T>
TileKernel* const* tile_kernels() {
  static constexpr TileKernel* kForColumns[kTileColumns] = {multiply_tiles<T, 1>, multiply_tiles<T, 2>,
                                                            multiply_tiles<T, 3>};
  return kForColumns;
}

}  // namespace llama3::avx2
