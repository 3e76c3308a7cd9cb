// Products with few rows of A (see kernels/gemv.h): 256 weights are unpacked in registers and multiplied by each row.
#pragma once

#include "kernels/avx2/simd.h"
#include "kernels/avx2/super_block.h"

namespace llama3::avx2 {

// Packed activations: 256 values of one row of A, laid out for gemv.
struct alignas(64) GemvActivations {
  int8_t q[kSuperBlock];       // in order
  int8_t halves[kSuperBlock];  // in the order of kHalves
  int32_t offset[32];          // -128 times the sum of the eight values of `halves` that meet in a lane
  int16_t sums_16[16];         // the sum of each 16 integers
  int16_t sums_32[16];         // of each 32; only 8 are used, the rest is 0
  float scaled_sums[8];        // scale times the sum of each 32
  float scale[8];              // of each 32 values
};

// Return the sums of neighboring products, as int16. vpmaddubsw needs one unsigned operand and saturates at 32,767.
// Unsigned bytes are at most 63, and 2 * 63 * 127 is far below that. The sign of int8 weights moves to A, which is
// never -128, and 2 * 128 * 127 is 32,512.
template <class F>
LLAMA3_INLINE __m256i multiply_pairs(__m256i q, const int8_t* values) {
  const __m256i a = load_32(values);
  if constexpr (kInt8<F>) return _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(a, q));
  return _mm256_maddubs_epi16(q, a);
}
LLAMA3_INLINE __m256i sum_pairs(__m256i words) { return _mm256_madd_epi16(words, _mm256_set1_epi16(1)); }

// sums[m] += 256 weights times block a[m * stride], spread over the lanes. Only the first `count` weights are used.
//
// For blocks of 32 in the order of kHalves, two at a time. Four products of at most 31 * 127 are summed as int16.
template <class F, int kM>
LLAMA3_INLINE void accumulate_halves(const __m256i* q, const FloatScales& w, int count, const GemvActivations* a,
                                     int64_t stride, __m256* sums) {
#pragma GCC unroll 4
  for (int m = 0; m < kM; m++) {
    const GemvActivations& block = a[m * stride];
    const __m256 scales = _mm256_mul_ps(w.scale[0], _mm256_load_ps(block.scale));
    __m256 part = _mm256_setzero_ps();  // a separate sum, so super-blocks do not wait for each other
#pragma GCC unroll 4
    for (int k = 0; k < kParts; k += 2) {
      if (32 * k >= count) break;  // known at compile time, except at a row's end
      __m256i dot = sum_pairs(_mm256_add_epi16(multiply_pairs<F>(q[k], block.halves + 32 * k),
                                               multiply_pairs<F>(q[k + 1], block.halves + 32 * k + 32)));
      if constexpr (F::kZero != 0)
        dot = _mm256_add_epi32(dot, _mm256_srai_epi32(load_32(block.offset + 4 * k), 7 - __builtin_ctz(F::kZero)));
      const __m256i lanes = _mm256_setr_epi32(k, k, k, k, k + 1, k + 1, k + 1, k + 1);
      part = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_permutevar8x32_ps(scales, lanes), part);
    }
    if constexpr (F::kMinima) part = _mm256_fnmadd_ps(w.min, _mm256_load_ps(block.scaled_sums), part);
    sums[m] = _mm256_add_ps(sums[m], part);
  }
}

// For weights in order, with one or two scales per register.
template <class F, int kM>
LLAMA3_INLINE void accumulate_in_order(const __m256i* q, const FloatScales& w, int count, const GemvActivations* a,
                                       int64_t stride, __m256* sums) {
#pragma GCC unroll 4
  for (int m = 0; m < kM; m++) {
    const GemvActivations& block = a[m * stride];
    __m256 scales[2];
#pragma GCC unroll 2
    for (int half = 0; half < 32 / F::kSubBlock; half++)
      scales[half] = _mm256_mul_ps(w.scale[half], _mm256_load_ps(block.scale));
    __m256 part = _mm256_setzero_ps();
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++) {
      if (32 * k >= count) break;
      const __m256i lane = _mm256_set1_epi32(k);
      __m256 scale = _mm256_permutevar8x32_ps(scales[0], lane);
      if constexpr (F::kSubBlock == 16) scale = _mm256_blend_ps(scale, _mm256_permutevar8x32_ps(scales[1], lane), 0xf0);
      const __m256i dot = sum_pairs(multiply_pairs<F>(q[k], block.q + 32 * k));
      part = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, part);
    }
    sums[m] = _mm256_add_ps(sums[m], part);
  }
}

template <class F, int kM>
LLAMA3_INLINE void accumulate(const __m256i* q, const FloatScales& w, int count, const GemvActivations* a,
                              int64_t stride, __m256* sums) {
  if constexpr (kHalves<F>)
    accumulate_halves<F, kM>(q, w, count, a, stride, sums);
  else
    accumulate_in_order<F, kM>(q, w, count, a, stride, sums);
}

// Sort the integer scales of sub-blocks for scale_codes_of_part: those of first halves of registers go to the lower
// half, those of second halves to the upper.
template <class F>
LLAMA3_INLINE __m256i sort_scale_codes(__m256i codes) {
  if constexpr (F::kSubBlock == 32) return _mm256_permute2x128_si256(codes, codes, 0);
  const __m128i even_and_odd = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
  return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(codes, _mm256_broadcastsi128_si256(even_and_odd)), 0xd8);
}
LLAMA3_INLINE __m256i scale_codes_of_part(__m256i sorted, int k) {
  return _mm256_shuffle_epi8(sorted, _mm256_set1_epi16(static_cast<short>((2 * k + 1) << 8 | 2 * k)));
}

template <class F, int kM>
LLAMA3_INLINE void accumulate(const __m256i* q, const IntegerScales& w, int, const GemvActivations* a, int64_t stride,
                              __m256* sums) {
  const __m256i sorted = sort_scale_codes<F>(w.codes);
  __m256i totals[kM];
#pragma GCC unroll 4
  for (__m256i& total : totals) total = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int k = 0; k < kParts; k++) {
    const __m256i scales = scale_codes_of_part(sorted, k);
#pragma GCC unroll 4
    for (int m = 0; m < kM; m++)
      totals[m] =
          _mm256_add_epi32(totals[m], _mm256_madd_epi16(multiply_pairs<F>(q[k], a[m * stride].q + 32 * k), scales));
  }
  const __m256 factor = _mm256_set1_ps(w.factor), min_factor = _mm256_set1_ps(w.min_factor);
#pragma GCC unroll 4
  for (int m = 0; m < kM; m++) {
    const GemvActivations& block = a[m * stride];
    const __m256i block_sums = load_32(F::kSubBlock == 32 ? block.sums_32 : block.sums_16);
    if constexpr (F::kZero != 0) {
      const __m256i zeros = _mm256_madd_epi16(w.codes, block_sums);
      totals[m] = _mm256_sub_epi32(totals[m], _mm256_slli_epi32(zeros, __builtin_ctz(F::kZero)));
    }
    __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(totals[m]), factor);
    if constexpr (F::kMinima) {
      const __m256i minima = _mm256_madd_epi16(w.min_codes, block_sums);
      value = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(minima), min_factor, value);
    }
    sums[m] = _mm256_fmadd_ps(value, _mm256_set1_ps(block.scale[0]), sums[m]);
  }
}

// The `Dot` of format F for kernels/gemv.h.
template <class F>
struct GemvDot {
  using Simd = avx2::Simd;
  using GemvActivations = avx2::GemvActivations;
  static constexpr size_t kSuperBlockBytes = super_block_bytes(F::kFormat);

  template <bool kTail, int kM>
  LLAMA3_INLINE void add(const uint8_t* blocks, int count, const GemvActivations* a, int64_t stride, __m256* sums) {
    __m256i q[kParts];
    typename F::Scales scales;
    F::template load<kTail>(blocks, count, q, scales);
    accumulate<F, kM>(q, scales, count, a, stride, sums);
  }
};

}  // namespace llama3::avx2
