// What q5_0 and q5_1 share: 32 bits, the fifth ones of 32 weights.
#pragma once

#include "kernels/neon/intrinsics.h"

namespace llama3::neon {

// Bytes of ones where the bit of a weight is set: weights 0 to 15 from the first two bytes, 16 to 31 from the others.
LLAMA3_INLINE uint8x16x2_t fifth_bits(const uint8_t* bits) {
  const uint8x16_t four = vreinterpretq_u8_u32(vdupq_n_u32(load<uint32_t>(bits)));
  const uint8x16_t byte = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
  const uint8x16_t bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  return {{vtstq_u8(vqtbl1q_u8(four, byte), bit), vtstq_u8(vqtbl1q_u8(four, vaddq_u8(byte, vdupq_n_u8(2))), bit)}};
}

}  // namespace llama3::neon
