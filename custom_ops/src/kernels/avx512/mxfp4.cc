// mxfp4: a power of two as the scale, 16 bytes of nibbles that index a code book.
#include "kernels/avx512/blocks_of_32.h"
#include "kernels/avx512/format_kernels.h"
#include "kernels/codebooks.h"

namespace llama3::avx512 {
namespace {

struct MXFP4 {
  static constexpr Format kFormat = Format::kMXFP4;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* blocks, int count, SuperBlock& out) {
    // Half of 2^(e - 127): below an exponent of 2 that is one of two subnormal numbers.
    const __m256i exponents = _mm256_and_si256(
        _mm256_cvtepu16_epi32(_mm256_castsi256_si128(head_words<17, kTail>(blocks, count))), _mm256_set1_epi32(255));
    const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(exponents, _mm256_set1_epi32(1)), 23);
    const __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), exponents);
    const __mmask8 small = _mm256_cmplt_epi32_mask(exponents, _mm256_set1_epi32(2));
    out.scale = _mm512_zextps256_ps512(_mm256_castsi256_ps(_mm256_mask_mov_epi32(normal, small, subnormal)));
    const __m512i codebook = shifted_codebook(kCodebookE2M1);
    load_nibbles<17, kTail>(blocks, 1, count, out.q);
#pragma GCC unroll 4
    for (__m512i& q : out.q) q = _mm512_shuffle_epi8(codebook, q);
  }
};

}  // namespace

template <>
inline constexpr bool kPer32<MXFP4> = true;

FormatKernels mxfp4_kernels() { return kernels_of<MXFP4>(); }

}  // namespace llama3::avx512
