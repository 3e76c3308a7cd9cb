// Weights as float32, for products with float32 activations.
#pragma once

#include "kernels/avx2/super_block.h"

namespace llama3::avx2 {

// Store the scale and the minimum of each sub-block, in order.
template <class F>
LLAMA3_INLINE void store_scales(const FloatScales& w, float* scale, float* min) {
  if constexpr (F::kSubBlock == 32) {
    _mm256_store_ps(scale, w.scale[0]);
  } else {
    const __m256 low = _mm256_unpacklo_ps(w.scale[0], w.scale[1]), high = _mm256_unpackhi_ps(w.scale[0], w.scale[1]);
    _mm256_store_ps(scale, _mm256_permute2f128_ps(low, high, 0x20));
    _mm256_store_ps(scale + 8, _mm256_permute2f128_ps(low, high, 0x31));
  }
  if constexpr (F::kMinima) _mm256_store_ps(min, w.min);
}
LLAMA3_INLINE void store_products(__m256i codes, float factor, float* out) {
  const __m256i low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(codes));
  const __m256i high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(codes, 1));
  _mm256_store_ps(out, _mm256_mul_ps(_mm256_cvtepi32_ps(low), _mm256_set1_ps(factor)));
  _mm256_store_ps(out + 8, _mm256_mul_ps(_mm256_cvtepi32_ps(high), _mm256_set1_ps(factor)));
}
template <class F>
LLAMA3_INLINE void store_scales(const IntegerScales& w, float* scale, float* min) {
  store_products(w.codes, w.factor, scale);
  if constexpr (F::kMinima) store_products(w.min_codes, w.min_factor, min);
}

template <class F>
LLAMA3_INLINE void store_floats(const __m256i* q, const typename F::Scales& scales, float* out) {
  alignas(32) float scale[16], min[16];
  store_scales<F>(scales, scale, min);
  alignas(32) uint8_t bytes[kSuperBlock];
  store_in_order<F>(q, bytes);
  for (int i = 0; i < kSuperBlock; i += 8) {
    const __m256i integers = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes + i)));
    const __m256 values = _mm256_cvtepi32_ps(_mm256_sub_epi32(integers, _mm256_set1_epi32(F::kZero)));
    __m256 weights = _mm256_mul_ps(values, _mm256_set1_ps(scale[i / F::kSubBlock]));
    if constexpr (F::kMinima) weights = _mm256_sub_ps(weights, _mm256_set1_ps(min[i / F::kSubBlock]));
    _mm256_storeu_ps(out + i, weights);
  }
}

// Dequantize a row: the `Dequantize` of format F.
template <class F>
void dequantize_row(const uint8_t* row, int64_t count, float* out) {
  const int64_t whole = count / kSuperBlock;
  __m256i q[kParts];
  typename F::Scales scales;
  for (int64_t b = 0; b < whole; b++, row += super_block_bytes(F::kFormat)) {
    F::template load<false>(row, kSuperBlock, q, scales);
    store_floats<F>(q, scales, out + b * kSuperBlock);
  }
  if (const int rest = static_cast<int>(count % kSuperBlock)) {
    F::template load<true>(row, rest, q, scales);
    store_floats<F>(q, scales, out + whole * kSuperBlock);
  }
}

}  // namespace llama3::avx2
