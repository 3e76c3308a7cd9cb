// mxfp4: a power of two as the scale, 16 bytes of nibbles that index a code book.
#include "kernels/avx2/blocks_of_32.h"
#include "kernels/avx2/format_kernels.h"
#include "kernels/codebooks.h"

namespace llama3::avx2 {
namespace {

struct MXFP4 {
  static constexpr Format kFormat = Format::kMXFP4;
  using Scales = FloatScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 16;
  static constexpr int kLargest = 12;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, __m256i* q, FloatScales& out) {
    // Half of 2^(e - 127): below an exponent of 2 that is one of two subnormal numbers.
    const __m256i words = _mm256_cvtepu16_epi32(block_heads<17, kTail>(blocks, count).first);
    const __m256i exponents = _mm256_and_si256(words, _mm256_set1_epi32(255));
    const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(exponents, _mm256_set1_epi32(1)), 23);
    const __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), exponents);
    const __m256i small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), exponents);
    out.scale[0] = _mm256_castsi256_ps(_mm256_blendv_epi8(normal, subnormal, small));
    const __m256i codebook = shifted_codebook(kCodebookE2M1, kZero);
    load_nibbles<17, kTail>(blocks, 1, count, q);
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++) q[k] = _mm256_shuffle_epi8(codebook, q[k]);
  }
};

}  // namespace

FormatKernels mxfp4_kernels(bool vnni) { return kernels_of<MXFP4>(vnni); }

}  // namespace llama3::avx2
