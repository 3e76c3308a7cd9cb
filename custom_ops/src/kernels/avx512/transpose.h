// Transposition of rows of 32-bit words.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/intrinsics.h"

namespace llama3::avx512 {

// Word i of the 16 bytes at rows + r * stride becomes lane r of out[i].
LLAMA3_INLINE void transpose_4_words(const uint8_t* rows, size_t stride, __m512i* out) {
  __m512i z[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const uint8_t* row = rows + static_cast<size_t>(i) * stride;
    const auto at = [&](int r) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + r * stride)); };
    z[i] = _mm512_castsi128_si512(at(0));
    z[i] = _mm512_mask_broadcast_i32x4(z[i], 0x00f0, at(4));
    z[i] = _mm512_mask_broadcast_i32x4(z[i], 0x0f00, at(8));
    z[i] = _mm512_mask_broadcast_i32x4(z[i], 0xf000, at(12));
  }
  const __m512i low_01 = _mm512_unpacklo_epi32(z[0], z[1]), high_01 = _mm512_unpackhi_epi32(z[0], z[1]);
  const __m512i low_23 = _mm512_unpacklo_epi32(z[2], z[3]), high_23 = _mm512_unpackhi_epi32(z[2], z[3]);
  out[0] = _mm512_unpacklo_epi64(low_01, low_23);
  out[1] = _mm512_unpackhi_epi64(low_01, low_23);
  out[2] = _mm512_unpacklo_epi64(high_01, high_23);
  out[3] = _mm512_unpackhi_epi64(high_01, high_23);
}

}  // namespace llama3::avx512
