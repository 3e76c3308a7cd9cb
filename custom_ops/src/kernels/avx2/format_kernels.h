// The kernels of one format, built in the file of its family and called by the driver.
#pragma once

#include "kernels/avx2/dequantize.h"
#include "kernels/avx2/gemm.h"
#include "kernels/avx2/gemv.h"
#include "kernels/gemv.h"
#include "kernels/matmul_calls.h"

namespace llama3::avx2 {

using FormatKernels = llama3::FormatKernels<GemvActivations, Tile, GemmActivations>;
// AVX-VNNI changes how tiles are packed and multiplied. Products with few rows of A do not use it, because most of
// their time goes into reading the weights.
template <class F>
FormatKernels kernels_of(bool vnni) {
  return {dequantize_row<F>,
          {gemv<GemvDot<F>, 1>, gemv<GemvDot<F>, 2>, gemv<GemvDot<F>, 3>, gemv<GemvDot<F>, 4>},
          vnni ? pack_tile<F, kTraitsVNNI<F>> : pack_tile<F, kTraits<F>>,
          vnni ? gemm_kernels<kTraitsVNNI<F>>() : gemm_kernels<kTraits<F>>(),
          static_cast<int64_t>(!vnni && kTraits<F>.dot == Dot::kWords ? sizeof(GemmActivations)
                                                                      : offsetof(GemmActivations, words))};
}

// Each format defines this in the file of its family; if one is missing, the library does not link.
template <Format format>
FormatKernels kernels_for(bool vnni);
#define LLAMA3_KERNELS_FOR(id, ...) \
  template <>                       \
  FormatKernels kernels_for<Format::k##id>(bool vnni);
LLAMA3_FORMATS(LLAMA3_KERNELS_FOR)
#undef LLAMA3_KERNELS_FOR

}  // namespace llama3::avx2
