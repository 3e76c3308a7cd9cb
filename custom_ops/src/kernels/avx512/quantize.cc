#include "kernels/avx512/quantize.h"

#include "kernels/activation_scales.h"

namespace llama3::avx512 {
namespace {

// Return the sums of each four neighboring lanes of four registers.
LLAMA3_INLINE __m512i sums_of_four(const __m512i* words) {
  __m512i result = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (int k = 0; k < 4; k++) {
    __m512i sum = _mm512_add_epi32(words[k], _mm512_shuffle_epi32(words[k], _MM_PERM_CDAB));
    sum = _mm512_add_epi32(sum, _mm512_shuffle_epi32(sum, _MM_PERM_BADC));
    const auto lanes = static_cast<__mmask16>(0xf << (4 * k));
    const __m512i every_fourth = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    result = _mm512_mask_permutexvar_epi32(result, lanes, every_fourth, sum);
  }
  return result;
}

// The sums and scales that gemv and gemm need. Sums are integers; those of 32 values are in the lower 8 lanes.
struct Quantized {
  __m512i fours[4], sixteens, thirty_twos;
  __m512 scales;  // of each 32 values, also in the lower 8 lanes
};

// Quantize 256 values and write the integers to q.
LLAMA3_INLINE Quantized quantize(const float* values, bool per_32, int8_t* q) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m256i largest_of_32[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    const __m512i largest = _mm512_max_epu32(_mm512_and_si512(_mm512_loadu_si512(values + 32 * i), magnitude),
                                             _mm512_and_si512(_mm512_loadu_si512(values + 32 * i + 16), magnitude));
    largest_of_32[i] = _mm256_max_epu32(_mm512_castsi512_si256(largest), _mm512_extracti64x4_epi64(largest, 1));
  }
  const ActivationScales scales = scales_of(largest_of_32, per_32);
  const __m512 inverses = _mm512_castps256_ps512(scales.inverses);
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) {
    const __m512 inverse = _mm512_permutexvar_ps(_mm512_set1_epi32(i / 2), inverses);
    // A value that is not finite, times an inverse of 0, is NaN. Its integer is INT_MIN, whose lowest byte is 0, as
    // needed.
    const __m512i integers = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(values + 16 * i), inverse));
    _mm_store_si128(reinterpret_cast<__m128i*>(q + 16 * i), _mm512_cvtepi32_epi8(integers));
  }

  Quantized result;
#pragma GCC unroll 4
  for (int k = 0; k < 4; k++)
    result.fours[k] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), _mm512_load_si512(q + 64 * k));
  result.sixteens = sums_of_four(result.fours);
  const __m512i neighbours = _mm512_add_epi32(result.sixteens, _mm512_shuffle_epi32(result.sixteens, _MM_PERM_CDAB));
  result.thirty_twos = _mm512_maskz_permutexvar_epi32(
      0xff, _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0), neighbours);
  result.scales = _mm512_zextps256_ps512(scales.scales);
  return result;
}

LLAMA3_INLINE __m512i times_minus_128(__m512i sums) {
  return _mm512_slli_epi32(_mm512_sub_epi32(_mm512_setzero_si512(), sums), 7);
}

}  // namespace

void quantize_for_gemv(const float* values, bool per_32, ActivationBlock& block) {
  Quantized quantized = quantize(values, per_32, block.q);
  if (per_32)  // reorder as the kernels unpack blocks of 32
    for (int k = 0; k < 4; k += 2) {
      __m512i even, odd;
      to_even_and_odd(_mm512_load_si512(block.q + 64 * k), _mm512_load_si512(block.q + 64 * k + 64), even, odd);
      _mm512_store_si512(block.q + 64 * k, even);
      _mm512_store_si512(block.q + 64 * k + 64, odd);
      to_even_and_odd(quantized.fours[k], quantized.fours[k + 1], even, odd);
      quantized.fours[k] = even;
      quantized.fours[k + 1] = odd;
    }
#pragma GCC unroll 4
  for (int k = 0; k < 4; k++) _mm512_store_si512(block.offset + 16 * k, times_minus_128(quantized.fours[k]));
  const __m512 scales_16 =
      _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), quantized.scales);
  _mm512_store_ps(block.scale, quantized.scales);
  _mm512_store_ps(block.sums_16, _mm512_mul_ps(scales_16, _mm512_cvtepi32_ps(quantized.sixteens)));
  _mm512_store_ps(block.sums_32, _mm512_mul_ps(quantized.scales, _mm512_cvtepi32_ps(quantized.thirty_twos)));
}

void quantize_for_gemm(const float* values, bool per_32, GemmActivations& packed) {
  const Quantized quantized = quantize(values, per_32, reinterpret_cast<int8_t*>(packed.q));
  const auto low_half = [](__m512i lanes) { return _mm512_castsi512_si256(lanes); };
  const auto store_8 = [](void* to, __m256i words) { _mm256_store_si256(static_cast<__m256i*>(to), words); };
  _mm512_store_si512(packed.offset_16, times_minus_128(quantized.sixteens));
  store_8(packed.offset_32, low_half(times_minus_128(quantized.thirty_twos)));
  store_8(packed.pairs_16, _mm512_cvtepi32_epi16(quantized.sixteens));
  _mm_store_si128(reinterpret_cast<__m128i*>(packed.pairs_32), _mm256_cvtepi32_epi16(low_half(quantized.thirty_twos)));
  _mm256_storeu_ps(packed.sums_32,
                   _mm512_castps512_ps256(_mm512_mul_ps(quantized.scales, _mm512_cvtepi32_ps(quantized.thirty_twos))));
  _mm256_storeu_ps(packed.scale, _mm512_castps512_ps256(quantized.scales));
}

}  // namespace llama3::avx512
