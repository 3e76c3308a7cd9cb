// Vectors of 16 floats for the kernels that compute in float32.
#pragma once

#include <cstdint>

#include "kernels/attention_common.h"
#include "kernels/avx512/transpose.h"
#include "kernels/intrinsics.h"

namespace llama3::avx512 {
namespace {

// Transpose 16 x 16 words of 32 bits: first words, then pairs of words, then twice whole quarters.
inline void transpose_words(__m512i* rows) {
  __m512i step[16];
  for (int i = 0; i < 8; i++) {
    step[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    step[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 4; i++) {
    rows[4 * i] = _mm512_unpacklo_epi64(step[4 * i], step[4 * i + 2]);
    rows[4 * i + 1] = _mm512_unpackhi_epi64(step[4 * i], step[4 * i + 2]);
    rows[4 * i + 2] = _mm512_unpacklo_epi64(step[4 * i + 1], step[4 * i + 3]);
    rows[4 * i + 3] = _mm512_unpackhi_epi64(step[4 * i + 1], step[4 * i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    step[i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0x88);
    step[4 + i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0xdd);
    step[8 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0x88);
    step[12 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0xdd);
  }
  for (int i = 0; i < 4; i++) {
    rows[i] = _mm512_shuffle_i32x4(step[i], step[8 + i], 0x88);
    rows[4 + i] = _mm512_shuffle_i32x4(step[4 + i], step[12 + i], 0x88);
    rows[8 + i] = _mm512_shuffle_i32x4(step[i], step[8 + i], 0xdd);
    rows[12 + i] = _mm512_shuffle_i32x4(step[4 + i], step[12 + i], 0xdd);
  }
}

struct Simd {
  using Vector = __m512;
  static constexpr int kWidth = 16;
  static constexpr int kRowsAtOnce = 4;   // query rows x 4 vectors, and 4 of keys or values: 20 registers
  static constexpr int kTileVectors = 4;  // x 6 rows, and as many operands: 28 registers
  // x 6 rows of A: 22 registers. With 4, a tile would be too large for the first-level cache.
  static constexpr int kWeightVectors = 3;

  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector broadcast(float value) { return _mm512_set1_ps(value); }
  static Vector load(const float* source) { return _mm512_loadu_ps(source); }
  static Vector load(const uint16_t* source) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
  }
  static Vector load_bfloat(const uint16_t* source) {
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
  }
  static void store(float* target, Vector v) { _mm512_storeu_ps(target, v); }
  static void store(uint16_t* target, Vector v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  // Load 8 values into the lower half of a vector, and zeros into the upper half.
  static Vector load_half(const float* source) { return _mm512_zextps256_ps512(_mm256_loadu_ps(source)); }
  static Vector load_half(const uint16_t* source) {
    return _mm512_zextps256_ps512(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source))));
  }
  static void store_half(float* target, Vector v) { _mm256_storeu_ps(target, _mm512_castps512_ps256(v)); }
  static void store_half(uint16_t* target, Vector v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target),
                     _mm256_cvtps_ph(_mm512_castps512_ps256(v), _MM_FROUND_TO_NEAREST_INT));
  }

  static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
  static Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  // If one operand is NaN, return the second.
  static Vector max(Vector a, Vector b) { return _mm512_max_ps(a, b); }

  // Keep the first `count` values (none if it is negative) and replace the rest with `other`.
  static Vector keep_first(Vector v, int64_t count, float other) {
    const auto kept = static_cast<__mmask16>(count <= 0 ? 0 : 0xffff >> (16 - count));
    return _mm512_mask_mov_ps(broadcast(other), kept, v);
  }

  static float first(Vector v) { return _mm512_cvtss_f32(v); }
  static float max_of(Vector v) { return _mm512_reduce_max_ps(v); }
  static float sum_of(Vector v) { return _mm512_reduce_add_ps(v); }
  // target[i] = the sum of v[i], for 4 vectors.
  static void store_sums(float* target, const Vector* v) {
    const __m512 v01 = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const __m512 v23 = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(v01), _mm512_castps_pd(v23));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(v01), _mm512_castps_pd(v23));
    const __m512 quarters = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    const __m256 halves = _mm256_add_ps(_mm512_castps512_ps256(quarters), _mm512_extractf32x8_ps(quarters, 1));
    _mm_storeu_ps(target, _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
  }

  // Return 2^x for x <= 0, 0 below -125 (a subnormal result would cost hundreds of cycles), NaN for NaN.
  static Vector exp2(Vector x) {
    const Vector least = _mm512_set1_ps(-125.0f);
    const __mmask16 remains = _mm512_cmp_ps_mask(x, least, _CMP_NLT_UQ);
    x = _mm512_max_ps(least, x);
    const Vector whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Vector fraction = _mm512_sub_ps(x, whole);
    Vector power = _mm512_set1_ps(kExp2[5]);
    for (int i = 4; i >= 0; i--) power = _mm512_fmadd_ps(power, fraction, _mm512_set1_ps(kExp2[i]));
    return _mm512_maskz_scalef_ps(remains, power, whole);
  }

  static void transpose(Vector* rows) {
    __m512i words[16];
    for (int i = 0; i < 16; i++) words[i] = _mm512_castps_si512(rows[i]);
    transpose_words(words);
    for (int i = 0; i < 16; i++) rows[i] = _mm512_castsi512_ps(words[i]);
  }
  // columns[i] = value i of each row, for 4 values. Rows are `stride` values apart.
  static void transpose_4(const float* rows, int64_t stride, Vector* columns) {
    __m512i words[4];
    transpose_4_words(reinterpret_cast<const uint8_t*>(rows), static_cast<size_t>(stride) * sizeof(float), words);
    for (int i = 0; i < 4; i++) columns[i] = _mm512_castsi512_ps(words[i]);
  }
};

}  // namespace
}  // namespace llama3::avx512
