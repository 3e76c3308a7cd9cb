// q3_k: as q2_k without minima, with a third bit of each weight in the first 32 bytes and 6-bit scales.
#include "kernels/neon/format_kernels.h"

namespace llama3::neon {
namespace {

struct Q3_K {
  static constexpr Format kFormat = Format::kQ3_K;
  static constexpr int kSubBlock = 16;
  static constexpr bool kMinima = false;

  LLAMA3_INLINE ScaleCodes scales(const uint8_t* block) {
    // Sixteen scales: nibbles in 8 bytes, bit pairs in 4; they mean themselves less 32.
    const uint8x8_t nibbles = vld1_u8(block + 96);
    const uint8x16_t pairs = vreinterpretq_u8_u32(vdupq_n_u32(load<uint32_t>(block + 104)));
    const int8x16_t places = {0, 0, 0, 0, -2, -2, -2, -2, -4, -4, -4, -4, -6, -6, -6, -6};
    const uint8x16_t low = vcombine_u8(vand_u8(nibbles, vdup_n_u8(15)), vshr_n_u8(nibbles, 4));
    const uint8x16_t high = vandq_u8(vshlq_u8(pairs, places), vdupq_n_u8(3));
    ScaleCodes result;
    widen(minus(vorrq_u8(low, vshlq_n_u8(high, 4)), 32), result.codes);
    result.factor = load_half(block + 108);
    return result;
  }

  template <int kPart>
  LLAMA3_INLINE int8x16x4_t weights(const uint8_t* block) {
    constexpr int kShift = kPart % 2 * 4;
    const uint8_t* bytes = block + 32 + 32 * (kPart / 2);
    const uint8x16_t first = vld1q_u8(bytes), second = vld1q_u8(bytes + 16);
    const uint8x16_t first_bits = vld1q_u8(block), second_bits = vld1q_u8(block + 16);
    return {{combine<kShift, 2 * kPart>(first, first_bits), combine<kShift, 2 * kPart>(second, second_bits),
             combine<kShift + 2, 2 * kPart + 1>(first, first_bits),
             combine<kShift + 2, 2 * kPart + 1>(second, second_bits)}};
  }

  template <int kShift, int kBit>
  LLAMA3_INLINE int8x16_t combine(uint8x16_t low, uint8x16_t high) {
    return minus(vorrq_u8(bits_of<kShift>(low, 3), vshlq_n_u8(bits_of<kBit>(high, 1), 2)), 4);
  }
};

}  // namespace

FormatKernels q3_k_kernels() { return kernels_of<Q3_K>(); }

}  // namespace llama3::neon
