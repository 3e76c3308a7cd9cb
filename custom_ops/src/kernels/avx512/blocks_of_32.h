// Helpers for formats with blocks of 32 weights. Eight blocks make a super-block; the last one of a row may have fewer.
#pragma once

#include "kernels/avx512/super_block.h"

namespace llama3::avx512 {

// Return the first four bytes of each block, which contain its scale (and minimum), one block per lane.
template <class F, bool kTail>
LLAMA3_INLINE __m256i block_heads(const uint8_t* blocks, int count) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i offsets = _mm256_mullo_epi32(lane, _mm256_set1_epi32(kBlockBytes<F>));
  if constexpr (!kTail) return _mm256_i32gather_epi32(reinterpret_cast<const int*>(blocks), offsets, 1);
  const __m256i valid = _mm256_cmpgt_epi32(_mm256_set1_epi32(count / 32), lane);
  return _mm256_mask_i32gather_epi32(_mm256_setzero_si256(), reinterpret_cast<const int*>(blocks), offsets, valid, 1);
}

// Return block i. Past the last one, return the first, whose weights are then multiplied by a scale of 0 and
// activations of 0.
template <class F, bool kTail>
LLAMA3_INLINE const uint8_t* block_at(const uint8_t* blocks, int count, int i) {
  return blocks + (kTail && 32 * i >= count ? 0 : i * kBlockBytes<F>);
}

// Load 64 bytes, or in a tail those that are left, followed by zeros.
template <bool kTail>
LLAMA3_INLINE __m512i load_bytes(const uint8_t* at, int left) {
  if constexpr (!kTail) return _mm512_loadu_si512(at);
  const auto valid = left >= 64 ? ~uint64_t{0} : (uint64_t{1} << (left > 0 ? left : 0)) - 1;
  return _mm512_maskz_loadu_epi8(_cvtu64_mask64(valid), at);
}

// Return indices that gather the first four bytes of four blocks: bytes 0 to 15 of the result are for the first float16
// of eight blocks, 16 to 31 for the second.
template <class F>
LLAMA3_INLINE __m512i head_indices() {
  alignas(64) int8_t indices[64] = {};
#pragma GCC unroll 32
  for (int i = 0; i < 32; i++) indices[i] = static_cast<int8_t>((i / 2 % 4 * kBlockBytes<F> + i / 16 * 2 + i % 2) & 63);
  return _mm512_load_si512(indices);
}

// Return the first two bytes of block i as word i, and the next two as word 8 + i.
template <class F, bool kTail>
LLAMA3_INLINE __m256i head_words(const uint8_t* blocks, int count) {
  if constexpr (3 * kBlockBytes<F> + 4 <= 64) {  // one load covers the heads of four blocks
    const int bytes = count / 32 * kBlockBytes<F>;
    const __m512i first = load_bytes<kTail>(blocks, bytes);
    const __m512i second = load_bytes<kTail>(blocks + 4 * kBlockBytes<F>, bytes - 4 * kBlockBytes<F>);
    const __m512i indices = head_indices<F>();
    const __m512i packed = _mm512_permutexvar_epi8(indices, first);
    return _mm512_castsi512_si256(_mm512_mask_permutexvar_epi8(packed, 0xff00ff00, indices, second));
  }
  const __m256i heads = block_heads<F, kTail>(blocks, count);
  return _mm256_setr_m128i(_mm256_cvtepi32_epi16(heads), _mm256_cvtepi32_epi16(_mm256_srli_epi32(heads, 16)));
}

// Return these float16 as floats: scales in the lower eight lanes, minima (or unused values) in the upper.
template <class F, bool kTail>
LLAMA3_INLINE __m512 head_halves(const uint8_t* blocks, int count) {
  return _mm512_cvtph_ps(head_words<F, kTail>(blocks, count));
}

// Return the upper eight lanes, negated, in the lower half, with zeros above.
LLAMA3_INLINE __m512 negated_upper_half(__m512 lanes) {
  const __m512 upper = _mm512_zextps256_ps512(_mm512_extractf32x8_ps(lanes, 1));
  return _mm512_xor_ps(upper, _mm512_set1_ps(-0.0f));
}

template <class F>
LLAMA3_INLINE __m512i quarter_indices() {
  alignas(64) int8_t indices[64];
#pragma GCC unroll 64
  for (int i = 0; i < 64; i++) indices[i] = static_cast<int8_t>((i / 16 * kBlockBytes<F> + i % 16) & 63);
  return _mm512_load_si512(indices);
}

// Load 16 bytes of each of four blocks, block i into quarter i. Those of the first block are at `bytes`. A tail has
// `left` bytes there, at least those of one block.
template <class F, bool kTail>
LLAMA3_INLINE __m512i four_quarters(const uint8_t* bytes, int left) {
  // One load covers three of them and ends before the end of the fourth.
  static_assert(2 * kBlockBytes<F> + 16 <= 64 && 64 < 3 * kBlockBytes<F> + 16);
  const __m512i three = _mm512_permutexvar_epi8(quarter_indices<F>(), load_bytes<kTail>(bytes, left));
  const uint8_t* fourth = bytes + (kTail && left < 3 * kBlockBytes<F> + 16 ? 0 : 3 * kBlockBytes<F>);
  return _mm512_mask_broadcast_i32x4(three, 0xf000, _mm_loadu_si128(reinterpret_cast<const __m128i*>(fourth)));
}

// Load the nibbles of eight blocks in the order of SuperBlock. They begin `offset` bytes into each block.
template <class F, bool kTail>
LLAMA3_INLINE void load_nibbles(const uint8_t* blocks, int offset, int count, __m512i* q) {
  const __m512i low_bits = _mm512_set1_epi8(15);
#pragma GCC unroll 2
  for (int k = 0; k < 2; k++) {
    const int before = 4 * k * kBlockBytes<F> + offset, left = count / 32 * kBlockBytes<F> - before;
    const __m512i both = kTail && left <= 0 ? _mm512_setzero_si512() : four_quarters<F, kTail>(blocks + before, left);
    q[2 * k] = _mm512_and_si512(both, low_bits);
    q[2 * k + 1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low_bits);
  }
}

// Add 16 where a weight's fifth bit is set. `bits` points to the 32 bits of the first block.
template <class F, bool kTail>
LLAMA3_INLINE void add_fifth_bits(const uint8_t* bits, int count, __m512i* q) {
#pragma GCC unroll 4
  for (int part = 0; part < 4; part++) {
    uint64_t mask = 0;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      uint16_t half;
      __builtin_memcpy(&half, block_at<F, kTail>(bits, count, part / 2 * 4 + i) + part % 2 * 2, sizeof half);
      mask |= static_cast<uint64_t>(half) << (16 * i);
    }
    q[part] = _mm512_mask_add_epi8(q[part], _cvtu64_mask64(mask), q[part], _mm512_set1_epi8(16));
  }
}

}  // namespace llama3::avx512
