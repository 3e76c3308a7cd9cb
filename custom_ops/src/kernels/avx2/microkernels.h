// Choosing the tile kernels of a format among those that a file compiles.
#pragma once

#include "kernels/avx2/format_kernels.h"

namespace llama3::avx2 {

template <TileTraits T>
inline constexpr TileKernel* kForColumns[kTileColumns] = {multiply_tiles<T, 1>, multiply_tiles<T, 2>,
                                                          multiply_tiles<T, 3>};

template <TileTraits... all>
TileKernel* const* kernels_among(const TileTraits& traits) {
  TileKernel* const* found = nullptr;
  ((traits == all ? void(found = kForColumns<all>) : void()), ...);
  return found;
}

}  // namespace llama3::avx2
