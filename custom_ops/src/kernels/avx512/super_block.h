// How a format loads 256 weights of a row into registers. Each format has a struct for this in the file of its family
// (see k_quants.cc); gemv.h and gemm.h build its AVX-512 kernels from it.
#pragma once

#include <cstdint>

#include "kernels/activations.h"
#include "kernels/formats.h"
#include "kernels/intrinsics.h"

namespace llama3::avx512 {

enum class Minima {
  kNone,
  kFloat,    // `min`, one per sub-block
  kInteger,  // also `min_codes` and `min_factor`, whose product is `min`: sums stay integers for longer
};

// 256 weights: scale * (q - kZero) - min.
//
// Formats with super-blocks have them in order. In formats with blocks of 32 (kPer32), the even chunks of 16 of each
// 128 weights come first, then the odd ones. This puts a block's low and high nibbles in the same lanes, where their
// products are summed before they are scaled.
struct SuperBlock {
  __m512i q[4];       // 64 unsigned bytes each
  __m512 scale;       // lane j: sub-block j (8 of 32 weights or 16 of 16 weights); lanes above are unused
  __m512 min;         // the same; 0 in lanes without a sub-block
  __m256i min_codes;  // the same, as int16
  __m512 min_factor;  // the same in all lanes
};

// A format F has
//   kFormat, kSubBlock (weights per scale: 16 or 32), kZero (the q that means 0, from 0 to 128), kMinima, and
//   load<kTail>(const uint8_t* blocks, int count, SuperBlock&): load `count` weights (256, or with kTail a multiple of
//     the format's block). The rest is multiplied by zeros, so its scales and minima must be finite.

// Multiply instructions need one unsigned operand, so negative weights are passed as w + 128 (see
// ActivationBlock::offset).
template <class F>
inline constexpr bool kSigned = F::kZero != 0;
template <class F>
LLAMA3_INLINE __m512i unsigned_operand(__m512i q) {
  return F::kZero % 128 == 0 ? q : _mm512_add_epi8(q, _mm512_set1_epi8(static_cast<char>(128 - F::kZero)));
}

// Return the position of a chunk of 16 weights in SuperBlock::q.
template <class F>
constexpr int stored_chunk(int chunk) {
  return kPer32<F> ? chunk / 8 * 8 + chunk % 2 * 4 + chunk % 8 / 2 : chunk;
}

// Split 128 weights, which are in order, into even and odd chunks.
LLAMA3_INLINE void to_even_and_odd(__m512i first, __m512i second, __m512i& even, __m512i& odd) {
  even = _mm512_permutex2var_epi64(first, _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13), second);
  odd = _mm512_permutex2var_epi64(first, _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15), second);
}

// Load the two 32-byte halves of a register from separate places.
LLAMA3_INLINE __m512i two_halves(const uint8_t* low, const uint8_t* high) {
  const __m512i first = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(low)));
  return _mm512_inserti64x4(first, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(high)), 1);
}

LLAMA3_INLINE __m512i same_halves(const uint8_t* half) {
  return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(half)));
}

// Load 16 bytes twice into the lower half of a register, and 16 others twice into the upper half.
LLAMA3_INLINE __m512i doubled_quarters(const uint8_t* low, const uint8_t* high) {
  const __m512i first = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(low)));
  return _mm512_mask_broadcast_i32x4(first, 0xff00, _mm_loadu_si128(reinterpret_cast<const __m128i*>(high)));
}

// Return the low nibbles where `shifts` is 0, the high nibbles where it is 4.
LLAMA3_INLINE __m512i nibbles(__m512i bytes, __m512i shifts) {
  return _mm512_and_si512(_mm512_srlv_epi64(bytes, shifts), _mm512_set1_epi8(15));
}

LLAMA3_INLINE __m512i shifts_by_half(int low, int high) {
  return _mm512_setr_epi64(low, low, low, low, high, high, high, high);
}

LLAMA3_INLINE __m512i shifts_by_quarter(int even, int odd) {
  return _mm512_setr_epi64(even, even, odd, odd, even, even, odd, odd);
}

// Return a codebook of 16 signed values for a byte shuffle, as the unsigned operands w + 128.
LLAMA3_INLINE __m512i shifted_codebook(const int8_t* values) {
  const __m128i signed_values = _mm_load_si128(reinterpret_cast<const __m128i*>(values));
  return _mm512_broadcast_i32x4(_mm_xor_si128(signed_values, _mm_set1_epi8(-128)));
}

LLAMA3_INLINE __m512 half_to_all(const uint8_t* half) {
  uint16_t bits;
  __builtin_memcpy(&bits, half, sizeof bits);
  return _mm512_set1_ps(_cvtsh_ss(bits));
}

}  // namespace llama3::avx512
