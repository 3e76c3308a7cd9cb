// iq4_nl: a float16 scale, 16 bytes of nibbles that index a code book.
#include "kernels/codebooks.h"
#include "kernels/neon/format_kernels.h"

namespace llama3::neon {
namespace {

struct IQ4_NL {
  static constexpr Format kFormat = Format::kIQ4_NL;
  static constexpr bool kMinima = false;

  LLAMA3_INLINE Block load(const uint8_t* block) {
    const int8x16_t codebook = vld1q_s8(kCodebookIQ4);
    const uint8x16_t bytes = vld1q_u8(block + 2);
    return {vqtbl1q_s8(codebook, low_nibbles(bytes)), vqtbl1q_s8(codebook, high_nibbles(bytes)), load_half(block), 0};
  }
};

}  // namespace

FormatKernels iq4_nl_kernels() { return kernels_of<IQ4_NL>(); }

}  // namespace llama3::neon
