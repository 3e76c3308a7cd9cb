// q4_0: a float16 scale, 16 bytes of nibbles, which mean themselves less 8.
#include "kernels/avx512/blocks_of_32.h"
#include "kernels/avx512/format_kernels.h"

namespace llama3::avx512 {
namespace {

struct Q4_0 {
  static constexpr Format kFormat = Format::kQ4_0;
  static constexpr int kSubBlock = 32;
  static constexpr bool kSigned = true;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* blocks, int count, SuperBlock& out) {
    out.scale = low_halves(block_heads<18, kTail>(blocks, count));
    const auto block = [&](int i) { return block_at<18, kTail>(blocks, count, i); };
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m512i q = nibbles_of_two_blocks(block(2 * k) + 2, block(2 * k + 1) + 2);
      out.q[k] = _mm512_add_epi8(q, _mm512_set1_epi8(128 - 8));
    }
  }
};

}  // namespace

template <>
inline constexpr bool kPer32<Q4_0> = true;

FormatKernels q4_0_kernels() { return kernels_of<Q4_0>(); }

}  // namespace llama3::avx512
