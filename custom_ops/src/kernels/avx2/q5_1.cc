// q5_1: a float16 scale, a float16 that is added, 32 fifth bits, 16 bytes of nibbles.
#include "kernels/avx2/blocks_of_32.h"
#include "kernels/avx2/format_kernels.h"

namespace llama3::avx2 {
namespace {

struct Q5_1 {
  static constexpr Format kFormat = Format::kQ5_1;
  using Scales = FloatScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr int kLargest = 31;
  static constexpr bool kMinima = true;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, __m256i* q, FloatScales& out) {
    load_scales_and_minima<24, kTail>(blocks, count, out);
    load_nibbles<24, kTail>(blocks, 8, count, q);
    add_fifth_bits<24, kTail>(blocks + 4, count, q);
  }
};

}  // namespace

FormatKernels q5_1_kernels(bool vnni) { return kernels_of<Q5_1>(vnni); }

}  // namespace llama3::avx2
