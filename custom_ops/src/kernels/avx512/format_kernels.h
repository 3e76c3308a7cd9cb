// The kernels of one format, as each format's file makes them and the driver takes them.
#pragma once

#include "kernels/avx512/dequantize.h"
#include "kernels/avx512/rows.h"
#include "kernels/avx512/tiles.h"
#include "kernels/matmul_calls.h"
#include "kernels/matmul_rows.h"

namespace llama3::avx512 {

using FormatKernels = llama3::FormatKernels<ActivationBlock, Tile, Column>;
using TileKernel = FormatKernels::Tiles;

// Formats of the same traits share their microkernels, which microkernels.cc compiles.
TileKernel* const* tile_kernels(const TileTraits& traits);

template <class F>
FormatKernels kernels_of() {
  constexpr TileTraits traits = {F::kSubBlock, kSigned<F>, F::kMinima, kPer32<F>};
  return {F::kFormat,
          {multiply_rows<RowDot<F>, 1>, multiply_rows<RowDot<F>, 2>, multiply_rows<RowDot<F>, 3>,
           multiply_rows<RowDot<F>, 4>},
          pack_tile<F>,
          tile_kernels(traits),
          sizeof(Column),
          dequantize_row<F>};
}

FormatKernels q4_0_kernels(), q4_1_kernels(), q5_0_kernels(), q5_1_kernels(), q8_0_kernels();
FormatKernels q2_k_kernels(), q3_k_kernels(), q4_k_kernels(), q5_k_kernels(), q6_k_kernels();
FormatKernels iq4_nl_kernels(), iq4_xs_kernels(), mxfp4_kernels();
FormatKernels iq1_s_kernels(), iq1_m_kernels(), iq2_xxs_kernels(), iq2_xs_kernels(), iq2_s_kernels();
FormatKernels iq3_xxs_kernels(), iq3_s_kernels(), nvfp4_kernels(), tq1_0_kernels(), tq2_0_kernels();

}  // namespace llama3::avx512
