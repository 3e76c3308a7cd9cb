// What the AVX-512 kernels need to know of a format: how 256 weights of a row come into registers. One struct per
// format says it, in the file of its family (see k_quants.cc); gemv.h and gemm.h make its kernels.
#pragma once

#include <cstdint>

#include "kernels/activations.h"
#include "kernels/formats.h"
#include "kernels/intrinsics.h"

namespace llama3::avx512 {

enum class Minima {
  kNone,
  kFloat,    // `min`, one a sub-block
  kInteger,  // besides, `min_codes` and `min_factor`, whose product `min` is: sums stay in integers for longer
};

// 256 weights: scale * (q - kZero) - min.
//
// Formats of super-blocks have them in order. In formats with blocks of 32 (kPer32), of each 128 weights the even
// chunks of 16 come first and then the odd ones: a block's low nibbles meet its high ones in the same lanes, so that
// their products are summed before they are scaled.
struct SuperBlock {
  __m512i q[4];       // 64 unsigned bytes each
  __m512 scale;       // lane j: sub-block j (8 of 32 weights or 16 of 16 weights); nothing of use above
  __m512 min;         // likewise; 0 in lanes that have no sub-block
  __m256i min_codes;  // likewise, int16
  __m512 min_factor;  // the same in all lanes
};

// A format F has
//   kFormat, kSubBlock (weights a scale: 16 or 32), kZero (what q means 0 by, 0 to 128), kMinima, and
//   load<kTail>(const uint8_t* blocks, int count, SuperBlock&): reads `count` weights, a multiple of the format's
//   block, all 256 unless kTail; what it makes of the rest is multiplied by zeros, and so must have a scale and a
//   minimum that are finite.

// Multiply instructions want one unsigned operand, so weights below zero are passed as w + 128:
// ActivationBlock::offset.
template <class F>
inline constexpr bool kSigned = F::kZero != 0;
template <class F>
LLAMA3_INLINE __m512i unsigned_operand(__m512i q) {
  return F::kZero % 128 == 0 ? q : _mm512_add_epi8(q, _mm512_set1_epi8(static_cast<char>(128 - F::kZero)));
}

// Where a chunk of 16 weights lies in SuperBlock::q.
template <class F>
constexpr int stored_chunk(int chunk) {
  return kPer32<F> ? chunk / 8 * 8 + chunk % 2 * 4 + chunk % 8 / 2 : chunk;
}

// 128 weights in order, turned to even and odd chunks.
LLAMA3_INLINE void to_even_and_odd(__m512i first, __m512i second, __m512i& even, __m512i& odd) {
  even = _mm512_permutex2var_epi64(first, _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13), second);
  odd = _mm512_permutex2var_epi64(first, _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15), second);
}

// Two 32-byte halves or four 16-byte quarters of a register from separate places.
LLAMA3_INLINE __m512i two_halves(const uint8_t* low, const uint8_t* high) {
  const __m512i first = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(low)));
  return _mm512_inserti64x4(first, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(high)), 1);
}

LLAMA3_INLINE __m512i same_halves(const uint8_t* half) {
  return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(half)));
}

// 16 bytes each in the lower and in the upper half of the register, twice.
LLAMA3_INLINE __m512i doubled_quarters(const uint8_t* low, const uint8_t* high) {
  const __m512i first = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(low)));
  return _mm512_mask_broadcast_i32x4(first, 0xff00, _mm_loadu_si128(reinterpret_cast<const __m128i*>(high)));
}

// The low nibbles where `shifts` is 0, the high ones where it is 4.
LLAMA3_INLINE __m512i nibbles(__m512i bytes, __m512i shifts) {
  return _mm512_and_si512(_mm512_srlv_epi64(bytes, shifts), _mm512_set1_epi8(15));
}

LLAMA3_INLINE __m512i shifts_by_half(int low, int high) {
  return _mm512_setr_epi64(low, low, low, low, high, high, high, high);
}

LLAMA3_INLINE __m512i shifts_by_quarter(int even, int odd) {
  return _mm512_setr_epi64(even, even, odd, odd, even, even, odd, odd);
}

// A code book of 16 signed values for a byte shuffle, as the unsigned operands w + 128.
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
