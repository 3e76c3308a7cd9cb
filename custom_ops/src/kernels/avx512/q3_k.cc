// q3_k: as q2_k without minima, with a third bit of each weight in the first 32 bytes and 6-bit scales.
#include "kernels/avx512/format_kernels.h"

namespace llama3::avx512 {
namespace {

struct Q3_K {
  static constexpr Format kFormat = Format::kQ3_K;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 4;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* block, int, SuperBlock& out) {
    // Sixteen scales: nibbles in 8 bytes, bit pairs in 4; they mean themselves less 32.
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 94));  // bytes 2 to 13
    const __m128i low = _mm_shuffle_epi8(codes, _mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9));
    const __m128i high =
        _mm_shuffle_epi8(codes, _mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13));
    const __m128i four = _mm_and_si128(_mm_srlv_epi64(low, _mm_set_epi64x(4, 0)), _mm_set1_epi8(15));
    const __m128i two = _mm_and_si128(_mm_srlv_epi32(high, _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
    const __m128i six = _mm_sub_epi8(_mm_or_si128(four, _mm_slli_epi16(two, 4)), _mm_set1_epi8(32));
    out.scale = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(six)), half_to_all(block + 108));
    const __m512i high_bits = same_halves(block);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m512i bytes = same_halves(block + 32 + 32 * (k / 2));
      const __m512i shifts = k % 2 ? shifts_by_half(4, 6) : shifts_by_half(0, 2);
      const __m512i bits = _mm512_and_si512(_mm512_srlv_epi64(bytes, shifts), _mm512_set1_epi8(3));
      const __m512i bit =
          _mm512_inserti64x4(_mm512_set1_epi8(1 << (2 * k)), _mm256_set1_epi8(static_cast<char>(2 << (2 * k))), 1);
      out.q[k] = _mm512_mask_add_epi8(bits, _mm512_test_epi8_mask(high_bits, bit), bits, _mm512_set1_epi8(4));
    }
  }
};

}  // namespace

FormatKernels q3_k_kernels() { return kernels_of<Q3_K>(); }

}  // namespace llama3::avx512
