#include "kernels/avx512/quantize.h"

namespace llama3::avx512 {
namespace {

// What a group of values with this largest magnitude is multiplied with, and its scale.
struct GroupScale {
  float inverse, scale;
};

LLAMA3_INLINE GroupScale group_scale(uint32_t largest_bits) {
  float largest;
  __builtin_memcpy(&largest, &largest_bits, sizeof largest);
  if (largest_bits >= 0x7f800000u) return {0.0f, __builtin_nanf("")};
  if (largest < 0x1p-120f) return {0.0f, 0.0f};
  return {127.0f / largest, largest / 127.0f};
}

// Rounds 16 values to int8. An inverse of 0 stands for a group of zeros, whatever its values are.
LLAMA3_INLINE __m128i to_int8(__m512 values, float inverse) {
  const auto used = static_cast<__mmask16>(inverse != 0.0f ? 0xffff : 0);
  return _mm512_cvtepi32_epi8(_mm512_maskz_cvtps_epi32(used, _mm512_mul_ps(values, _mm512_set1_ps(inverse))));
}

// Sums of four neighbouring lanes of four registers.
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

// What both kinds of kernels need; integer sums in lanes, those of 32 values in the lower 8.
struct Quantized {
  __m512i fours[4], sixteens, thirty_twos;
  __m512 scales;  // of each 32 values, likewise
};

// Writes 256 integers to q.
LLAMA3_INLINE Quantized quantize(const float* values, bool per_32, int8_t* q) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i largest[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++)
    largest[i] = _mm512_max_epu32(_mm512_and_si512(_mm512_loadu_si512(values + 32 * i), magnitude),
                                  _mm512_and_si512(_mm512_loadu_si512(values + 32 * i + 16), magnitude));
  alignas(64) float scales[16] = {};
  float inverses[8];
  if (per_32) {
    for (int i = 0; i < 8; i++) {
      const GroupScale group = group_scale(_mm512_reduce_max_epu32(largest[i]));
      scales[i] = group.scale;
      inverses[i] = group.inverse;
    }
  } else {
#pragma GCC unroll 3
    for (int step = 4; step > 0; step /= 2)
      for (int i = 0; i < step; i++) largest[i] = _mm512_max_epu32(largest[i], largest[i + step]);
    const GroupScale group = group_scale(_mm512_reduce_max_epu32(largest[0]));
    for (int i = 0; i < 8; i++) {
      scales[i] = group.scale;
      inverses[i] = group.inverse;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++)
    _mm_store_si128(reinterpret_cast<__m128i*>(q + 16 * i),
                    to_int8(_mm512_loadu_ps(values + 16 * i), inverses[i / 2]));

  Quantized result;
#pragma GCC unroll 4
  for (int k = 0; k < 4; k++)
    result.fours[k] =
        _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), _mm512_load_si512(q + 64 * k));
  result.sixteens = sums_of_four(result.fours);
  const __m512i neighbours = _mm512_add_epi32(result.sixteens, _mm512_shuffle_epi32(result.sixteens, _MM_PERM_CDAB));
  result.thirty_twos = _mm512_maskz_permutexvar_epi32(
      0xff, _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0), neighbours);
  result.scales = _mm512_load_ps(scales);
  return result;
}

LLAMA3_INLINE __m512i times_minus_128(__m512i sums) {
  return _mm512_slli_epi32(_mm512_sub_epi32(_mm512_setzero_si512(), sums), 7);
}

// Calls use(values) with `count` values filled up to 256 with zeros.
template <class Use>
LLAMA3_INLINE void with_padding(const float* values, int count, Use&& use) {
  if (count == kSuperBlock) return use(values);
  alignas(64) float padded[kSuperBlock] = {};
  __builtin_memcpy(padded, values, static_cast<size_t>(count) * sizeof(float));
  use(padded);
}

}  // namespace

void quantize_for_rows(const float* values, int count, bool per_32, ActivationBlock& block) {
  with_padding(values, count, [&](const float* padded) {
    const Quantized quantized = quantize(padded, per_32, block.q);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) _mm512_store_si512(block.offset + 16 * k, times_minus_128(quantized.fours[k]));
    const __m512 scales_16 = _mm512_permutexvar_ps(
        _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), quantized.scales);
    _mm512_store_ps(block.scale, quantized.scales);
    _mm512_store_ps(block.sums_16, _mm512_mul_ps(scales_16, _mm512_cvtepi32_ps(quantized.sixteens)));
    _mm512_store_ps(block.sums_32, _mm512_mul_ps(quantized.scales, _mm512_cvtepi32_ps(quantized.thirty_twos)));
  });
}

void quantize_for_tiles(const float* values, int count, bool per_32, Column& column) {
  with_padding(values, count, [&](const float* padded) {
    const Quantized quantized = quantize(padded, per_32, reinterpret_cast<int8_t*>(column.q));
    const auto low_half = [](__m512i lanes) { return _mm512_castsi512_si256(lanes); };
    const auto store_8 = [](void* to, __m256i words) { _mm256_store_si256(static_cast<__m256i*>(to), words); };
    _mm512_store_si512(column.offset_16, times_minus_128(quantized.sixteens));
    store_8(column.offset_32, low_half(times_minus_128(quantized.thirty_twos)));
    store_8(column.pairs_16, _mm512_cvtepi32_epi16(quantized.sixteens));
    _mm_store_si128(reinterpret_cast<__m128i*>(column.pairs_32),
                    _mm256_cvtepi32_epi16(low_half(quantized.thirty_twos)));
    _mm256_storeu_ps(column.sums_32, _mm512_castps512_ps256(_mm512_mul_ps(
                                         quantized.scales, _mm512_cvtepi32_ps(quantized.thirty_twos))));
    _mm256_storeu_ps(column.scale, _mm512_castps512_ps256(quantized.scales));
  });
}

}  // namespace llama3::avx512
