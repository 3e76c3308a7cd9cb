// iq1_s to iq3_s: each index selects four or eight weights from a grid, and most formats store signs separately.
// iq4_xs: four-bit indices into a codebook.
#include "kernels/codebooks.h"
#include "kernels/neon/format_kernels.h"
#include "kernels/neon/portable.h"

namespace llama3::neon {
namespace {

// iq4_xs: eight sub-blocks of 32 nibbles that index a codebook, with 6-bit scales.
struct IQ4_XS {
  static constexpr Format kFormat = Format::kIQ4_XS;
  static constexpr int kSubBlock = 32;
  static constexpr bool kMinima = false;

  LLAMA3_INLINE ScaleCodes scales(const uint8_t* block) {
    // Each scale is a nibble in bytes 4 to 7 and a bit pair in bytes 2 and 3, minus 32.
    const uint8x16_t nibbles = vreinterpretq_u8_u32(vdupq_n_u32(load<uint32_t>(block + 4)));
    const uint16x8_t pairs = vdupq_n_u16(load<uint16_t>(block + 2));
    const int16x8_t places = {0, -2, -4, -6, -8, -10, -12, -14};
    const uint16x8_t low = vmovl_u8(vget_low_u8(vzip1q_u8(low_nibbles(nibbles), high_nibbles(nibbles))));
    const uint16x8_t high = vandq_u16(vshlq_u16(pairs, places), vdupq_n_u16(3));
    const uint16x8_t six = vorrq_u16(low, vshlq_n_u16(high, 4));
    const int16x8_t codes = vsubq_s16(vreinterpretq_s16_u16(six), vdupq_n_s16(32));
    return {{vmovl_s16(vget_low_s16(codes)), vmovl_high_s16(codes)}, vdupq_n_s8(0), load_half(block), 0};
  }

  template <int kPart>
  LLAMA3_INLINE int8x16x4_t weights(const uint8_t* block) {
    const int8x16_t codebook = vld1q_s8(kCodebookIQ4);
    const uint8x16_t first = vld1q_u8(block + 8 + 32 * kPart), second = vld1q_u8(block + 24 + 32 * kPart);
    return {{vqtbl1q_s8(codebook, low_nibbles(first)), vqtbl1q_s8(codebook, high_nibbles(first)),
             vqtbl1q_s8(codebook, low_nibbles(second)), vqtbl1q_s8(codebook, high_nibbles(second))}};
  }
};

}  // namespace

template <>
FormatKernels kernels_for<Format::kIQ4_XS>() {
  return kernels_of<IQ4_XS>();
}

template <>
FormatKernels kernels_for<Format::kIQ1_S>() {
  return portable_kernels<Format::kIQ1_S>();
}

template <>
FormatKernels kernels_for<Format::kIQ1_M>() {
  return portable_kernels<Format::kIQ1_M>();
}

template <>
FormatKernels kernels_for<Format::kIQ2_XXS>() {
  return portable_kernels<Format::kIQ2_XXS>();
}

template <>
FormatKernels kernels_for<Format::kIQ2_XS>() {
  return portable_kernels<Format::kIQ2_XS>();
}

template <>
FormatKernels kernels_for<Format::kIQ2_S>() {
  return portable_kernels<Format::kIQ2_S>();
}

template <>
FormatKernels kernels_for<Format::kIQ3_XXS>() {
  return portable_kernels<Format::kIQ3_XXS>();
}

template <>
FormatKernels kernels_for<Format::kIQ3_S>() {
  return portable_kernels<Format::kIQ3_S>();
}

}  // namespace llama3::neon
