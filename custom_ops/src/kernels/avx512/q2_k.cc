// q2_k: 16 sub-blocks of 16 weights of two bits; 32 bytes hold 128 weights.
#include "kernels/avx512/format_kernels.h"

namespace llama3::avx512 {
namespace {

struct Q2_K {
  static constexpr Format kFormat = Format::kQ2_K;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 0;
  static constexpr Minima kMinima = Minima::kInteger;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* block, int, SuperBlock& out) {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block));
    const __m128i scales = _mm_and_si128(codes, _mm_set1_epi8(15));
    const __m128i minima = _mm_and_si128(_mm_srli_epi16(codes, 4), _mm_set1_epi8(15));
    out.scale = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(scales)), half_to_all(block + 80));
    out.min_codes = _mm256_cvtepu8_epi16(minima);
    out.min_factor = half_to_all(block + 82);
    out.min = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(minima)), out.min_factor);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m512i bytes = same_halves(block + 16 + 32 * (k / 2));
      const __m512i shifts = k % 2 ? shifts_by_half(4, 6) : shifts_by_half(0, 2);
      out.q[k] = _mm512_and_si512(_mm512_srlv_epi64(bytes, shifts), _mm512_set1_epi8(3));
    }
  }
};

}  // namespace

FormatKernels q2_k_kernels() { return kernels_of<Q2_K>(); }

}  // namespace llama3::avx512
