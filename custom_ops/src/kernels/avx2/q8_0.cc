// q8_0: a float16 scale and 32 int8.
#include "kernels/avx2/blocks_of_32.h"
#include "kernels/avx2/format_kernels.h"

namespace llama3::avx2 {
namespace {

struct Q8_0 {
  static constexpr Format kFormat = Format::kQ8_0;
  using Scales = FloatScales;
  static constexpr int kSubBlock = 32;
  static constexpr int kZero = 0;
  static constexpr bool kMinima = false;

  template <bool kTail>
  LLAMA3_INLINE void load(const uint8_t* blocks, int count, __m256i* q, FloatScales& out) {
    load_scales<34, kTail>(blocks, count, out);
#pragma GCC unroll 8
    for (int i = 0; i < kParts; i++)
      q[i] = kTail && 32 * i >= count ? _mm256_setzero_si256() : load_32(blocks + 34 * i + 2);
  }
};

}  // namespace

FormatKernels q8_0_kernels(bool vnni) { return kernels_of<Q8_0>(vnni); }

}  // namespace llama3::avx2
