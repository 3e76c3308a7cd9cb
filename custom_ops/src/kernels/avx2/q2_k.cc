// q2_k: 16 sub-blocks of 16 weights of two bits; 32 bytes hold 128 weights.
#include "kernels/avx2/format_kernels.h"

namespace llama3::avx2 {
namespace {

struct Q2_K {
  static constexpr Format kFormat = Format::kQ2_K;
  using Scales = IntegerScales;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 0;
  static constexpr int kLargest = 3;
  static constexpr bool kMinima = true;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    const __m128i codes = load_16(block);
    out.codes = _mm256_cvtepu8_epi16(_mm_and_si128(codes, _mm_set1_epi8(15)));
    out.min_codes = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(codes, 4), _mm_set1_epi8(15)));
    out.factor = load_half(block + 80);
    out.min_factor = load_half(block + 82);
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++) {
      const __m256i bytes = load_32(block + 16 + 32 * (k / 4));
      q[k] = _mm256_and_si256(shift_bytes(bytes, k % 4 * 2), _mm256_set1_epi8(3));
    }
  }
};

}  // namespace

FormatKernels q2_k_kernels(bool vnni) { return kernels_of<Q2_K>(vnni); }

}  // namespace llama3::avx2
