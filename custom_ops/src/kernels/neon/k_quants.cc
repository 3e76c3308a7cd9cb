// q2_k to q6_k: 256 weights in sub-blocks of 16 or 32 with small integer scales (and minima), times a float16.
#include "kernels/neon/format_kernels.h"
#include "kernels/neon/formats.h"

namespace llama3::neon {
namespace {

// Load the scales and minima from the first 16 bytes of a block. The low six bits of bytes 4 to 7 are four scales,
// those of bytes 8 to 11 four minima. Bytes 12 to 15 hold the low nibbles of four more of each, whose upper two bits
// are the top bits of bytes 4 to 11.
LLAMA3_INLINE ScaleCodes load_k_scales(const uint8_t* block) {
  const uint32_t words[3] = {load<uint32_t>(block + 4), load<uint32_t>(block + 8), load<uint32_t>(block + 12)};
  const auto eight = [](uint32_t six_bits, uint32_t nibbles) {
    const uint32_t later = (nibbles & 0x0f0f0f0f) | (six_bits >> 2 & 0x30303030);
    return vcreate_s8((six_bits & 0x3f3f3f3f) | static_cast<uint64_t>(later) << 32);
  };
  const int16x8_t codes = vmovl_s8(eight(words[0], words[2]));
  return {{vmovl_s16(vget_low_s16(codes)), vmovl_high_s16(codes)},
          vcombine_s8(eight(words[1], words[2] >> 4), vdup_n_s8(0)),
          load_half(block),
          load_half(block + 2)};
}

// q2_k: 16 sub-blocks of 16 two-bit weights; 32 bytes hold 128 weights.
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

// q3_k: like q2_k without minima, with a third bit of each weight in the first 32 bytes and 6-bit scales.
struct Q3_K {
  static constexpr Format kFormat = Format::kQ3_K;
  static constexpr int kSubBlock = 16;
  static constexpr bool kMinima = false;

  LLAMA3_INLINE ScaleCodes scales(const uint8_t* block) {
    // Each of the 16 scales is a nibble in 8 bytes and a bit pair in 4 bytes, minus 32.
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

// q4_k: eight sub-blocks of 32 nibbles; 32 bytes hold two of them.
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

// q5_k: like q4_k, with a fifth bit of each weight in 32 bytes before the nibbles; bit j belongs to sub-block j.
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

// q6_k: 16 sub-blocks of 16 weights; each half of the block has 64 bytes of nibbles and 32 bytes of bit pairs.
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

template <>
FormatKernels kernels_for<Format::kQ2_K>() {
  return kernels_of<Q2_K>();
}

template <>
FormatKernels kernels_for<Format::kQ3_K>() {
  return kernels_of<Q3_K>();
}

template <>
FormatKernels kernels_for<Format::kQ4_K>() {
  return kernels_of<Q4_K>();
}

template <>
FormatKernels kernels_for<Format::kQ5_K>() {
  return kernels_of<Q5_K>();
}

template <>
FormatKernels kernels_for<Format::kQ6_K>() {
  return kernels_of<Q6_K>();
}

}  // namespace llama3::neon
