// mxfp4 and nvfp4: four-bit indices into the codebook of E2M1, with small floating-point scales.
#include "kernels/avx2/blocks_of_32.h"
#include "kernels/avx2/format_kernels.h"
#include "kernels/codebooks.h"

namespace llama3::avx2 {
namespace {

// mxfp4: a power of two as the scale, then 16 bytes of nibbles that index a codebook.
struct MXFP4 {
  static constexpr Format kFormat = Format::kMXFP4;
  using Scales = FloatScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 16;
  static constexpr int kLargest = 12;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, __m256i* q, FloatScales& out) {
    // Half of 2^(e - 127). If e is below 2, that is one of two subnormal numbers.
    const __m256i words = _mm256_cvtepu16_epi32(block_heads<MXFP4, kTail>(blocks, count).first);
    const __m256i exponents = _mm256_and_si256(words, _mm256_set1_epi32(255));
    const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(exponents, _mm256_set1_epi32(1)), 23);
    const __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), exponents);
    const __m256i small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), exponents);
    out.scale[0] = _mm256_castsi256_ps(_mm256_blendv_epi8(normal, subnormal, small));
    const __m256i codebook = shifted_codebook(kCodebookE2M1, kZero);
    load_nibbles<MXFP4, kTail>(blocks, 1, count, q);
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++) q[k] = _mm256_shuffle_epi8(codebook, q[k]);
  }
};

// nvfp4: four E4M3 scales, then per 16 weights eight bytes of nibbles that index a codebook.
struct NVFP4 {
  static constexpr Format kFormat = Format::kNVFP4;
  using Scales = FloatScales;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 0;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, __m256i* q, FloatScales& out) {
    const __m256i codebook = shifted_codebook(kCodebookE2M1, kZero);
    int32_t codes[4] = {};
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
      if (!kTail || 64 * i < count) codes[i] = load_number<int32_t>(blocks + kBlockBytes<NVFP4> * i);
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++) {
      if (kTail && 32 * k >= count) {
        q[k] = _mm256_setzero_si256();
        continue;
      }
      const __m256i bytes = _mm256_castsi128_si256(load_16(blocks + kBlockBytes<NVFP4> * (k / 2) + 4 + 16 * (k % 2)));
      const __m256i twice = _mm256_permute4x64_epi64(bytes, 0x50);  // each eight bytes
      q[k] = _mm256_shuffle_epi8(codebook, low_nibbles(_mm256_srlv_epi64(twice, _mm256_setr_epi64x(0, 4, 0, 4))));
    }
    // Read as a float16, exponent and mantissa are 2^-8 times the scale. The codebook is doubled, so the scale is
    // halved. 0x7f is 0 in ggml.
    const __m128i scales = _mm_setr_epi32(codes[0], codes[1], codes[2], codes[3]);
    const __m128i zeros = _mm_cmpeq_epi8(scales, _mm_set1_epi8(0x7f));
    const __m128i magnitudes = _mm_andnot_si128(zeros, _mm_and_si128(scales, _mm_set1_epi8(0x7f)));
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {  // of each register
      const __m128i words = _mm_srli_epi16(_mm_slli_epi16(magnitudes, half ? 0 : 8), 1);
      out.scale[half] =
          _mm256_mul_ps(_mm256_cvtph_ps(_mm_and_si128(words, _mm_set1_epi16(0x3f80))), _mm256_set1_ps(128.0f));
    }
  }
};

}  // namespace

template <>
FormatKernels kernels_for<Format::kMXFP4>(bool vnni) {
  return kernels_of<MXFP4>(vnni);
}

template <>
FormatKernels kernels_for<Format::kNVFP4>(bool vnni) {
  return kernels_of<NVFP4>(vnni);
}

}  // namespace llama3::avx2
