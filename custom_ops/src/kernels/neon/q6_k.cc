// q6_k: 16 sub-blocks of 16 weights; each half of the block has 64 bytes of nibbles and 32 bytes of bit pairs.
#include "kernels/neon/format_kernels.h"

namespace llama3::neon {
namespace {

struct Q6_K {
  static constexpr Format kFormat = Format::kQ6_K;
  static constexpr int kSubBlock = 16;
  static constexpr bool kMinima = false;

  LLAMA3_INLINE ScaleCodes scales(const uint8_t* block) {
    ScaleCodes result;
    widen(as_signed(vld1q_u8(block + 192)), result.codes);
    result.factor = load_half(block + 208);
    return result;
  }

  template <int kPart>
  LLAMA3_INLINE int8x16x4_t weights(const uint8_t* block) {
    constexpr bool kHigh = kPart % 2;
    const uint8_t *low_bits = block + 64 * (kPart / 2), *high_bits = block + 128 + 32 * (kPart / 2);
    const uint8x16_t first = vld1q_u8(high_bits), second = vld1q_u8(high_bits + 16);
    return {{combine<kHigh, 4 * kHigh>(vld1q_u8(low_bits), first),
             combine<kHigh, 4 * kHigh>(vld1q_u8(low_bits + 16), second),
             combine<kHigh, 4 * kHigh + 2>(vld1q_u8(low_bits + 32), first),
             combine<kHigh, 4 * kHigh + 2>(vld1q_u8(low_bits + 48), second)}};
  }

  template <bool kHigh, int kFirstBit>
  LLAMA3_INLINE int8x16_t combine(uint8x16_t low, uint8x16_t high) {
    return minus(vorrq_u8(bits_of<4 * kHigh>(low, 15), vshlq_n_u8(bits_of<kFirstBit>(high, 3), 4)), 32);
  }
};

}  // namespace

FormatKernels q6_k_kernels() { return kernels_of<Q6_K>(); }

}  // namespace llama3::neon
