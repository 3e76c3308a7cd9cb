// The scales of 256 activations (see activations.h) from their largest magnitudes, in AVX2's registers: the part of
// quantizing that AVX2 and AVX-512 share.
#pragma once

#include "kernels/intrinsics.h"

namespace llama3 {

// Per 32 values. An integer is a value times its inverse.
struct ActivationScales {
  __m256 scales, inverses;
};

// Return the largest lane of each of eight registers. Each step merges two registers into one with half as many lanes
// of each.
LLAMA3_INLINE __m256i largest_lanes(const __m256i* v) {
  __m256i pairs[4], fours[2];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
    pairs[i] =
        _mm256_max_epu32(_mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]), _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++)
    fours[i] = _mm256_max_epu32(_mm256_unpacklo_epi64(pairs[2 * i], pairs[2 * i + 1]),
                                _mm256_unpackhi_epi64(pairs[2 * i], pairs[2 * i + 1]));
  return _mm256_max_epu32(_mm256_permute2x128_si256(fours[0], fours[1], 0x20),
                          _mm256_permute2x128_si256(fours[0], fours[1], 0x31));
}

LLAMA3_INLINE __m256i largest_of_all(__m256i lanes) {
  lanes = _mm256_max_epu32(lanes, _mm256_permute4x64_epi64(lanes, 0x4e));
  lanes = _mm256_max_epu32(lanes, _mm256_shuffle_epi32(lanes, 0x4e));
  return _mm256_max_epu32(lanes, _mm256_shuffle_epi32(lanes, 0xb1));
}

// Compute scales. Register i has the largest magnitude of values 32 i to 32 i + 31 in one of its lanes, and others of
// these values in the rest. As integers, magnitudes compare like numbers, with NaN above all.
LLAMA3_INLINE ActivationScales scales_of(const __m256i* magnitudes, bool per_32) {
  const __m256i lanes = largest_lanes(magnitudes);
  const __m256 largest = _mm256_castsi256_ps(per_32 ? lanes : largest_of_all(lanes));
  const __m256 limit = _mm256_set1_ps(127.0f), infinity = _mm256_set1_ps(__builtin_inff());
  const __m256 finite = _mm256_cmp_ps(largest, infinity, _CMP_LT_OQ);
  const __m256 normal = _mm256_and_ps(finite, _mm256_cmp_ps(largest, _mm256_set1_ps(0x1p-120f), _CMP_GE_OQ));
  return {_mm256_blendv_ps(_mm256_set1_ps(__builtin_nanf("")), _mm256_and_ps(normal, _mm256_div_ps(largest, limit)),
                           finite),
          _mm256_and_ps(normal, _mm256_div_ps(limit, largest))};
}

}  // namespace llama3
