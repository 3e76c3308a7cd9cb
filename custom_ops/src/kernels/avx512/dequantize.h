// Weights as float32, for products with float32 activations.
#pragma once

#include "kernels/avx512/super_block.h"

namespace llama3::avx512 {

template <class F>
LLAMA3_INLINE void store_floats(const SuperBlock& w, float* out) {
  alignas(64) uint8_t q[kSuperBlock];
  for (int k = 0; k < 4; k++) _mm512_store_si512(q + 64 * k, w.q[k]);
  for (int i = 0; i < 16; i++) {
    const __m512i sub_block = _mm512_set1_epi32(i * 16 / F::kSubBlock);
    __m512i integers =
        _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(q + 16 * stored_chunk<F>(i))));
    integers = _mm512_sub_epi32(integers, _mm512_set1_epi32(F::kZero));
    __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(integers), _mm512_permutexvar_ps(sub_block, w.scale));
    if constexpr (F::kMinima != Minima::kNone) value = _mm512_sub_ps(value, _mm512_permutexvar_ps(sub_block, w.min));
    _mm512_storeu_ps(out + 16 * i, value);
  }
}

// Dequantize a row: the `Dequantize` of format F.
template <class F>
void dequantize_row(const uint8_t* row, int64_t count, float* out) {
  const int64_t whole = count / kSuperBlock;
  SuperBlock w;
  for (int64_t b = 0; b < whole; b++, row += super_block_bytes(F::kFormat)) {
    F::template load<false>(row, kSuperBlock, w);
    store_floats<F>(w, out + b * kSuperBlock);
  }
  if (const int rest = static_cast<int>(count % kSuperBlock)) {
    F::template load<true>(row, rest, w);
    store_floats<F>(w, out + whole * kSuperBlock);
  }
}

}  // namespace llama3::avx512
