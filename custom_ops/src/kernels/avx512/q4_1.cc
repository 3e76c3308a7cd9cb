// q4_1: a float16 scale, a float16 that is added, 16 bytes of nibbles.
#include "kernels/avx512/blocks_of_32.h"
#include "kernels/avx512/format_kernels.h"

namespace llama3::avx512 {
namespace {

struct Q4_1 {
  static constexpr Format kFormat = Format::kQ4_1;
  static constexpr int kSubBlock = 32;
  static constexpr bool kSigned = false;
  static constexpr Minima kMinima = Minima::kFloat;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* blocks, int count, SuperBlock& out) {
    const __m256i heads = block_heads<20, kTail>(blocks, count);
    out.scale = low_halves(heads);
    out.min = high_halves(_mm256_xor_si256(heads, _mm256_set1_epi32(INT32_MIN)));
    const auto block = [&](int i) { return block_at<20, kTail>(blocks, count, i); };
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) out.q[k] = nibbles_of_two_blocks(block(2 * k) + 4, block(2 * k + 1) + 4);
  }
};

}  // namespace

template <>
inline constexpr bool kPer32<Q4_1> = true;

FormatKernels q4_1_kernels() { return kernels_of<Q4_1>(); }

}  // namespace llama3::avx512
