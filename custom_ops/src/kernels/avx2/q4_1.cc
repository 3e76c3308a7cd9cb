// q4_1: a float16 scale, a float16 that is added, 16 bytes of nibbles.
#include "kernels/avx2/blocks_of_32.h"
#include "kernels/avx2/format_kernels.h"

namespace llama3::avx2 {
namespace {

struct Q4_1 {
  static constexpr Format kFormat = Format::kQ4_1;
  using Scales = FloatScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr int kLargest = 15;
  static constexpr bool kMinima = true;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, __m256i* q, FloatScales& out) {
    load_scales_and_minima<20, kTail>(blocks, count, out);
    load_nibbles<20, kTail>(blocks, 4, count, q);
  }
};

}  // namespace

FormatKernels q4_1_kernels(bool vnni) { return kernels_of<Q4_1>(vnni); }

}  // namespace llama3::avx2
