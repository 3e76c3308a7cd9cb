// Helpers for formats with blocks of 32 weights. Eight blocks make a super-block; the last one of a row may have fewer.
#pragma once

#include "kernels/avx2/super_block.h"

namespace llama3::avx2 {

// Word i of `first` is block i's first 16-bit word, and word i of `second` its second one. Zeros past the last block.
struct BlockHeads {
  __m128i first, second;  // eight words of 16 bits each
};
template <class F, bool kTail>
LLAMA3_INLINE BlockHeads block_heads(const uint8_t* blocks, int count) {
  const auto head = [&](int i) {
    return _mm_cvtsi32_si128(kTail && 32 * i >= count ? 0 : load_number<int32_t>(blocks + i * kBlockBytes<F>));
  };
  const auto four = [&](int i) {
    return _mm_unpacklo_epi32(_mm_unpacklo_epi16(head(i), head(i + 1)), _mm_unpacklo_epi16(head(i + 2), head(i + 3)));
  };
  const __m128i low = four(0), high = four(4);
  return {_mm_unpacklo_epi64(low, high), _mm_unpackhi_epi64(low, high)};
}

// Load the scales of blocks that begin with a scale.
template <class F, bool kTail>
LLAMA3_INLINE void load_scales(const uint8_t* blocks, int count, FloatScales& out) {
  out.scale[0] = _mm256_cvtph_ps(block_heads<F, kTail>(blocks, count).first);
}
// Load the scales and minima of blocks that begin with a scale and a number to add, which is the minimum, negated.
template <class F, bool kTail>
LLAMA3_INLINE void load_scales_and_minima(const uint8_t* blocks, int count, FloatScales& out) {
  const BlockHeads heads = block_heads<F, kTail>(blocks, count);
  out.scale[0] = _mm256_cvtph_ps(heads.first);
  out.min = _mm256_xor_ps(_mm256_cvtph_ps(heads.second), _mm256_set1_ps(-0.0f));
}

// Load the nibbles of eight blocks in the order of kHalves. They begin `offset` bytes into each block.
template <class F, bool kTail>
LLAMA3_INLINE void load_nibbles(const uint8_t* blocks, int offset, int count, __m256i* q) {
  const auto bytes = [&](int i) {
    return kTail && 32 * i >= count ? _mm_setzero_si128() : load_16(blocks + i * kBlockBytes<F> + offset);
  };
#pragma GCC unroll 4
  for (int i = 0; i < kParts; i += 2) {
    const __m256i both = _mm256_setr_m128i(bytes(i), bytes(i + 1));
    q[i] = low_nibbles(both);
    q[i + 1] = high_nibbles(both);
  }
}

// Add 16 where a weight's fifth bit is set. `bits` points to the 32 bits of the first block.
template <class F, bool kTail>
LLAMA3_INLINE void add_fifth_bits(const uint8_t* bits, int count, __m256i* q) {
  const auto word = [&](int i) {
    return kTail && 32 * i >= count ? 0 : load_number<uint32_t>(bits + i * kBlockBytes<F>);
  };
  const __m256i sixteen = _mm256_set1_epi8(16);
#pragma GCC unroll 4
  for (int i = 0; i < kParts; i += 2) {
    const uint32_t even = word(i), odd = word(i + 1);
    q[i] = _mm256_or_si256(q[i], _mm256_and_si256(spread_bits((even & 0xffff) | odd << 16), sixteen));
    q[i + 1] = _mm256_or_si256(q[i + 1], _mm256_and_si256(spread_bits(even >> 16 | (odd & 0xffff0000)), sixteen));
  }
}

}  // namespace llama3::avx2
