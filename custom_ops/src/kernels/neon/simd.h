// Vectors of 4 floats for the kernels that compute in float32.
#pragma once

#include <arm_neon.h>

#include <algorithm>
#include <cstdint>

#include "kernels/attention_common.h"

namespace llama3::neon {
namespace {

struct Simd {
  using Vector = float32x4_t;
  static constexpr int kWidth = 4;
  static constexpr int kRowsAtOnce = 4;     // query rows x 4 vectors, and 4 of keys or values: 20 registers
  static constexpr int kTileVectors = 4;    // x 6 rows, and as many operands: 28 registers
  static constexpr int kWeightVectors = 3;  // x 6 rows of A, and the operands of a step: 27 registers

  static Vector zero() { return vdupq_n_f32(0); }
  static Vector broadcast(float value) { return vdupq_n_f32(value); }
  static Vector load(const float* source) { return vld1q_f32(source); }
  static Vector load(const uint16_t* source) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(source))); }
  static Vector load_bfloat(const uint16_t* source) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(source), 16)); }
  static void store(float* target, Vector v) { vst1q_f32(target, v); }
  static void store(uint16_t* target, Vector v) { vst1_u16(target, vreinterpret_u16_f16(vcvt_f16_f32(v))); }

  static Vector add(Vector a, Vector b) { return vaddq_f32(a, b); }
  static Vector subtract(Vector a, Vector b) { return vsubq_f32(a, b); }
  static Vector multiply(Vector a, Vector b) { return vmulq_f32(a, b); }
  static Vector multiply_add(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
  // If one operand is NaN, return the other.
  static Vector max(Vector a, Vector b) { return vmaxnmq_f32(a, b); }

  // Keep the first `count` values (none if it is negative) and replace the rest with `other`.
  static Vector keep_first(Vector v, int64_t count, float other) {
    const int32x4_t index = {0, 1, 2, 3};
    const uint32x4_t kept = vcgtq_s32(vdupq_n_s32(static_cast<int>(std::max<int64_t>(count, 0))), index);
    return vbslq_f32(kept, v, broadcast(other));
  }

  static float first(Vector v) { return vgetq_lane_f32(v, 0); }
  static float max_of(Vector v) { return vmaxnmvq_f32(v); }
  static float sum_of(Vector v) { return vaddvq_f32(v); }
  // target[i] = the sum of v[i], for 4 vectors.
  static void store_sums(float* target, const Vector* v) {
    vst1q_f32(target, vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3])));
  }

  // Return 2^x for x <= 0, 0 below -125 (a subnormal result would cost hundreds of cycles), NaN for NaN.
  static Vector exp2(Vector x) {
    const Vector least = vdupq_n_f32(-125.0f);
    const uint32x4_t vanishes = vcltq_f32(x, least);
    x = vmaxq_f32(least, x);
    const Vector whole = vrndnq_f32(x);
    const Vector fraction = vsubq_f32(x, whole);
    Vector power = vdupq_n_f32(kExp2[5]);
    for (int i = 4; i >= 0; i--) power = vfmaq_f32(vdupq_n_f32(kExp2[i]), power, fraction);
    const int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(whole), vdupq_n_s32(127));
    power = vmulq_f32(power, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(power), vanishes));
  }

  static void transpose(Vector* rows) {
    const float32x4x2_t low = vtrnq_f32(rows[0], rows[1]), high = vtrnq_f32(rows[2], rows[3]);
    rows[0] = vcombine_f32(vget_low_f32(low.val[0]), vget_low_f32(high.val[0]));
    rows[1] = vcombine_f32(vget_low_f32(low.val[1]), vget_low_f32(high.val[1]));
    rows[2] = vcombine_f32(vget_high_f32(low.val[0]), vget_high_f32(high.val[0]));
    rows[3] = vcombine_f32(vget_high_f32(low.val[1]), vget_high_f32(high.val[1]));
  }
  // columns[i] = value i of each row, for 4 values. Rows are `stride` values apart.
  static void transpose_4(const float* rows, int64_t stride, Vector* columns) {
    for (int r = 0; r < 4; r++) columns[r] = load(rows + r * stride);
    transpose(columns);
  }
};

}  // namespace
}  // namespace llama3::neon
