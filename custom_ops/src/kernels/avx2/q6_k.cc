// q6_k: 16 sub-blocks of 16 weights; each half of the block has 64 bytes of nibbles and 32 bytes of bit pairs.
#include "kernels/avx2/format_kernels.h"

namespace llama3::avx2 {
namespace {

struct Q6_K {
  static constexpr Format kFormat = Format::kQ6_K;
  using Scales = IntegerScales;
  static constexpr int kSubBlock = 16;
  static constexpr int kZero = 32;
  static constexpr int kLargest = 32;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    out.codes = _mm256_cvtepi8_epi16(load_16(block + 192));
    out.factor = load_half(block + 208);
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++) {
      const __m256i low = load_32(block + k / 4 * 64 + k % 2 * 32), high = load_32(block + 128 + k / 4 * 32);
      const __m256i pairs = _mm256_and_si256(shift_bytes(high, k % 4 * 2 - 4), _mm256_set1_epi8(48));
      q[k] = _mm256_or_si256(low_nibbles(shift_bytes(low, k % 4 / 2 * 4)), pairs);
    }
  }
};

}  // namespace

FormatKernels q6_k_kernels(bool vnni) { return kernels_of<Q6_K>(vnni); }

}  // namespace llama3::avx2
