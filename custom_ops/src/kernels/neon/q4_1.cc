// q4_1: a float16 scale, a float16 that is added, 16 bytes of nibbles.
#include "kernels/neon/format_kernels.h"

namespace llama3::neon {
namespace {

struct Q4_1 {
  static constexpr Format kFormat = Format::kQ4_1;
  static constexpr bool kMinima = true;

  LLAMA3_INLINE Block load(const uint8_t* block) {
    const uint8x16_t bytes = vld1q_u8(block + 4);
    return {as_signed(low_nibbles(bytes)), as_signed(high_nibbles(bytes)), load_half(block), -load_half(block + 2)};
  }
};

}  // namespace

FormatKernels q4_1_kernels() { return kernels_of<Q4_1>(); }

}  // namespace llama3::neon
