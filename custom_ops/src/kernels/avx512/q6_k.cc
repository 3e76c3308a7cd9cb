// q6_k: 16 sub-blocks of 16 weights; each half of the block has 64 bytes of nibbles and 32 bytes of bit pairs.
#include "kernels/avx512/format_kernels.h"

namespace llama3::avx512 {
namespace {

struct Q6_K {
  static constexpr Format kFormat = Format::kQ6_K;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 32;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* block, int, SuperBlock& out) {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 192));
    out.scale = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)), half_to_all(block + 208));
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m512i low = _mm512_loadu_si512(block + 64 * (k / 2));
      const __m512i high = same_halves(block + 128 + 32 * (k / 2));
      const __m512i four = _mm512_and_si512(k % 2 ? _mm512_srli_epi16(low, 4) : low, _mm512_set1_epi8(15));
      // The pair of bits of each half, turned to bits 4 and 5.
      const __m512i turned = _mm512_rorv_epi64(high, k % 2 ? shifts_by_half(0, 2) : shifts_by_half(60, 62));
      out.q[k] = _mm512_or_si512(four, _mm512_and_si512(turned, _mm512_set1_epi8(48)));
    }
  }
};

}  // namespace

FormatKernels q6_k_kernels() { return kernels_of<Q6_K>(); }

}  // namespace llama3::avx512
