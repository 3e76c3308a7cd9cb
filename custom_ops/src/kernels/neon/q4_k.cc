// q4_k: eight sub-blocks of 32 nibbles; 32 bytes hold two of them.
#include "kernels/neon/format_kernels.h"
#include "kernels/neon/k_scales.h"

namespace llama3::neon {
namespace {

struct Q4_K {
  static constexpr Format kFormat = Format::kQ4_K;
  static constexpr int kSubBlock = 32;
  static constexpr bool kMinima = true;

  LLAMA3_INLINE ScaleCodes scales(const uint8_t* block) { return load_k_scales(block); }

  template <int kPart>
  LLAMA3_INLINE int8x16x4_t weights(const uint8_t* block) {
    const uint8x16_t first = vld1q_u8(block + 16 + 32 * kPart), second = vld1q_u8(block + 32 + 32 * kPart);
    return {{as_signed(low_nibbles(first)), as_signed(low_nibbles(second)), as_signed(high_nibbles(first)),
             as_signed(high_nibbles(second))}};
  }
};

}  // namespace

FormatKernels q4_k_kernels() { return kernels_of<Q4_K>(); }

}  // namespace llama3::neon
