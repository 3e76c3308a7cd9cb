#include "kernels/avx2/quantize.h"

#include "kernels/activation_scales.h"

namespace llama3::avx2 {
namespace {

// Return every other lane of two registers: in each half, those of `a` before those of `b`.
LLAMA3_INLINE __m256i even_lanes(__m256i a, __m256i b) {
  return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88));
}
LLAMA3_INLINE __m256i odd_lanes(__m256i a, __m256i b) {
  return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0xdd));
}

// Sum, with `add`, the four lanes in each half of eight registers: 16 sums in order.
template <class Add>
LLAMA3_INLINE void sum_halves(const __m256i* v, __m256i* sums, Add&& add) {
  const auto two = [&](int i) {
    return add(_mm256_unpacklo_epi64(v[i], v[i + 1]), _mm256_unpackhi_epi64(v[i], v[i + 1]));
  };
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++) {
    const __m256i a = two(4 * i), b = two(4 * i + 2);
    const __m256i halves = add(even_lanes(a, b), odd_lanes(a, b));
    sums[i] = _mm256_permutevar8x32_epi32(halves, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
}

// Return the sums of neighboring lanes of two registers, in order.
template <class Add>
LLAMA3_INLINE __m256i sum_neighbours(const __m256i* v, Add&& add) {
  return _mm256_permute4x64_epi64(add(even_lanes(v[0], v[1]), odd_lanes(v[0], v[1])), 0xd8);
}

LLAMA3_INLINE __m256i add_32(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }
LLAMA3_INLINE __m256i add_16(__m256i a, __m256i b) { return _mm256_add_epi16(a, b); }

LLAMA3_INLINE void store_32(void* to, __m256i lanes) { _mm256_store_si256(static_cast<__m256i*>(to), lanes); }

// Return the 16 lanes of two registers as int16, in order.
LLAMA3_INLINE __m256i pack_words(__m256i low, __m256i high) {
  return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
}

// Quantized activations and the sums that gemv and gemm need.
struct Quantized {
  __m256i q[8];         // 256 integers
  __m256i fours[8];     // the sum of each four
  __m256i sixteens[2];  // of each 16
  __m256i thirty_twos;  // of each 32
  __m256 scales;        // of each 32 values
};

LLAMA3_INLINE Quantized quantize(const float* values, bool per_32) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256i largest_of_32[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    __m256i magnitudes[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
      magnitudes[k] = _mm256_castps_si256(_mm256_andnot_ps(sign, _mm256_loadu_ps(values + 32 * i + 8 * k)));
    largest_of_32[i] = _mm256_max_epu32(_mm256_max_epu32(magnitudes[0], magnitudes[1]),
                                        _mm256_max_epu32(magnitudes[2], magnitudes[3]));
  }
  const ActivationScales scales = scales_of(largest_of_32, per_32);
  Quantized result;
  result.scales = scales.scales;
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    const __m256 inverse = _mm256_permutevar8x32_ps(scales.inverses, _mm256_set1_epi32(i));
    __m256i integers[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
      integers[k] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(values + 32 * i + 8 * k), inverse));
    // A value that is not finite becomes an arbitrary integer; its scale is NaN.
    const __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(integers[0], integers[1]), _mm256_packs_epi32(integers[2], integers[3]));
    result.q[i] = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), result.q[i]);
    result.fours[i] = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
  sum_halves(result.fours, result.sixteens, add_32);
  result.thirty_twos = sum_neighbours(result.sixteens, add_32);
  return result;
}

LLAMA3_INLINE __m256i times_minus_128(__m256i sums) {
  return _mm256_slli_epi32(_mm256_sub_epi32(_mm256_setzero_si256(), sums), 7);
}
LLAMA3_INLINE __m256 scaled_sums(const Quantized& quantized) {
  return _mm256_mul_ps(quantized.scales, _mm256_cvtepi32_ps(quantized.thirty_twos));
}

}  // namespace

void quantize_for_gemv(const float* values, bool per_32, GemvActivations& block) {
  const Quantized quantized = quantize(values, per_32);
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) store_32(block.q + 32 * i, quantized.q[i]);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    const auto first = [](__m256i a, __m256i b) { return _mm256_permute2x128_si256(a, b, 0x20); };
    const auto second = [](__m256i a, __m256i b) { return _mm256_permute2x128_si256(a, b, 0x31); };
    const __m256i *q = quantized.q + i, *fours = quantized.fours + i;
    store_32(block.halves + 32 * i, first(q[0], q[1]));
    store_32(block.halves + 32 * i + 32, second(q[0], q[1]));
    const __m256i eights = _mm256_add_epi32(first(fours[0], fours[1]), second(fours[0], fours[1]));
    store_32(block.offset + 4 * i, times_minus_128(eights));
  }
  store_32(block.sums_16, pack_words(quantized.sixteens[0], quantized.sixteens[1]));
  store_32(block.sums_32, pack_words(quantized.thirty_twos, _mm256_setzero_si256()));
  _mm256_store_ps(block.scaled_sums, scaled_sums(quantized));
  _mm256_store_ps(block.scale, quantized.scales);
}

void quantize_for_gemm(const float* values, bool per_32, GemmActivations& packed) {
  const Quantized quantized = quantize(values, per_32);
  __m256i starts[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    store_32(packed.q + 8 * i, quantized.q[i]);
    store_32(packed.words + 16 * i, _mm256_cvtepi8_epi16(_mm256_castsi256_si128(quantized.q[i])));
    store_32(packed.words + 16 * i + 8, _mm256_cvtepi8_epi16(_mm256_extracti128_si256(quantized.q[i], 1)));
    // 32 times the sum of each two. Adding these up may wrap, like the sums that start from them.
    const __m256i products = _mm256_maddubs_epi16(_mm256_set1_epi8(32), quantized.q[i]);
    starts[i] = _mm256_sub_epi16(_mm256_setzero_si256(), products);
  }
  __m256i starts_16[2];
  sum_halves(starts, starts_16, add_16);
  store_32(packed.start_16, starts_16[0]);
  store_32(packed.start_16 + 8, starts_16[1]);
  store_32(packed.start_32, sum_neighbours(starts_16, add_16));
  store_32(packed.offset_16, times_minus_128(quantized.sixteens[0]));
  store_32(packed.offset_16 + 8, times_minus_128(quantized.sixteens[1]));
  store_32(packed.offset_32, times_minus_128(quantized.thirty_twos));
  store_32(packed.pairs_16, pack_words(quantized.sixteens[0], quantized.sixteens[1]));
  const __m256i words_32 = pack_words(quantized.thirty_twos, _mm256_setzero_si256());
  _mm_store_si128(reinterpret_cast<__m128i*>(packed.pairs_32), _mm256_castsi256_si128(words_32));
  _mm256_store_ps(packed.scaled_sums, scaled_sums(quantized));
  _mm256_store_ps(packed.scale, quantized.scales);
}

}  // namespace llama3::avx2
