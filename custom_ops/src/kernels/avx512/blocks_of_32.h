// What the formats with blocks of 32 weights share: eight blocks make a super-block, the last of a row may have fewer.
#pragma once

#include "kernels/avx512/super_block.h"

namespace llama3::avx512 {

// The first four bytes of each block, where its scale (and minimum) stand, one block a lane.
template <int kBlockBytes, bool kTail>
LLAMA3_INLINE __m256i block_heads(const uint8_t* blocks, int count) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i offsets = _mm256_mullo_epi32(lane, _mm256_set1_epi32(kBlockBytes));
  if constexpr (!kTail) return _mm256_i32gather_epi32(reinterpret_cast<const int*>(blocks), offsets, 1);
  const __m256i valid = _mm256_cmpgt_epi32(_mm256_set1_epi32(count / 32), lane);
  return _mm256_mask_i32gather_epi32(_mm256_setzero_si256(), reinterpret_cast<const int*>(blocks), offsets, valid, 1);
}

// Block i; past the last one the first, whose weights then meet a scale of 0 and activations of 0.
template <int kBlockBytes, bool kTail>
LLAMA3_INLINE const uint8_t* block_at(const uint8_t* blocks, int count, int i) {
  return blocks + (kTail && 32 * i >= count ? 0 : i * kBlockBytes);
}

// The float16 in the lower or the upper half of each lane; zeros above.
LLAMA3_INLINE __m512 low_halves(__m256i heads) {
  return _mm512_zextps256_ps512(_mm256_cvtph_ps(_mm256_cvtepi32_epi16(heads)));
}
LLAMA3_INLINE __m512 high_halves(__m256i heads) { return low_halves(_mm256_srli_epi32(heads, 16)); }

// Four bits each of 64 weights in two blocks, whose nibbles begin at these addresses.
LLAMA3_INLINE __m512i nibbles_of_two_blocks(const uint8_t* first, const uint8_t* second) {
  return nibbles(doubled_quarters(first, second), shifts_by_quarter(0, 4));
}

// 16 where a bit of two blocks' 64 bits is set.
LLAMA3_INLINE __m512i fifth_bits_of_two_blocks(const uint8_t* first, const uint8_t* second) {
  uint32_t low, high;
  __builtin_memcpy(&low, first, sizeof low);
  __builtin_memcpy(&high, second, sizeof high);
  return _mm512_maskz_set1_epi8(_cvtu64_mask64(low | static_cast<uint64_t>(high) << 32), 16);
}

}  // namespace llama3::avx512
