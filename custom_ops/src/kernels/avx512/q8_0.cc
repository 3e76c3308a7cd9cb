// q8_0: a float16 scale and 32 int8.
#include "kernels/avx512/blocks_of_32.h"
#include "kernels/avx512/format_kernels.h"

namespace llama3::avx512 {
namespace {

struct Q8_0 {
  static constexpr Format kFormat = Format::kQ8_0;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 128;
  static constexpr Minima kMinima = Minima::kNone;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* blocks, int count, SuperBlock& out) {
    out.scale = head_halves<34, kTail>(blocks, count);
    const auto block = [&](int i) { return block_at<34, kTail>(blocks, count, i) + 2; };
#pragma GCC unroll 2
    for (int k = 0; k < 4; k += 2)
      to_even_and_odd(two_halves(block(2 * k), block(2 * k + 1)), two_halves(block(2 * k + 2), block(2 * k + 3)),
                      out.q[k], out.q[k + 1]);
#pragma GCC unroll 4
    for (__m512i& q : out.q) q = _mm512_xor_si512(q, _mm512_set1_epi8(-128));
  }
};

}  // namespace

template <>
inline constexpr bool kPer32<Q8_0> = true;

FormatKernels q8_0_kernels() { return kernels_of<Q8_0>(); }

}  // namespace llama3::avx512
