// How a format loads 256 weights of a row into registers. Each format has a struct for this in the file of its family
// (see k_quants.cc); gemv.h and gemm.h build its AVX2 kernels from it.
#pragma once

#include <cstdint>

#include "kernels/activations.h"
#include "kernels/formats.h"
#include "kernels/intrinsics.h"

namespace llama3::avx2 {

inline constexpr int kParts = 8;  // registers of 32 weights

// Small integer scales, as in super-blocks: products are scaled and summed before they become floats.
struct IntegerScales {
  __m256i codes;      // int16, one per sub-block: 16, or 8 followed by zeros
  __m256i min_codes;  // the same for minima
  float factor, min_factor;
};

// Float scales. Sub-blocks of 16 have two per register: scale[0] for its first half and scale[1] for its second.
struct FloatScales {
  __m256 scale[2];  // lane k: for register k; sub-blocks of 32 use only the first
  __m256 min;       // lane k: for register k, with sub-blocks of 32
};

// A format F has
//   kFormat, kSubBlock (weights per scale: 16 or 32), Scales (one of the above) and kMinima (whether there are any),
//   kZero: bytes of q are unsigned, and a weight is its byte minus kZero, scaled; but if kZero is 0 and there are no
//     minima, q is int8,
//   kLargest, unless q is int8: the largest magnitude of a byte minus kZero, at most 32, and
//   load<kTail>(const uint8_t* blocks, int count, __m256i* q, Scales&): load `count` weights (256, or with kTail a
//     multiple of the format's block) into 8 registers. The rest is multiplied by zeros, so its scales and minima must
//     be finite.
template <class F>
inline constexpr bool kInt8 = F::kZero == 0 && !F::kMinima;

// Weights are in order, except with kHalves: one register has the first halves of two blocks of 32 and the next one the
// second halves, as nibbles are stored. This way products are summed before they are scaled.
template <class F>
inline constexpr bool kHalves = kPer32<F> && !kInt8<F>;

// Load a number from an address of any alignment.
template <class T>
LLAMA3_INLINE T load_number(const void* at) {
  T number;
  __builtin_memcpy(&number, at, sizeof number);
  return number;
}
LLAMA3_INLINE __m128i load_16(const void* bytes) { return _mm_loadu_si128(static_cast<const __m128i*>(bytes)); }
LLAMA3_INLINE __m256i load_32(const void* bytes) { return _mm256_loadu_si256(static_cast<const __m256i*>(bytes)); }

// Shift bytes right, or left if `bits` is negative. Whole words are shifted, so bits of the neighboring byte come in
// and must be masked. `bits` is known once loops are unrolled.
LLAMA3_INLINE __m256i shift_bytes(__m256i bytes, int bits) {
  return bits < 0 ? _mm256_slli_epi16(bytes, -bits) : _mm256_srli_epi16(bytes, bits);
}
LLAMA3_INLINE __m256i low_nibbles(__m256i bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
LLAMA3_INLINE __m256i high_nibbles(__m256i bytes) { return low_nibbles(_mm256_srli_epi16(bytes, 4)); }

// Return the low nibbles of 16 bytes, then their high nibbles.
LLAMA3_INLINE __m256i both_nibbles(const uint8_t* bytes) {
  const __m256i twice = _mm256_broadcastsi128_si256(load_16(bytes));
  return low_nibbles(_mm256_srlv_epi64(twice, _mm256_setr_epi64x(0, 0, 4, 4)));
}

// Return eight int32, none above 32,767, as eight int16 followed by zeros.
LLAMA3_INLINE __m256i to_words(__m256i lanes) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
  return _mm256_zextsi128_si256(words);
}

// Return each of four bytes eight times: the first, then the second, and so on.
LLAMA3_INLINE __m256i spread_bytes(uint32_t four) {
  const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  return _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(four)), byte);
}
// Return a byte per bit: 255 if the bit is set, otherwise 0.
LLAMA3_INLINE __m256i spread_bits(uint32_t bits) {
  const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
  return _mm256_cmpeq_epi8(_mm256_and_si256(spread_bytes(bits), bit), bit);
}

// Return a codebook of 16 values for a byte shuffle, with `zero` added to each.
LLAMA3_INLINE __m256i shifted_codebook(const int8_t* values, int zero) {
  const __m128i codebook = _mm_add_epi8(load_16(values), _mm_set1_epi8(static_cast<char>(zero)));
  return _mm256_broadcastsi128_si256(codebook);
}

// Store the 256 bytes of a super-block in order.
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
