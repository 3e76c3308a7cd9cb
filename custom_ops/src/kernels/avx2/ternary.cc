// tq1_0 and tq2_0: the values -1, 0 and 1, followed by one float16 scale.
#include "kernels/avx2/format_kernels.h"

namespace llama3::avx2 {
namespace {

// A byte holds five base-3 digits as a fraction of 256: multiplied by a power of 3, its next digit is the carry of
// another multiplication by 3. 32 bytes hold 160 weights, digit by digit; the next 16 bytes hold 80, and the last 4
// bytes, with four digits each, hold 16.
struct TQ1_0 {
  static constexpr Format kFormat = Format::kTQ1_0;
  using Scales = IntegerScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 1;
  static constexpr int kLargest = 1;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    out.codes = _mm256_zextsi128_si256(_mm_set1_epi16(1));
    out.factor = load_half(block + 52);
    const auto times_3 = [](__m256i x) { return _mm256_add_epi8(_mm256_add_epi8(x, x), x); };
    __m256i y = load_32(block), z = _mm256_zextsi128_si256(load_16(block + 32));
    __m128i sixteens[6];
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
      q[i] = digits(y);
      sixteens[i] = _mm256_castsi256_si128(digits(z));
      y = times_3(y);
      z = times_3(z);
    }
    // The last four bytes times 1, 3, 9 and 27: even and odd bytes separately, because a product needs 16 bits.
    const __m128i last = _mm_set1_epi32(load_number<int32_t>(block + 48));
    const __m128i even = _mm_and_si128(last, _mm_set1_epi16(255)), odd = _mm_srli_epi16(last, 8);
    const __m128i powers = _mm_setr_epi16(1, 1, 3, 3, 9, 9, 27, 27);
    const __m128i products = _mm_or_si128(_mm_and_si128(_mm_mullo_epi16(even, powers), _mm_set1_epi16(255)),
                                          _mm_slli_epi16(_mm_mullo_epi16(odd, powers), 8));
    sixteens[5] = _mm256_castsi256_si128(digits(_mm256_zextsi128_si256(products)));
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) q[5 + i] = _mm256_setr_m128i(sixteens[2 * i], sixteens[2 * i + 1]);
  }

  // Return floor(3 x / 256).
  LLAMA3_INLINE __m256i digits(__m256i x) {
    const auto at_least = [&](int least) {
      return _mm256_cmpeq_epi8(x, _mm256_max_epu8(x, _mm256_set1_epi8(static_cast<char>(least))));
    };
    return _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_add_epi8(at_least(86), at_least(171)));
  }
};

// 32 bytes hold 128 weights, 32 at each shift.
struct TQ2_0 {
  static constexpr Format kFormat = Format::kTQ2_0;
  using Scales = IntegerScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 1;
  static constexpr int kLargest = 2;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    out.codes = _mm256_zextsi128_si256(_mm_set1_epi16(1));
    out.factor = load_half(block + 64);
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++)
      q[k] = _mm256_and_si256(shift_bytes(load_32(block + 32 * (k / 4)), k % 4 * 2), _mm256_set1_epi8(3));
  }
};

}  // namespace

template <>
FormatKernels kernels_for<Format::kTQ1_0>(bool vnni) {
  return kernels_of<TQ1_0>(vnni);
}
template <>
FormatKernels kernels_for<Format::kTQ2_0>(bool vnni) {
  return kernels_of<TQ2_0>(vnni);
}

}  // namespace llama3::avx2
