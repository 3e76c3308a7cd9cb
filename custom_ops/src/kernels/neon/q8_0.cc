// q8_0: a float16 scale and 32 int8.
#include "kernels/neon/format_kernels.h"

namespace llama3::neon {
namespace {

struct Q8_0 {
  static constexpr Format kFormat = Format::kQ8_0;
  static constexpr bool kMinima = false;

  LLAMA3_INLINE Block load(const uint8_t* block) {
    return {as_signed(vld1q_u8(block + 2)), as_signed(vld1q_u8(block + 18)), load_half(block), 0};
  }
};

}  // namespace

FormatKernels q8_0_kernels() { return kernels_of<Q8_0>(); }

}  // namespace llama3::neon
