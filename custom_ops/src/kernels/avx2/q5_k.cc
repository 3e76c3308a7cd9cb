// q5_k: as q4_k, with a fifth bit of each weight in 32 bytes before the nibbles; bit j belongs to sub-block j.
#include "kernels/avx2/format_kernels.h"
#include "kernels/avx2/k_scales.h"

namespace llama3::avx2 {
namespace {

struct Q5_K {
  static constexpr Format kFormat = Format::kQ5_K;
  using Scales = IntegerScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr int kLargest = 31;
  static constexpr bool kMinima = true;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    load_k_scales(block, out);
    const __m256i high_bits = load_32(block + 16);
    const auto fifth = [&](int j) { return _mm256_and_si256(shift_bytes(high_bits, j - 4), _mm256_set1_epi8(16)); };
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m256i bytes = load_32(block + 48 + 32 * k);
      q[2 * k] = _mm256_or_si256(low_nibbles(bytes), fifth(2 * k));
      q[2 * k + 1] = _mm256_or_si256(high_nibbles(bytes), fifth(2 * k + 1));
    }
  }
};

}  // namespace

FormatKernels q5_k_kernels(bool vnni) { return kernels_of<Q5_K>(vnni); }

}  // namespace llama3::avx2
