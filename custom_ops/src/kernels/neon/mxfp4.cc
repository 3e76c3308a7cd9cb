// mxfp4: a power of two as the scale, 16 bytes of nibbles that index a code book.
#include "kernels/codebooks.h"
#include "kernels/neon/format_kernels.h"

namespace llama3::neon {
namespace {

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

FormatKernels mxfp4_kernels() { return kernels_of<MXFP4>(); }

}  // namespace llama3::neon
