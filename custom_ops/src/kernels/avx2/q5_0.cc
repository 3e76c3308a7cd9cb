// q5_0: a float16 scale, 32 fifth bits, 16 bytes of nibbles; the five bits mean themselves less 16.
#include "kernels/avx2/blocks_of_32.h"
#include "kernels/avx2/format_kernels.h"

namespace llama3::avx2 {
namespace {

struct Q5_0 {
  static constexpr Format kFormat = Format::kQ5_0;
  using Scales = FloatScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 16;
  static constexpr int kLargest = 16;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, __m256i* q, FloatScales& out) {
    load_scales<22, kTail>(blocks, count, out);
    load_nibbles<22, kTail>(blocks, 6, count, q);
    add_fifth_bits<22, kTail>(blocks + 2, count, q);
  }
};

}  // namespace

FormatKernels q5_0_kernels(bool vnni) { return kernels_of<Q5_0>(vnni); }

}  // namespace llama3::avx2
