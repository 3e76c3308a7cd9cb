// q5_1: a float16 scale, a float16 that is added, 32 fifth bits, 16 bytes of nibbles.
#include "kernels/avx512/blocks_of_32.h"
#include "kernels/avx512/format_kernels.h"

namespace llama3::avx512 {
namespace {

struct Q5_1 {
  static constexpr Format kFormat = Format::kQ5_1;
  static constexpr int kSubBlock = 32;
  static constexpr bool kSigned = false;
  static constexpr Minima kMinima = Minima::kFloat;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* blocks, int count, SuperBlock& out) {
    const __m256i heads = block_heads<24, kTail>(blocks, count);
    out.scale = low_halves(heads);
    out.min = high_halves(_mm256_xor_si256(heads, _mm256_set1_epi32(INT32_MIN)));
    const auto block = [&](int i) { return block_at<24, kTail>(blocks, count, i); };
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const uint8_t *first = block(2 * k), *second = block(2 * k + 1);
      out.q[k] = _mm512_or_si512(nibbles_of_two_blocks(first + 8, second + 8),
                                 fifth_bits_of_two_blocks(first + 4, second + 4));
    }
  }
};

}  // namespace

template <>
inline constexpr bool kPer32<Q5_1> = true;

FormatKernels q5_1_kernels() { return kernels_of<Q5_1>(); }

}  // namespace llama3::avx512
