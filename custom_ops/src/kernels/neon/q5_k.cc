// q5_k: as q4_k, with a fifth bit of each weight in 32 bytes before the nibbles; bit j belongs to sub-block j.
#include "kernels/neon/format_kernels.h"
#include "kernels/neon/k_scales.h"

namespace llama3::neon {
namespace {

struct Q5_K {
  static constexpr Format kFormat = Format::kQ5_K;
  static constexpr int kSubBlock = 32;
  static constexpr bool kMinima = true;

  LLAMA3_INLINE ScaleCodes scales(const uint8_t* block) { return load_k_scales(block); }

  template <int kPart>
  LLAMA3_INLINE int8x16x4_t weights(const uint8_t* block) {
    const uint8x16_t first = vld1q_u8(block + 48 + 32 * kPart), second = vld1q_u8(block + 64 + 32 * kPart);
    const uint8x16_t first_bits = vld1q_u8(block + 16), second_bits = vld1q_u8(block + 32);
    return {{with_bit<2 * kPart>(low_nibbles(first), first_bits), with_bit<2 * kPart>(low_nibbles(second), second_bits),
             with_bit<2 * kPart + 1>(high_nibbles(first), first_bits),
             with_bit<2 * kPart + 1>(high_nibbles(second), second_bits)}};
  }

  template <int kBit>
  LLAMA3_INLINE int8x16_t with_bit(uint8x16_t nibbles, uint8x16_t bits) {
    return as_signed(vorrq_u8(nibbles, vshlq_n_u8(bits_of<kBit>(bits, 1), 4)));
  }
};

}  // namespace

FormatKernels q5_k_kernels() { return kernels_of<Q5_K>(); }

}  // namespace llama3::neon
