// iq4_xs: eight sub-blocks of 32 nibbles that index a code book, with 6-bit scales.
#include "kernels/avx512/format_kernels.h"
#include "kernels/codebooks.h"

namespace llama3::avx512 {
namespace {

struct IQ4_XS {
  static constexpr Format kFormat = Format::kIQ4_XS;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* block, int, SuperBlock& out) {
    // Scales: a nibble in bytes 4 to 7, a pair of bits in bytes 2 and 3; they mean themselves less 32.
    uint64_t head;
    __builtin_memcpy(&head, block, sizeof head);
    const __m256i low = _mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(head >> 32)),
                                          _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    const __m256i high = _mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(head >> 16 & 0xffff)),
                                           _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    const __m256i six = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)),
                                        _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4));
    const __m256i codes = _mm256_sub_epi32(six, _mm256_set1_epi32(32));
    out.scale = _mm512_mul_ps(_mm512_zextps256_ps512(_mm256_cvtepi32_ps(codes)), half_to_all(block));
    const __m512i codebook = shifted_codebook(kCodebookIQ4);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const uint8_t* bytes = block + 8 + 32 * k;
      out.q[k] = _mm512_shuffle_epi8(codebook, nibbles(doubled_quarters(bytes, bytes + 16), shifts_by_quarter(0, 4)));
    }
  }
};

}  // namespace

FormatKernels iq4_xs_kernels() { return kernels_of<IQ4_XS>(); }

}  // namespace llama3::avx512
