// q4_0: a float16 scale, 16 bytes of nibbles, which mean themselves less 8.
#include "kernels/avx2/blocks_of_32.h"
#include "kernels/avx2/format_kernels.h"

namespace llama3::avx2 {
namespace {

struct Q4_0 {
  static constexpr Format kFormat = Format::kQ4_0;
  using Scales = FloatScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 8;
  static constexpr int kLargest = 8;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, __m256i* q, FloatScales& out) {
    load_scales<18, kTail>(blocks, count, out);
    load_nibbles<18, kTail>(blocks, 2, count, q);
  }
};

}  // namespace

FormatKernels q4_0_kernels(bool vnni) { return kernels_of<Q4_0>(vnni); }

}  // namespace llama3::avx2
