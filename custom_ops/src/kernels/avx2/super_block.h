// What the AVX2 kernels need to know of a format: how 256 weights of a row come into registers. One struct per format
// says it, in the file of its family (see k_quants.cc); gemv.h and gemm.h make its kernels.
#pragma once

#include <cstdint>

#include "kernels/activations.h"
#include "kernels/formats.h"
#include "kernels/intrinsics.h"

namespace llama3::avx2 {

inline constexpr int kParts = 8;  // registers of 32 weights

// Scales that are small integers, as super-blocks have them: products are scaled and summed before they become floats.
struct IntegerScales {
  __m256i codes;      // int16, one a sub-block: 8 with zeros behind, or 16
  __m256i min_codes;  // likewise
  float factor, min_factor;
};

// Scales that are floats. Sub-blocks of 16 have them apart: of the first and of the second half of each register.
struct FloatScales {
  __m256 scale[2];  // lane k: of register k; sub-blocks of 32 have but the first
  __m256 min;       // likewise, of sub-blocks of 32
};

// A format F has
//   kFormat, kSubBlock (weights a scale: 16 or 32), Scales (one of the above) and kMinima (whether there are any),
//   kZero: a byte of q is unsigned and means itself less kZero; if that is 0 and there are no minima, q is int8,
//   kLargest, unless q is int8: the largest magnitude of what a byte means, 32 at most, and
//   load<kTail>(const uint8_t* blocks, int count, __m256i* q, Scales&), which reads `count` weights to 8 registers, all
//     256 unless kTail, a multiple of the format's block; what it makes of the rest is multiplied by zeros, and so must
//     have a scale and a minimum that are finite.
template <class F>
inline constexpr bool kInt8 = F::kZero == 0 && !F::kMinima;

// The weights are in order, but for kHalves: there a register has the first halves of two blocks of 32 and the next one
// the second halves, as nibbles come, so that products are summed before they are scaled.
template <class F>
inline constexpr bool kHalves = kPer32<F> && !kInt8<F>;

// Numbers at an address of any alignment.
template <class T>
LLAMA3_INLINE T load_number(const void* at) {
  T number;
  __builtin_memcpy(&number, at, sizeof number);
  return number;
}
LLAMA3_INLINE __m128i load_16(const void* bytes) { return _mm_loadu_si128(static_cast<const __m128i*>(bytes)); }
LLAMA3_INLINE __m256i load_32(const void* bytes) { return _mm256_loadu_si256(static_cast<const __m256i*>(bytes)); }

// Shifts bytes to the right, or to the left where `bits` is negative, by whole words: their neighbours' bits come in
// and must be masked. `bits` is known once loops are unrolled.
LLAMA3_INLINE __m256i shift_bytes(__m256i bytes, int bits) {
  return bits < 0 ? _mm256_slli_epi16(bytes, -bits) : _mm256_srli_epi16(bytes, bits);
}
LLAMA3_INLINE __m256i low_nibbles(__m256i bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
LLAMA3_INLINE __m256i high_nibbles(__m256i bytes) { return low_nibbles(_mm256_srli_epi16(bytes, 4)); }

// 16 bytes: their low nibbles, then their high ones.
LLAMA3_INLINE __m256i both_nibbles(const uint8_t* bytes) {
  const __m256i twice = _mm256_broadcastsi128_si256(load_16(bytes));
  return low_nibbles(_mm256_srlv_epi64(twice, _mm256_setr_epi64x(0, 0, 4, 4)));
}

// Eight int32, none of them above 32,767, as eight int16 with zeros behind.
LLAMA3_INLINE __m256i to_words(__m256i lanes) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
  return _mm256_zextsi128_si256(words);
}

// The bytes of four: eight times the first, eight times the second, and so on.
LLAMA3_INLINE __m256i spread_bytes(uint32_t four) {
  const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  return _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(four)), byte);
}
// 255 for each bit that is set, else 0.
LLAMA3_INLINE __m256i spread_bits(uint32_t bits) {
  const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
  return _mm256_cmpeq_epi8(_mm256_and_si256(spread_bytes(bits), bit), bit);
}

// A code book of 16 values for a byte shuffle, `zero` added to each.
LLAMA3_INLINE __m256i shifted_codebook(const int8_t* values, int zero) {
  const __m128i codebook = _mm_add_epi8(load_16(values), _mm_set1_epi8(static_cast<char>(zero)));
  return _mm256_broadcastsi128_si256(codebook);
}

// The 256 bytes of a super-block in order.
template <class F>
LLAMA3_INLINE void store_in_order(const __m256i* q, uint8_t* out) {
#pragma GCC unroll 8
  for (int k = 0; k < kParts; k++) {
    if constexpr (kHalves<F>) {
      uint8_t* to = out + k / 2 * 64 + k % 2 * 16;
      _mm_store_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(q[k]));
      _mm_store_si128(reinterpret_cast<__m128i*>(to + 32), _mm256_extracti128_si256(q[k], 1));
    } else {
      _mm256_store_si256(reinterpret_cast<__m256i*>(out + 32 * k), q[k]);
    }
  }
}

LLAMA3_INLINE float load_half(const uint8_t* half) { return _cvtsh_ss(load_number<uint16_t>(half)); }

}  // namespace llama3::avx2
