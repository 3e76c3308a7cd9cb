// Transposition of rows of 32-bit words.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/intrinsics.h"

namespace llama3::avx2 {

// Word i of the 16 bytes at rows + r * stride becomes lane r of out[i].
LLAMA3_INLINE void transpose_4_words(const uint8_t* rows, size_t stride, __m256i* out) {
  __m256i z[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const uint8_t* row = rows + static_cast<size_t>(i) * stride;
    z[i] =
        _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(row + 4 * stride), reinterpret_cast<const __m128i*>(row));
  }
  const __m256i low_01 = _mm256_unpacklo_epi32(z[0], z[1]), high_01 = _mm256_unpackhi_epi32(z[0], z[1]);
  const __m256i low_23 = _mm256_unpacklo_epi32(z[2], z[3]), high_23 = _mm256_unpackhi_epi32(z[2], z[3]);
  out[0] = _mm256_unpacklo_epi64(low_01, low_23);
  out[1] = _mm256_unpackhi_epi64(low_01, low_23);
  out[2] = _mm256_unpacklo_epi64(high_01, high_23);
  out[3] = _mm256_unpackhi_epi64(high_01, high_23);
}

}  // namespace llama3::avx2
