// q4_0: a float16 scale, 16 bytes of nibbles, which mean themselves less 8.
#include "kernels/neon/format_kernels.h"

namespace llama3::neon {
namespace {

struct Q4_0 {
  static constexpr Format kFormat = Format::kQ4_0;
  static constexpr bool kMinima = false;

  LLAMA3_INLINE Block load(const uint8_t* block) {
    const uint8x16_t bytes = vld1q_u8(block + 2);
    return {minus(low_nibbles(bytes), 8), minus(high_nibbles(bytes), 8), load_half(block), 0};
  }
};

}  // namespace

FormatKernels q4_0_kernels() { return kernels_of<Q4_0>(); }

}  // namespace llama3::neon
