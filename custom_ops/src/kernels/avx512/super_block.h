// What the AVX-512 kernels need to know of a format: how 256 weights of a row come into registers. One struct a format,
// in a file of its own, says it (see q4_k.cc); rows.h and tiles.h make the kernels of it.
#pragma once

#include <cstdint>

#include "kernels/activations.h"
#include "kernels/avx512/intrinsics.h"
#include "kernels/formats.h"

namespace llama3::avx512 {

enum class Minima {
  kNone,
  kFloat,    // `min`, one a sub-block
  kInteger,  // besides, `min_codes` and `min_scale`, whose product `min` is: sums over a tile stay in integers
};

// 256 weights in order. A signed weight is stored as w + 128, see ActivationBlock::offset.
struct SuperBlock {
  __m512i q[4];        // 64 bytes each
  __m512 scale;        // lane j: sub-block j (8 of 32 weights or 16 of 16 weights)
  __m512 min;          // likewise; 0 in lanes that have no sub-block
  __m256i min_codes;   // likewise, int16
  __m512 min_scale;    // the same in all lanes
};

// A format F has
//   kFormat, kSubBlock (weights a scale: 16 or 32), kSigned, kMinima, and
//   load(const uint8_t* blocks, int count, SuperBlock&): reads `count` weights, a multiple of the format's block; what it
//   makes of the rest is multiplied by zeros, and so must have a scale and a minimum that are finite.
template <class F>
inline constexpr bool kPer32 = false;  // set beside a format with blocks of 32

// Bytes that 256 weights take.
template <class F>
LLAMA3_INLINE size_t super_block_bytes() {
  const FormatInfo& row = info(F::kFormat);
  return static_cast<size_t>(kSuperBlock / row.block_weights * row.block_bytes);
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
