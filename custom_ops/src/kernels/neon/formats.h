// How the NEON kernels load a format. Each format has a struct for this in the file of its family (see legacy.cc and
// k_quants.cc). Weights are signed bytes in the order of the row, as the dot product needs them.
//
// A format with blocks of 32 has
//   kFormat, kMinima, and load(block) -> Block.
// A format with super-blocks of 256 whose scales are small integers times one float has
//   kFormat, kSubBlock (weights per scale: 16 or 32), kMinima, scales(block) -> ScaleCodes, and
//   weights<kPart>(block) -> 64 weights of part 0 to 3.
// The others are unpacked by the portable code (portable.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/neon/intrinsics.h"
#include "kernels/scalar/unpack.h"

namespace llama3::neon {

// Weight = scale * q - min.
struct Block {
  int8x16_t low, high;  // weights 0 to 15 and 16 to 31
  float scale, min;     // min is used only if the format has minima
};

// Weight = factor * code * q - min_factor * min_code, with the codes of the weight's sub-block.
struct ScaleCodes {
  int32x4_t codes[4];   // 16 of them, or 8
  int8x16_t min_codes;  // 16 of them, or 8 followed by zeros
  float factor, min_factor;
};

// Whether products are summed as integers over a whole super-block.
template <class F>
inline constexpr bool kIntegerScales = !kPer32<F>;

// Convert 16 signed bytes to 32-bit integers.
LLAMA3_INLINE void widen(int8x16_t bytes, int32x4_t (&words)[4]) {
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
  words[0] = vmovl_s16(vget_low_s16(low));
  words[1] = vmovl_high_s16(low);
  words[2] = vmovl_s16(vget_low_s16(high));
  words[3] = vmovl_high_s16(high);
}

}  // namespace llama3::neon
