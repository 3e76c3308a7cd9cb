// q5_1: a float16 scale, a float16 that is added, 32 fifth bits, 16 bytes of nibbles.
#include "kernels/neon/fifth_bits.h"
#include "kernels/neon/format_kernels.h"

namespace llama3::neon {
namespace {

struct Q5_1 {
  static constexpr Format kFormat = Format::kQ5_1;
  static constexpr bool kMinima = true;

  LLAMA3_INLINE Block load(const uint8_t* block) {
    const uint8x16_t bytes = vld1q_u8(block + 8);
    const uint8x16x2_t fifth = fifth_bits(block + 4);
    return {combine(low_nibbles(bytes), fifth.val[0]), combine(high_nibbles(bytes), fifth.val[1]), load_half(block),
            -load_half(block + 2)};
  }

  LLAMA3_INLINE int8x16_t combine(uint8x16_t nibbles, uint8x16_t fifth) {
    return as_signed(vorrq_u8(nibbles, vandq_u8(fifth, vdupq_n_u8(16))));
  }
};

}  // namespace

FormatKernels q5_1_kernels() { return kernels_of<Q5_1>(); }

}  // namespace llama3::neon
