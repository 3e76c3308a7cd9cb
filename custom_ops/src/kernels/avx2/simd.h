// Vectors of 8 floats for the kernels that compute in float32.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/attention_common.h"
#include "kernels/avx2/transpose.h"
#include "kernels/intrinsics.h"

namespace llama3::avx2 {
namespace {

struct Simd {
  using Vector = __m256;
  static constexpr int kWidth = 8;
  static constexpr int kRowsAtOnce = 2;     // query rows x 4 vectors, and 4 of keys or values: 14 registers
  static constexpr int kTileVectors = 2;    // x 6 rows, and as many operands: 15 registers
  static constexpr int kWeightVectors = 2;  // x 6 rows of A, and as many operands: 15 registers

  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector broadcast(float value) { return _mm256_set1_ps(value); }
  static Vector load(const float* source) { return _mm256_loadu_ps(source); }
  static Vector load(const uint16_t* source) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
  }
  static Vector load_bfloat(const uint16_t* source) {
    const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
  }
  static void store(float* target, Vector v) { _mm256_storeu_ps(target, v); }
  static void store(uint16_t* target, Vector v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }

  static Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  static Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
  static Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
  static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  // If one operand is NaN, return the second.
  static Vector max(Vector a, Vector b) { return _mm256_max_ps(a, b); }

  // Keep the first `count` values (none if it is negative) and replace the rest with `other`.
  static Vector keep_first(Vector v, int64_t count, float other) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i kept = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(std::max<int64_t>(count, 0))), index);
    return _mm256_blendv_ps(broadcast(other), v, _mm256_castsi256_ps(kept));
  }

  static float first(Vector v) { return _mm256_cvtss_f32(v); }
  static float max_of(Vector v) {
    __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    quarter = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_movehdup_ps(quarter)));
  }
  static float sum_of(Vector v) {
    __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
  }
  // target[i] = the sum of v[i], for 4 vectors.
  static void store_sums(float* target, const Vector* v) {
    const __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    _mm_storeu_ps(target, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)));
  }

  // Return 2^x for x <= 0, 0 below -125 (a subnormal result would cost hundreds of cycles), NaN for NaN.
  static Vector exp2(Vector x) {
    const Vector least = _mm256_set1_ps(-125.0f);
    const Vector vanishes = _mm256_cmp_ps(x, least, _CMP_LT_OQ);
    x = _mm256_max_ps(least, x);
    const Vector whole = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Vector fraction = _mm256_sub_ps(x, whole);
    Vector power = _mm256_set1_ps(kExp2[5]);
    for (int i = 4; i >= 0; i--) power = _mm256_fmadd_ps(power, fraction, _mm256_set1_ps(kExp2[i]));
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
    power = _mm256_mul_ps(power, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
    return _mm256_andnot_ps(vanishes, power);
  }

  static void transpose(Vector* rows) {
    Vector pairs[8], fours[8];
    for (int i = 0; i < 4; i++) {
      pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
      pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
      for (int half = 0; half < 2; half++) {
        const Vector a = pairs[4 * i + half], b = pairs[4 * i + half + 2];
        fours[4 * i + 2 * half] = _mm256_shuffle_ps(a, b, 0x44);
        fours[4 * i + 2 * half + 1] = _mm256_shuffle_ps(a, b, 0xee);
      }
    }
    for (int i = 0; i < 4; i++) {
      rows[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
      rows[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
    }
  }
  // columns[i] = value i of each row, for 4 values. Rows are `stride` values apart.
  static void transpose_4(const float* rows, int64_t stride, Vector* columns) {
    __m256i words[4];
    transpose_4_words(reinterpret_cast<const uint8_t*>(rows), static_cast<size_t>(stride) * sizeof(float), words);
    for (int i = 0; i < 4; i++) columns[i] = _mm256_castsi256_ps(words[i]);
  }
};

}  // namespace
}  // namespace llama3::avx2
