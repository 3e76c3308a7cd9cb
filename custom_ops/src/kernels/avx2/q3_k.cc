// q3_k: as q2_k without minima, with a third bit of each weight in the first 32 bytes and 6-bit scales.
#include "kernels/avx2/format_kernels.h"

namespace llama3::avx2 {
namespace {

struct Q3_K {
  static constexpr Format kFormat = Format::kQ3_K;
  using Scales = IntegerScales;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 4;
  static constexpr int kLargest = 4;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    // Sixteen scales: nibbles in 8 bytes, bit pairs in 4; they mean themselves less 32.
    const __m128i packed = load_16(block + 94);  // from byte 2 on
    const __m128i low = _mm_shuffle_epi8(packed, _mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9));
    const __m128i high =
        _mm_shuffle_epi8(packed, _mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13));
    const __m128i four = _mm_and_si128(_mm_srlv_epi64(low, _mm_set_epi64x(4, 0)), _mm_set1_epi8(15));
    const __m128i two = _mm_and_si128(_mm_srlv_epi32(high, _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
    const __m128i six = _mm_sub_epi8(_mm_or_si128(four, _mm_slli_epi16(two, 4)), _mm_set1_epi8(32));
    out.codes = _mm256_cvtepi8_epi16(six);
    out.factor = load_half(block + 108);
    const __m256i high_bits = load_32(block);
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++) {
      const __m256i bytes = load_32(block + 32 + 32 * (k / 4));
      const __m256i bits = _mm256_and_si256(shift_bytes(bytes, k % 4 * 2), _mm256_set1_epi8(3));
      q[k] = _mm256_or_si256(bits, _mm256_and_si256(shift_bytes(high_bits, k - 2), _mm256_set1_epi8(4)));
    }
  }
};

}  // namespace

FormatKernels q3_k_kernels(bool vnni) { return kernels_of<Q3_K>(vnni); }

}  // namespace llama3::avx2
