// The kernels of one format, built in the file of its family and called by the driver.
#pragma once

#include "kernels/avx512/dequantize.h"
#include "kernels/avx512/gemm.h"
#include "kernels/avx512/gemv.h"
#include "kernels/gemv.h"
#include "kernels/matmul_calls.h"

namespace llama3::avx512 {

using FormatKernels = llama3::FormatKernels<ActivationBlock, Tile, GemmActivations>;
template <class F>
FormatKernels kernels_of() {
  constexpr GemmTraits traits = {
      .sub_block = F::kSubBlock, .is_signed = kSigned<F>, .minima = F::kMinima, .per_32 = kPer32<F>};
  return {dequantize_row<F>,
          {gemv<GemvDot<F>, 1>, gemv<GemvDot<F>, 2>, gemv<GemvDot<F>, 3>, gemv<GemvDot<F>, 4>},
          pack_tile<F>,
          gemm_kernels<traits>(),
          sizeof(GemmActivations)};
}

// Each format defines this in the file of its family; if one is missing, the library does not link.
template <Format format>
FormatKernels kernels_for();
#define LLAMA3_KERNELS_FOR(id, ...) \
  template <>                       \
  FormatKernels kernels_for<Format::k##id>();
LLAMA3_FORMATS(LLAMA3_KERNELS_FOR)
#undef LLAMA3_KERNELS_FOR

}  // namespace llama3::avx512
