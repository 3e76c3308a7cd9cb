// q4_0, q4_1, q5_0, q5_1, q8_0 and iq4_nl: blocks of 32 weights with a float16 scale and, in the _1 formats, a float16
// that is added to each weight.
#include "kernels/codebooks.h"
#include "kernels/neon/format_kernels.h"
#include "kernels/neon/intrinsics.h"

namespace llama3::neon {
namespace {

// Return 255 where the bit of a weight is set: weights 0 to 15 from the first two bytes, 16 to 31 from the others.
LLAMA3_INLINE uint8x16x2_t fifth_bits(const uint8_t* bits) {
  const uint8x16_t four = vreinterpretq_u8_u32(vdupq_n_u32(load<uint32_t>(bits)));
  const uint8x16_t byte = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
  const uint8x16_t bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  return {{vtstq_u8(vqtbl1q_u8(four, byte), bit), vtstq_u8(vqtbl1q_u8(four, vaddq_u8(byte, vdupq_n_u8(2))), bit)}};
}

// q4_0: a float16 scale, 16 bytes of nibbles. A weight is its nibble minus 8, scaled.
struct Q4_0 {
  static constexpr Format kFormat = Format::kQ4_0;
  static constexpr bool kMinima = false;

  LLAMA3_INLINE Block load(const uint8_t* block) {
    const uint8x16_t bytes = vld1q_u8(block + 2);
    return {minus(low_nibbles(bytes), 8), minus(high_nibbles(bytes), 8), load_half(block), 0};
  }
};

// q4_1: a float16 scale, a float16 to add, 16 bytes of nibbles.
struct Q4_1 {
  static constexpr Format kFormat = Format::kQ4_1;
  static constexpr bool kMinima = true;

  LLAMA3_INLINE Block load(const uint8_t* block) {
    const uint8x16_t bytes = vld1q_u8(block + 4);
    return {as_signed(low_nibbles(bytes)), as_signed(high_nibbles(bytes)), load_half(block), -load_half(block + 2)};
  }
};

// q5_0: a float16 scale, 32 fifth bits, 16 bytes of nibbles. A weight is its five bits minus 16, scaled.
struct Q5_0 {
  static constexpr Format kFormat = Format::kQ5_0;
  static constexpr bool kMinima = false;

  LLAMA3_INLINE Block load(const uint8_t* block) {
    const uint8x16_t bytes = vld1q_u8(block + 6);
    const uint8x16x2_t fifth = fifth_bits(block + 2);
    return {combine(low_nibbles(bytes), fifth.val[0]), combine(high_nibbles(bytes), fifth.val[1]), load_half(block), 0};
  }

  // Return the nibble, minus 16 if the fifth bit is not set: in a signed byte, that sets the upper half.
  LLAMA3_INLINE int8x16_t combine(uint8x16_t nibbles, uint8x16_t fifth) {
    return as_signed(vorrq_u8(nibbles, vbicq_u8(vdupq_n_u8(0xf0), fifth)));
  }
};

// q5_1: a float16 scale, a float16 to add, 32 fifth bits, 16 bytes of nibbles.
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

// q8_0: a float16 scale and 32 int8.
struct Q8_0 {
  static constexpr Format kFormat = Format::kQ8_0;
  static constexpr bool kMinima = false;

  LLAMA3_INLINE Block load(const uint8_t* block) {
    return {as_signed(vld1q_u8(block + 2)), as_signed(vld1q_u8(block + 18)), load_half(block), 0};
  }
};

// iq4_nl: a float16 scale, 16 bytes of nibbles that index a codebook.
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

template <>
FormatKernels kernels_for<Format::kQ4_0>() {
  return kernels_of<Q4_0>();
}

template <>
FormatKernels kernels_for<Format::kQ4_1>() {
  return kernels_of<Q4_1>();
}

template <>
FormatKernels kernels_for<Format::kQ5_0>() {
  return kernels_of<Q5_0>();
}

template <>
FormatKernels kernels_for<Format::kQ5_1>() {
  return kernels_of<Q5_1>();
}

template <>
FormatKernels kernels_for<Format::kQ8_0>() {
  return kernels_of<Q8_0>();
}

template <>
FormatKernels kernels_for<Format::kIQ4_NL>() {
  return kernels_of<IQ4_NL>();
}

}  // namespace llama3::neon
