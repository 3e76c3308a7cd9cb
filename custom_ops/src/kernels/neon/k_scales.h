// The scales and minima of q4_k and q5_k: two float16 and eight 6-bit numbers each in 12 bytes.
#pragma once

#include "kernels/neon/formats.h"

namespace llama3::neon {

// The first word of the twelve bytes holds four scales in the low six bits of its bytes, the second four minima; the
// nibbles of the third are four more of both, completed by the top bits of the other two.
LLAMA3_INLINE ScaleCodes load_k_scales(const uint8_t* block) {
  const uint32_t words[3] = {load<uint32_t>(block + 4), load<uint32_t>(block + 8), load<uint32_t>(block + 12)};
  const auto eight = [](uint32_t six_bits, uint32_t nibbles) {
    const uint32_t later = (nibbles & 0x0f0f0f0f) | (six_bits >> 2 & 0x30303030);
    return vcreate_s8((six_bits & 0x3f3f3f3f) | static_cast<uint64_t>(later) << 32);
  };
  const int16x8_t codes = vmovl_s8(eight(words[0], words[2]));
  return {{vmovl_s16(vget_low_s16(codes)), vmovl_high_s16(codes)},
          vcombine_s8(eight(words[1], words[2] >> 4), vdup_n_s8(0)),
          load_half(block),
          load_half(block + 2)};
}

}  // namespace llama3::neon
