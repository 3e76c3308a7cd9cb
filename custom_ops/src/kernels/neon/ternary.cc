// tq1_0 and tq2_0: the values -1, 0 and 1, followed by one float16 scale.
#include "kernels/neon/portable.h"

namespace llama3::neon {

template <>
FormatKernels kernels_for<Format::kTQ1_0>() {
  return portable_kernels<Format::kTQ1_0>();
}

template <>
FormatKernels kernels_for<Format::kTQ2_0>() {
  return portable_kernels<Format::kTQ2_0>();
}

}  // namespace llama3::neon
