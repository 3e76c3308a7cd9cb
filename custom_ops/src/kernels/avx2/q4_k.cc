// q4_k: eight sub-blocks of 32 nibbles; 32 bytes hold two of them.
#include "kernels/avx2/format_kernels.h"
#include "kernels/avx2/k_scales.h"

namespace llama3::avx2 {
namespace {

struct Q4_K {
  static constexpr Format kFormat = Format::kQ4_K;
  using Scales = IntegerScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr int kLargest = 15;
  static constexpr bool kMinima = true;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* block, int, __m256i* q, IntegerScales& out) {
    load_k_scales(block, out);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const __m256i bytes = load_32(block + 16 + 32 * k);
      q[2 * k] = low_nibbles(bytes);
      q[2 * k + 1] = high_nibbles(bytes);
    }
  }
};

}  // namespace

FormatKernels q4_k_kernels(bool vnni) { return kernels_of<Q4_K>(vnni); }

}  // namespace llama3::avx2
