// nvfp4: four E4M3 scales, then for each 16 weights eight bytes of nibbles that index a code book.
#include "kernels/avx512/format_kernels.h"
#include "kernels/codebooks.h"

namespace llama3::avx512 {
namespace {

struct NVFP4 {
  static constexpr Format kFormat = Format::kNVFP4;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* blocks, int count, SuperBlock& out) {
    const __m512i codebook = shifted_codebook(kCodebookE2M1);
    __m512i q[4];
    alignas(16) int codes[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      // Past the last block the first, whose weights then meet activations of 0.
      const uint8_t* block = blocks + (kTail && 64 * k >= count ? 0 : 36 * k);
      __builtin_memcpy(&codes[k], block, sizeof codes[k]);
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 4));
      const __m512i twice =
          _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), _mm512_castsi256_si512(bytes));
      q[k] = _mm512_shuffle_epi8(codebook, nibbles(twice, _mm512_setr_epi64(0, 4, 0, 4, 0, 4, 0, 4)));
    }
    to_even_and_odd(q[0], q[1], out.q[0], out.q[1]);
    to_even_and_odd(q[2], q[3], out.q[2], out.q[3]);
    // Exponent and mantissa are those of a float16 of 2^-8 the value, of which half counts; 0x7f is 0 in ggml.
    const __m128i scales = _mm_load_si128(reinterpret_cast<const __m128i*>(codes));
    const __mmask16 nonzero = _mm_cmpneq_epi8_mask(scales, _mm_set1_epi8(0x7f));
    const __m256i magnitudes = _mm256_cvtepu8_epi16(_mm_and_si128(scales, _mm_set1_epi8(0x7f)));
    const __m512 halves = _mm512_cvtph_ps(_mm256_slli_epi16(magnitudes, 7));
    out.scale = _mm512_maskz_mul_ps(nonzero, halves, _mm512_set1_ps(128.0f));
  }
};

}  // namespace

template <>
inline constexpr bool kPer32<NVFP4> = true;

FormatKernels nvfp4_kernels() { return kernels_of<NVFP4>(); }

}  // namespace llama3::avx512
