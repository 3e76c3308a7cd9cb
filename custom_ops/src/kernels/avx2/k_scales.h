// The scales and minima of q4_k and q5_k: two float16 and eight 6-bit numbers each in 12 bytes.
#pragma once

#include "kernels/avx2/super_block.h"

namespace llama3::avx2 {

// Fills the scales and minima from the first 16 bytes of a block. Bytes 4 to 7 hold four scales in their low six bits,
// 8 to 11 four minima; bytes 12 to 15 hold the nibbles of four more of both, completed by the top bits.
LLAMA3_INLINE void load_k_scales(const uint8_t* block, IntegerScales& out) {
  const auto scales = load_number<uint32_t>(block + 4), minima = load_number<uint32_t>(block + 8),
             nibbles = load_number<uint32_t>(block + 12);
  constexpr uint32_t kSix = 0x3f3f3f3f, kFour = 0x0f0f0f0f, kTwo = 0x30303030;
  const auto codes = [](uint32_t low, uint32_t high) {
    const auto both = static_cast<long long>(low | static_cast<uint64_t>(high) << 32);
    return _mm256_zextsi128_si256(_mm_cvtepu8_epi16(_mm_cvtsi64_si128(both)));
  };
  out.codes = codes(scales & kSix, (nibbles & kFour) | (scales >> 2 & kTwo));
  out.min_codes = codes(minima & kSix, (nibbles >> 4 & kFour) | (minima >> 2 & kTwo));
  out.factor = load_half(block);
  out.min_factor = load_half(block + 2);
}

}  // namespace llama3::avx2
