// mxfp4 and nvfp4: four-bit indices into the codebook of E2M1, with small floating-point scales.
#include "kernels/codebooks.h"
#include "kernels/neon/format_kernels.h"
#include "kernels/neon/portable.h"

namespace llama3::neon {
namespace {

// mxfp4: a power of two as the scale, then 16 bytes of nibbles that index a codebook.
struct MXFP4 {
  static constexpr Format kFormat = Format::kMXFP4;
  static constexpr bool kMinima = false;

  LLAMA3_INLINE Block load(const uint8_t* block) {
    const int8x16_t codebook = vld1q_s8(kCodebookE2M1);
    const uint8x16_t bytes = vld1q_u8(block + 1);
    return {vqtbl1q_s8(codebook, low_nibbles(bytes)), vqtbl1q_s8(codebook, high_nibbles(bytes)), half_of_e8m0(block[0]),
            0};
  }
};

}  // namespace

template <>
FormatKernels kernels_for<Format::kMXFP4>() {
  return kernels_of<MXFP4>();
}

template <>
FormatKernels kernels_for<Format::kNVFP4>() {
  return portable_kernels<Format::kNVFP4>();
}

}  // namespace llama3::neon
