// The kernels of one format, as each format's file makes them and the driver takes them.
#pragma once

#include "kernels/avx2/dequantize.h"
#include "kernels/avx2/rows.h"
#include "kernels/avx2/tiles.h"
#include "kernels/matmul_calls.h"
#include "kernels/matmul_rows.h"

namespace llama3::avx2 {

using FormatKernels = llama3::FormatKernels<RowBlock, Tile, Column>;
// With AVX-VNNI tiles are multiplied by other instructions, and packed for them. Few rows of A are not: there reading
// the weights takes the time.
template <class F>
FormatKernels kernels_of(bool vnni) {
  return {dequantize_row<F>,
          {multiply_rows<RowDot<F>, 1>, multiply_rows<RowDot<F>, 2>, multiply_rows<RowDot<F>, 3>,
           multiply_rows<RowDot<F>, 4>},
          vnni ? pack_tile<F, kTraitsVNNI<F>> : pack_tile<F, kTraits<F>>,
          vnni ? tile_kernels<kTraitsVNNI<F>>() : tile_kernels<kTraits<F>>(),
          static_cast<int64_t>(!vnni && kTraits<F>.dot == Dot::kWords ? sizeof(Column) : offsetof(Column, words))};
}

// Of each format: defined in the file of the format's family, without which the library does not link.
template <Format format>
FormatKernels kernels_for(bool vnni);

}  // namespace llama3::avx2
