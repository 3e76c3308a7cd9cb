// q5_0: a float16 scale, 32 fifth bits, 16 bytes of nibbles; the five bits mean themselves less 16.
#include "kernels/neon/fifth_bits.h"
#include "kernels/neon/format_kernels.h"

namespace llama3::neon {
namespace {

struct Q5_0 {
  static constexpr Format kFormat = Format::kQ5_0;
  static constexpr bool kMinima = false;

  LLAMA3_INLINE Block load(const uint8_t* block) {
    const uint8x16_t bytes = vld1q_u8(block + 6);
    const uint8x16x2_t fifth = fifth_bits(block + 2);
    return {combine(low_nibbles(bytes), fifth.val[0]), combine(high_nibbles(bytes), fifth.val[1]), load_half(block), 0};
  }

  // The nibble, less 16 where the fifth bit is not set: as a signed byte, with its upper half set.
  LLAMA3_INLINE int8x16_t combine(uint8x16_t nibbles, uint8x16_t fifth) {
    return as_signed(vorrq_u8(nibbles, vbicq_u8(vdupq_n_u8(0xf0), fifth)));
  }
};

}  // namespace

FormatKernels q5_0_kernels() { return kernels_of<Q5_0>(); }

}  // namespace llama3::neon
