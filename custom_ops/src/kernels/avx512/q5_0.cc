// q5_0: a float16 scale, 32 fifth bits, 16 bytes of nibbles; the five bits mean themselves less 16.
#include "kernels/avx512/blocks_of_32.h"
#include "kernels/avx512/format_kernels.h"

namespace llama3::avx512 {
namespace {

struct Q5_0 {
  static constexpr Format kFormat = Format::kQ5_0;
  static constexpr int kSubBlock = 32;
  static constexpr bool kSigned = true;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* blocks, int count, SuperBlock& out) {
    out.scale = low_halves(block_heads<22, kTail>(blocks, count));
    const auto block = [&](int i) { return block_at<22, kTail>(blocks, count, i); };
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const uint8_t *first = block(2 * k), *second = block(2 * k + 1);
      const __m512i q = _mm512_or_si512(nibbles_of_two_blocks(first + 6, second + 6),
                                        fifth_bits_of_two_blocks(first + 2, second + 2));
      out.q[k] = _mm512_add_epi8(q, _mm512_set1_epi8(128 - 16));
    }
  }
};

}  // namespace

template <>
inline constexpr bool kPer32<Q5_0> = true;

FormatKernels q5_0_kernels() { return kernels_of<Q5_0>(); }

}  // namespace llama3::avx512
