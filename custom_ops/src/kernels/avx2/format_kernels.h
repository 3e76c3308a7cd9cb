// The kernels of one format, as each format's file makes them and the driver takes them.
#pragma once

#include "kernels/avx2/dequantize.h"
#include "kernels/avx2/rows.h"
#include "kernels/avx2/tiles.h"
#include "kernels/matmul_calls.h"
#include "kernels/matmul_rows.h"

namespace llama3::avx2 {

using FormatKernels = llama3::FormatKernels<RowBlock, Tile, Column>;
using TileKernel = FormatKernels::Tiles;

// Formats of the same traits share their microkernels, which microkernels.cc and microkernels_vnni.cc compile.
TileKernel* const* tile_kernels(const TileTraits& traits);
TileKernel* const* tile_kernels_vnni(const TileTraits& traits);

// With AVX-VNNI tiles are multiplied by other instructions, and packed for them. Few rows of A are not: there reading
// the weights takes the time.
template <class F>
FormatKernels kernels_of(bool vnni) {
  return {F::kFormat,
          {multiply_rows<RowDot<F>, 1>, multiply_rows<RowDot<F>, 2>, multiply_rows<RowDot<F>, 3>,
           multiply_rows<RowDot<F>, 4>},
          vnni ? pack_tile<F, kTraitsVNNI<F>> : pack_tile<F, kTraits<F>>,
          vnni ? tile_kernels_vnni(kTraitsVNNI<F>) : tile_kernels(kTraits<F>),
          static_cast<int64_t>(!vnni && kTraits<F>.dot == Dot::kWords ? sizeof(Column) : offsetof(Column, words)),
          dequantize_row<F>};
}

FormatKernels q4_0_kernels(bool vnni), q4_1_kernels(bool vnni), q5_0_kernels(bool vnni), q5_1_kernels(bool vnni);
FormatKernels q8_0_kernels(bool vnni), q2_k_kernels(bool vnni), q3_k_kernels(bool vnni), q4_k_kernels(bool vnni);
FormatKernels q5_k_kernels(bool vnni), q6_k_kernels(bool vnni), iq4_nl_kernels(bool vnni), iq4_xs_kernels(bool vnni);
FormatKernels mxfp4_kernels(bool vnni), nvfp4_kernels(bool vnni), tq1_0_kernels(bool vnni), tq2_0_kernels(bool vnni);
FormatKernels iq1_s_kernels(bool vnni), iq1_m_kernels(bool vnni), iq2_xxs_kernels(bool vnni);
FormatKernels iq2_xs_kernels(bool vnni), iq2_s_kernels(bool vnni), iq3_xxs_kernels(bool vnni);
FormatKernels iq3_s_kernels(bool vnni);

}  // namespace llama3::avx2
