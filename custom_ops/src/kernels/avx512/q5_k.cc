// q5_k: as q4_k, with a fifth bit of each weight in 32 bytes before the nibbles; bit j belongs to sub-block j.
#include "kernels/avx512/format_kernels.h"
#include "kernels/avx512/k_scales.h"

namespace llama3::avx512 {
namespace {

struct Q5_K {
  static constexpr Format kFormat = Format::kQ5_K;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr Minima kMinima = Minima::kInteger;

  template <bool kTail>
  static inline __attribute__((always_inline)) void load(const uint8_t* block, int, SuperBlock& out) {
    load_k_scales(block, out);
    const __m512i high_bits = same_halves(block + 16);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m512i low = nibbles(same_halves(block + 48 + 32 * k), shifts_by_half(0, 4));
      const __m512i bit =
          _mm512_inserti64x4(_mm512_set1_epi8(1 << (2 * k)), _mm256_set1_epi8(static_cast<char>(2 << (2 * k))), 1);
      out.q[k] = _mm512_mask_add_epi8(low, _mm512_test_epi8_mask(high_bits, bit), low, _mm512_set1_epi8(16));
    }
  }
};

}  // namespace

FormatKernels q5_k_kernels() { return kernels_of<Q5_K>(); }

}  // namespace llama3::avx512
