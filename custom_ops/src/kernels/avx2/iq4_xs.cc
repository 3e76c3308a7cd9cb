// iq4_xs: eight sub-blocks of 32 nibbles that index a code book, with 6-bit scales.
#include "kernels/avx2/format_kernels.h"
#include "kernels/codebooks.h"

namespace llama3::avx2 {
namespace {

struct IQ4_XS {
  static constexpr Format kFormat = Format::kIQ4_XS;
  using Scales = IntegerScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    // Scales: a nibble in bytes 4 to 7, a pair of bits in bytes 2 and 3; they mean themselves less 32.
    const __m256i low = _mm256_srlv_epi32(_mm256_set1_epi32(load_number<int32_t>(block + 4)),
                                          _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    const __m256i high = _mm256_srlv_epi32(_mm256_set1_epi32(load_number<uint16_t>(block + 2)),
                                           _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    const __m256i six = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)),
                                        _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4));
    out.codes = to_words(_mm256_sub_epi32(six, _mm256_set1_epi32(32)));
    out.factor = load_half(block);
    const __m256i codebook = shifted_codebook(kCodebookIQ4, kZero);
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++) q[k] = _mm256_shuffle_epi8(codebook, both_nibbles(block + 8 + 16 * k));
  }
};

}  // namespace

FormatKernels iq4_xs_kernels(bool vnni) { return kernels_of<IQ4_XS>(vnni); }

}  // namespace llama3::avx2
