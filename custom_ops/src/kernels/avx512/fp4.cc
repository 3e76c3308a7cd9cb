// mxfp4 and nvfp4: four-bit indices into the codebook of E2M1, with small floating-point scales.
#include "kernels/avx512/blocks_of_32.h"
#include "kernels/avx512/format_kernels.h"
#include "kernels/codebooks.h"

namespace llama3::avx512 {
namespace {

// mxfp4: a power of two as the scale, then 16 bytes of nibbles that index a codebook.
struct MXFP4 {
  static constexpr Format kFormat = Format::kMXFP4;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, SuperBlock& out) {
    // Half of 2^(e - 127). If e is below 2, that is one of two subnormal numbers.
    const __m256i exponents = _mm256_and_si256(
        _mm256_cvtepu16_epi32(_mm256_castsi256_si128(head_words<MXFP4, kTail>(blocks, count))), _mm256_set1_epi32(255));
    const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(exponents, _mm256_set1_epi32(1)), 23);
    const __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), exponents);
    const __mmask8 small = _mm256_cmplt_epi32_mask(exponents, _mm256_set1_epi32(2));
    out.scale = _mm512_zextps256_ps512(_mm256_castsi256_ps(_mm256_mask_mov_epi32(normal, small, subnormal)));
    const __m512i codebook = shifted_codebook(kCodebookE2M1);
    load_nibbles<MXFP4, kTail>(blocks, 1, count, out.q);
#pragma GCC unroll 4
    for (__m512i& q : out.q) q = _mm512_shuffle_epi8(codebook, q);
  }
};

// nvfp4: four E4M3 scales, then per 16 weights eight bytes of nibbles that index a codebook.
struct NVFP4 {
  static constexpr Format kFormat = Format::kNVFP4;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, SuperBlock& out) {
    const __m512i codebook = shifted_codebook(kCodebookE2M1);
    __m512i q[4];
    alignas(16) int codes[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      // Past the last block, use the first, whose weights are then multiplied by activations of 0.
      const uint8_t* block = blocks + (kTail && 64 * k >= count ? 0 : kBlockBytes<NVFP4> * k);
      __builtin_memcpy(&codes[k], block, sizeof codes[k]);
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 4));
      const __m512i twice =
          _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), _mm512_castsi256_si512(bytes));
      q[k] = _mm512_shuffle_epi8(codebook, nibbles(twice, _mm512_setr_epi64(0, 4, 0, 4, 0, 4, 0, 4)));
    }
    to_even_and_odd(q[0], q[1], out.q[0], out.q[1]);
    to_even_and_odd(q[2], q[3], out.q[2], out.q[3]);
    // Read as a float16, exponent and mantissa are 2^-8 times the scale. The codebook is doubled, so the scale is
    // halved. 0x7f is 0 in ggml.
    const __m128i scales = _mm_load_si128(reinterpret_cast<const __m128i*>(codes));
    const __mmask16 nonzero = _mm_cmpneq_epi8_mask(scales, _mm_set1_epi8(0x7f));
    const __m256i magnitudes = _mm256_cvtepu8_epi16(_mm_and_si128(scales, _mm_set1_epi8(0x7f)));
    const __m512 halves = _mm512_cvtph_ps(_mm256_slli_epi16(magnitudes, 7));
    out.scale = _mm512_maskz_mul_ps(nonzero, halves, _mm512_set1_ps(128.0f));
  }
};

}  // namespace

template <>
FormatKernels kernels_for<Format::kMXFP4>() {
  return kernels_of<MXFP4>();
}

template <>
FormatKernels kernels_for<Format::kNVFP4>() {
  return kernels_of<NVFP4>();
}

}  // namespace llama3::avx512
