// What the i-quants share: weights come from a grid by an index, four or eight at once, with signs beside it.
#pragma once

#include "kernels/avx512/super_block.h"
#include "kernels/scalar/grids.h"

namespace llama3::avx512 {

LLAMA3_INLINE uint64_t load_u64(const uint8_t* at) {
  uint64_t value;
  __builtin_memcpy(&value, at, sizeof value);
  return value;
}
LLAMA3_INLINE uint32_t load_u32(const uint8_t* at) {
  uint32_t value;
  __builtin_memcpy(&value, at, sizeof value);
  return value;
}
LLAMA3_INLINE uint32_t load_u16(const uint8_t* at) {
  uint16_t value;
  __builtin_memcpy(&value, at, sizeof value);
  return value;
}

LLAMA3_INLINE __m256i bytes_to_words(uint64_t bytes) {
  return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(bytes)));
}

// 64 weights: eight entries of eight, or 16 entries of four.
LLAMA3_INLINE __m512i eights(const int8_t (*grid)[8], __m256i indices) {
  return _mm512_i32gather_epi64(indices, grid, 8);
}
LLAMA3_INLINE __m512i fours(const int8_t (*grid)[4], __m512i indices) {
  return _mm512_i32gather_epi32(indices, grid, 4);
}

// Bytes of seven sign bits, completed to eight: an even number of them is set.
LLAMA3_INLINE uint64_t complete_signs(uint64_t sevens) {
  uint64_t parity = sevens ^ sevens >> 4;
  parity ^= parity >> 2;
  parity ^= parity >> 1;
  return sevens | (parity & 0x0101010101010101u) << 7;
}

// Four times seven sign bits in each of two words.
LLAMA3_INLINE uint64_t signs_of_words(uint32_t first, uint32_t second) {
  const uint64_t bits = (first & 0x0fffffffu) | static_cast<uint64_t>(second & 0x0fffffffu) << 28;
  return complete_signs(_pdep_u64(bits, 0x7f7f7f7f7f7f7f7fu));
}

// Weights above zero, negated where a bit is set, as the unsigned operands w + 128.
LLAMA3_INLINE __m512i apply_signs(__m512i values, uint64_t negative) {
  const __m512i middle = _mm512_set1_epi8(-128);
  return _mm512_mask_sub_epi8(_mm512_add_epi8(middle, values), _cvtu64_mask64(negative), middle, values);
}

// The nibbles of eight bytes as 16 numbers, the low ones first.
LLAMA3_INLINE __m512 nibbles_to_floats(uint64_t bytes) {
  const __m128i low = _mm_cvtsi64_si128(static_cast<long long>(bytes & 0x0f0f0f0f0f0f0f0fu));
  const __m128i high = _mm_cvtsi64_si128(static_cast<long long>(bytes >> 4 & 0x0f0f0f0f0f0f0f0fu));
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_unpacklo_epi8(low, high)));
}

// d * (1/2 + code) * factor, all exact.
LLAMA3_INLINE __m512 scales_from_half(__m512 codes, const uint8_t* d, float factor) {
  return _mm512_mul_ps(_mm512_mul_ps(half_to_all(d), _mm512_add_ps(_mm512_set1_ps(0.5f), codes)),
                       _mm512_set1_ps(factor));
}

}  // namespace llama3::avx512
