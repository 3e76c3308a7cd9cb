#include "kernels/neon/quantize.h"

#include <bit>
#include <limits>

#include "kernels/neon/intrinsics.h"

namespace llama3::neon {
namespace {

// Return the bits of the largest magnitude. As integers, magnitudes compare like floats, and NaN is above all of them.
LLAMA3_INLINE uint32_t largest_magnitude(const float* values, int count) {
  uint32x4_t largest = vdupq_n_u32(0);
  for (int i = 0; i < count; i += 4)
    largest = vmaxq_u32(largest, vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(values + i))));
  return vmaxvq_u32(largest);
}

struct Scale {
  float scale, inverse;  // an inverse of 0 makes every integer 0
};

LLAMA3_INLINE Scale scale_for(uint32_t largest_bits) {
  const float largest = std::bit_cast<float>(largest_bits);
  if (largest_bits >= 0x7f800000u) return {std::numeric_limits<float>::quiet_NaN(), 0.0f};
  if (largest < 0x1p-120f) return {0.0f, 0.0f};
  return {largest / 127.0f, 127.0f / largest};
}

LLAMA3_INLINE int16x4_t round_4(const float* values, float inverse) {
  return vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(values), inverse)));
}

// Quantize 16 values. Infinity times 0 is NaN, which converts to 0.
LLAMA3_INLINE int8x16_t round_16(const float* values, float inverse) {
  const int16x8_t low = vcombine_s16(round_4(values, inverse), round_4(values + 4, inverse));
  const int16x8_t high = vcombine_s16(round_4(values + 8, inverse), round_4(values + 12, inverse));
  return vcombine_s8(vqmovn_s16(low), vqmovn_s16(high));
}

void split(int sum, int i, SplitSums& sums) {
  sums.high[i] = static_cast<int8_t>(sum >> 7);
  sums.low[i] = static_cast<int8_t>(sum & 127);
}

}  // namespace

void quantize(const float* values, bool per_32, PackedActivations& packed) {
  Scale scale;
  if (!per_32) scale = scale_for(largest_magnitude(values, kSuperBlock));
  packed.split_32 = {};
  for (int i = 0; i < 8; i++) {
    const float* group = values + 32 * i;
    if (per_32) scale = scale_for(largest_magnitude(group, 32));
    int sums[2];
    for (int half = 0; half < 2; half++) {
      const int8x16_t integers = round_16(group + 16 * half, scale.inverse);
      vst1q_s8(packed.q + 32 * i + 16 * half, integers);
      sums[half] = vaddlvq_s8(integers);
      split(sums[half], 2 * i + half, packed.split_16);
    }
    split(sums[0] + sums[1], i, packed.split_32);
    packed.scale[i] = scale.scale;
    packed.sums_32[i] = scale.scale * static_cast<float>(sums[0] + sums[1]);
  }
}

}  // namespace llama3::neon
