// The kernels of one format, as its family's file makes them and the driver takes them.
#pragma once

#include "kernels/avx2/dequantize.h"
#include "kernels/avx2/gemm.h"
#include "kernels/avx2/gemv.h"
#include "kernels/gemv.h"
#include "kernels/matmul_calls.h"

namespace llama3::avx2 {

using FormatKernels = llama3::FormatKernels<GemvActivations, Tile, GemmActivations>;
// With AVX-VNNI tiles are multiplied by other instructions, and packed for them. Few rows of A are not: there reading
// the weights takes the time.
template <class F>
FormatKernels kernels_of(bool vnni) {
  return {dequantize_row<F>,
          {gemv<GemvDot<F>, 1>, gemv<GemvDot<F>, 2>, gemv<GemvDot<F>, 3>, gemv<GemvDot<F>, 4>},
          vnni ? pack_tile<F, kTraitsVNNI<F>> : pack_tile<F, kTraits<F>>,
          vnni ? gemm_kernels<kTraitsVNNI<F>>() : gemm_kernels<kTraits<F>>(),
          static_cast<int64_t>(!vnni && kTraits<F>.dot == Dot::kWords ? sizeof(GemmActivations)
                                                                      : offsetof(GemmActivations, words))};
}

// Of each format: defined in the file of the format's family, without which the library does not link.
template <Format format>
FormatKernels kernels_for(bool vnni);
#define LLAMA3_KERNELS_FOR(id, ...) \
  template <>                       \
  FormatKernels kernels_for<Format::k##id>(bool vnni);
LLAMA3_FORMATS(LLAMA3_KERNELS_FOR)
#undef LLAMA3_KERNELS_FOR

}  // namespace llama3::avx2
