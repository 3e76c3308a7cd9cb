// The scales and minima of q4_k and q5_k: two float16 and eight 6-bit numbers each in 12 bytes.
#pragma once

#include "kernels/avx512/super_block.h"

namespace llama3::avx512 {

// Fills the scales and minima from the first 16 bytes of a block. Bytes 4 to 7 hold four scales in their
// low six bits, 8 to 11 four minima; bytes 12 to 15 hold the nibbles of four more of both, completed by the top bits.
LLAMA3_INLINE void load_k_scales(const uint8_t* block, SuperBlock& out) {
  const __m128i head = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block));
  // To 64-bit lanes: the scales with the late nibbles, the minima with the late nibbles.
  const __m128i bytes = _mm_shuffle_epi8(head, _mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15));
  const __m128i low_bits = _mm_and_si128(
      _mm_multishift_epi64_epi8(_mm_setr_epi8(0, 8, 16, 24, 32, 40, 48, 56, 0, 8, 16, 24, 36, 44, 52, 60), bytes),
      _mm_setr_epi8(63, 63, 63, 63, 15, 15, 15, 15, 63, 63, 63, 63, 15, 15, 15, 15));
  const __m128i high_bits = _mm_and_si128(
      _mm_multishift_epi64_epi8(_mm_setr_epi8(0, 0, 0, 0, 2, 10, 18, 26, 0, 0, 0, 0, 2, 10, 18, 26), bytes),
      _mm_setr_epi8(0, 0, 0, 0, 48, 48, 48, 48, 0, 0, 0, 0, 48, 48, 48, 48));
  const __m128i codes = _mm_or_si128(low_bits, high_bits);  // eight scales, eight minima
  const __m512 halves = _mm512_castps128_ps512(_mm_cvtph_ps(head));
  const __m512 factors =
      _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), halves);
  out.scale = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes)), factors);
  out.min = _mm512_zextps256_ps512(_mm512_extractf32x8_ps(out.scale, 1));
  out.min_codes = _mm256_zextsi128_si256(_mm_cvtepu8_epi16(_mm_srli_si128(codes, 8)));
  out.min_factor = _mm512_permutexvar_ps(_mm512_set1_epi32(1), halves);
}

}  // namespace llama3::avx512
