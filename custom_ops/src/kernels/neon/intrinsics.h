// <arm_neon.h>, and the few operations that it lacks.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "kernels/half.h"
#include "kernels/inline.h"

namespace llama3::neon {

LLAMA3_INLINE float load_half(const uint8_t* at) { return static_cast<float>(load<__fp16>(at)); }

// Shift each byte right by kBits, which may be 0; the intrinsic does not accept 0.
template <int kBits>
LLAMA3_INLINE uint8x16_t shift_right(uint8x16_t bytes) {
  if constexpr (kBits == 0)
    return bytes;
  else
    return vshrq_n_u8(bytes, kBits);
}

// Return bits kFirst and up of each byte, as many as the mask `low_bits` has.
template <int kFirst>
LLAMA3_INLINE uint8x16_t bits_of(uint8x16_t bytes, uint8_t low_bits) {
  return vandq_u8(shift_right<kFirst>(bytes), vdupq_n_u8(low_bits));
}

LLAMA3_INLINE uint8x16_t low_nibbles(uint8x16_t bytes) { return bits_of<0>(bytes, 15); }
LLAMA3_INLINE uint8x16_t high_nibbles(uint8x16_t bytes) { return vshrq_n_u8(bytes, 4); }

LLAMA3_INLINE int8x16_t as_signed(uint8x16_t bytes) { return vreinterpretq_s8_u8(bytes); }
LLAMA3_INLINE int8x16_t minus(uint8x16_t bytes, int8_t zero) { return vsubq_s8(as_signed(bytes), vdupq_n_s8(zero)); }

}  // namespace llama3::neon
