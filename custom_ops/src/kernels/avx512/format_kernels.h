// The kernels of one format, as each format's file makes them and the driver takes them.
#pragma once

#include "kernels/avx512/dequantize.h"
#include "kernels/avx512/rows.h"
#include "kernels/avx512/tiles.h"
#include "kernels/matmul_calls.h"
#include "kernels/matmul_rows.h"

namespace llama3::avx512 {

using FormatKernels = llama3::FormatKernels<ActivationBlock, Tile, Column>;
template <class F>
FormatKernels kernels_of() {
  constexpr TileTraits traits = {
      .sub_block = F::kSubBlock, .is_signed = kSigned<F>, .minima = F::kMinima, .per_32 = kPer32<F>};
  return {dequantize_row<F>,
          {multiply_rows<RowDot<F>, 1>, multiply_rows<RowDot<F>, 2>, multiply_rows<RowDot<F>, 3>,
           multiply_rows<RowDot<F>, 4>},
          pack_tile<F>,
          tile_kernels<traits>(),
          sizeof(Column)};
}

// Of each format: defined in the file of the format's family, without which the library does not link.
template <Format format>
FormatKernels kernels_for();

}  // namespace llama3::avx512
