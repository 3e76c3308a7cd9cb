// q2_k: 16 sub-blocks of 16 weights of two bits; 32 bytes hold 128 weights.
#include "kernels/neon/format_kernels.h"

namespace llama3::neon {
namespace {

struct Q2_K {
  static constexpr Format kFormat = Format::kQ2_K;
  static constexpr int kSubBlock = 16;
  static constexpr bool kMinima = true;

  LLAMA3_INLINE ScaleCodes scales(const uint8_t* block) {
    const uint8x16_t codes = vld1q_u8(block);
    ScaleCodes result;
    widen(as_signed(low_nibbles(codes)), result.codes);
    result.min_codes = as_signed(high_nibbles(codes));
    result.factor = load_half(block + 80);
    result.min_factor = load_half(block + 82);
    return result;
  }

  template <int kPart>
  LLAMA3_INLINE int8x16x4_t weights(const uint8_t* block) {
    constexpr int kShift = kPart % 2 * 4;
    const uint8_t* bytes = block + 16 + 32 * (kPart / 2);
    const uint8x16_t first = vld1q_u8(bytes), second = vld1q_u8(bytes + 16);
    return {{as_signed(bits_of<kShift>(first, 3)), as_signed(bits_of<kShift>(second, 3)),
             as_signed(bits_of<kShift + 2>(first, 3)), as_signed(bits_of<kShift + 2>(second, 3))}};
  }
};

}  // namespace

FormatKernels q2_k_kernels() { return kernels_of<Q2_K>(); }

}  // namespace llama3::neon
