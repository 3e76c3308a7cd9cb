// iq4_nl: a float16 scale, 16 bytes of nibbles that index a code book.
#include "kernels/avx2/blocks_of_32.h"
#include "kernels/avx2/format_kernels.h"
#include "kernels/codebooks.h"

namespace llama3::avx2 {
namespace {

struct IQ4_NL {
  static constexpr Format kFormat = Format::kIQ4_NL;
  using Scales = FloatScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, __m256i* q, FloatScales& out) {
    load_scales<18, kTail>(blocks, count, out);
    const __m256i codebook = shifted_codebook(kCodebookIQ4, kZero);
#pragma GCC unroll 8
    for (int i = 0; i < kParts; i++)
      q[i] = kTail && 32 * i >= count ? _mm256_setzero_si256()
                                      : _mm256_shuffle_epi8(codebook, both_nibbles(blocks + 18 * i + 2));
  }
};

}  // namespace

FormatKernels iq4_nl_kernels(bool vnni) { return kernels_of<IQ4_NL>(vnni); }

}  // namespace llama3::avx2
