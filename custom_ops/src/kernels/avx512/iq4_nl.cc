// iq4_nl: a float16 scale, 16 bytes of nibbles that index a code book.
#include "kernels/avx512/blocks_of_32.h"
#include "kernels/avx512/format_kernels.h"
#include "kernels/codebooks.h"

namespace llama3::avx512 {
namespace {

struct IQ4_NL {
  static constexpr Format kFormat = Format::kIQ4_NL;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* blocks, int count, SuperBlock& out) {
    out.scale = head_halves<18, kTail>(blocks, count);
    const __m512i codebook = shifted_codebook(kCodebookIQ4);
    load_nibbles<18, kTail>(blocks, 2, count, out.q);
#pragma GCC unroll 4
    for (__m512i& q : out.q) q = _mm512_shuffle_epi8(codebook, q);
  }
};

}  // namespace

template <>
inline constexpr bool kPer32<IQ4_NL> = true;

FormatKernels iq4_nl_kernels() { return kernels_of<IQ4_NL>(); }

}  // namespace llama3::avx512
