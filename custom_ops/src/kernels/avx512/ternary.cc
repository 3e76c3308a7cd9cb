// tq1_0 and tq2_0: the values -1, 0 and 1, followed by one float16 scale.
#include "kernels/avx512/format_kernels.h"

namespace llama3::avx512 {
namespace {

// A byte holds five base-3 digits as a fraction of 256: multiplied by a power of 3, its next digit is the carry of
// another multiplication by 3. 32 bytes hold 160 weights, digit by digit; the next 16 bytes hold 80, and the last 4
// bytes, with four digits each, hold 16.
struct TQ1_0 {
  static constexpr Format kFormat = Format::kTQ1_0;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 1;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, SuperBlock& out) {
    out.scale = half_to_all(block + 52);
    __m256i y[5];
    __m128i z[5];
    y[0] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block));
    z[0] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 32));
#pragma GCC unroll 4
    for (int i = 1; i < 5; i++) {
      y[i] = _mm256_add_epi8(_mm256_add_epi8(y[i - 1], y[i - 1]), y[i - 1]);
      z[i] = _mm_add_epi8(_mm_add_epi8(z[i - 1], z[i - 1]), z[i - 1]);
    }
    int four;
    __builtin_memcpy(&four, block + 48, sizeof four);
    // Lane i times 3^i: even and odd bytes separately, because a product needs 16 bits.
    const __m128i even = _mm_and_si128(_mm_set1_epi32(four), _mm_set1_epi16(255));
    const __m128i odd = _mm_srli_epi16(_mm_set1_epi32(four), 8);
    const __m128i powers = _mm_setr_epi16(1, 1, 3, 3, 9, 9, 27, 27);
    const __m128i last = _mm_or_si128(_mm_and_si128(_mm_mullo_epi16(even, powers), _mm_set1_epi16(255)),
                                      _mm_slli_epi16(_mm_mullo_epi16(odd, powers), 8));
    out.q[0] = digits(_mm512_inserti64x4(_mm512_castsi256_si512(y[0]), y[1], 1));
    out.q[1] = digits(_mm512_inserti64x4(_mm512_castsi256_si512(y[2]), y[3], 1));
    out.q[2] = digits(_mm512_inserti64x4(_mm512_castsi256_si512(y[4]), _mm256_setr_m128i(z[0], z[1]), 1));
    out.q[3] = digits(
        _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_setr_m128i(z[2], z[3])), _mm256_setr_m128i(z[4], last), 1));
  }

  // Return floor(3 x / 256).
  LLAMA3_INLINE __m512i digits(__m512i x) {
    const __m512i one = _mm512_set1_epi8(1);
    const __m512i low = _mm512_maskz_mov_epi8(_mm512_cmpge_epu8_mask(x, _mm512_set1_epi8(86)), one);
    return _mm512_mask_add_epi8(low, _mm512_cmpge_epu8_mask(x, _mm512_set1_epi8(-85)), low, one);  // 171
  }
};

// 32 bytes hold 128 weights, 32 at each shift.
struct TQ2_0 {
  static constexpr Format kFormat = Format::kTQ2_0;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 1;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, SuperBlock& out) {
    out.scale = half_to_all(block + 64);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m512i shifts = k % 2 ? shifts_by_half(4, 6) : shifts_by_half(0, 2);
      const __m512i turned = _mm512_srlv_epi64(same_halves(block + 32 * (k / 2)), shifts);
      out.q[k] = _mm512_and_si512(turned, _mm512_set1_epi8(3));
    }
  }
};

}  // namespace

template <>
FormatKernels kernels_for<Format::kTQ1_0>() {
  return kernels_of<TQ1_0>();
}
template <>
FormatKernels kernels_for<Format::kTQ2_0>() {
  return kernels_of<TQ2_0>();
}

}  // namespace llama3::avx512
