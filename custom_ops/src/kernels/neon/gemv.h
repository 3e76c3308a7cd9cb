// Products with few rows of A (see kernels/gemv.h): 256 weights are unpacked in registers and multiplied by each row.
#pragma once

#include "kernels/neon/formats.h"
#include "kernels/neon/quantize.h"
#include "kernels/neon/simd.h"

namespace llama3::neon {

LLAMA3_INLINE int32x4_t dot(int8x16_t w, int8x16_t a) { return vdotq_s32(vdupq_n_s32(0), w, a); }
LLAMA3_INLINE int32x4_t dot(int8x16_t w0, int8x16_t a0, int8x16_t w1, int8x16_t a1) {
  return vdotq_s32(dot(w0, a0), w1, a1);
}

// ---- Super-blocks

// totals[m] += code * w * a over 64 weights, spread over the lanes.
template <class F, int kPart, int kM>
LLAMA3_INLINE void add_part(const uint8_t* block, const ScaleCodes& scales, const PackedActivations* activations,
                            int64_t stride, int32x4_t (&totals)[kM]) {
  const int8x16x4_t w = F::template weights<kPart>(block);
#pragma GCC unroll 4
  for (int m = 0; m < kM; m++) {
    const int8x16x4_t a = vld1q_s8_x4(activations[m * stride].q + 64 * kPart);
    int32x4_t& total = totals[m];
    if constexpr (F::kSubBlock == 32) {
      const int32x4_t codes = scales.codes[kPart / 2];
      total = vmlaq_laneq_s32(total, dot(w.val[0], a.val[0], w.val[1], a.val[1]), codes, kPart % 2 * 2);
      total = vmlaq_laneq_s32(total, dot(w.val[2], a.val[2], w.val[3], a.val[3]), codes, kPart % 2 * 2 + 1);
    } else {
      const int32x4_t codes = scales.codes[kPart];
      total = vmlaq_laneq_s32(total, dot(w.val[0], a.val[0]), codes, 0);
      total = vmlaq_laneq_s32(total, dot(w.val[1], a.val[1]), codes, 1);
      total = vmlaq_laneq_s32(total, dot(w.val[2], a.val[2]), codes, 2);
      total = vmlaq_laneq_s32(total, dot(w.val[3], a.val[3]), codes, 3);
    }
  }
}

// Return the sum of minimum codes times the sums of their sub-blocks' activations, spread over the lanes.
template <class F>
LLAMA3_INLINE int32x4_t dot_of_minima(int8x16_t min_codes, const PackedActivations& packed) {
  const SplitSums& sums = F::kSubBlock == 32 ? packed.split_32 : packed.split_16;
  const int32x4_t high = vshlq_n_s32(dot(min_codes, vld1q_s8(sums.high)), 7);
  return vdotq_s32(high, min_codes, vld1q_s8(sums.low));
}

template <class F, int kM>
LLAMA3_INLINE void add_super_block(const uint8_t* block, const PackedActivations* activations, int64_t stride,
                                   float32x4_t* sums) {
  const ScaleCodes scales = F::scales(block);
  int32x4_t totals[kM];
  for (int32x4_t& total : totals) total = vdupq_n_s32(0);
  add_part<F, 0>(block, scales, activations, stride, totals);
  add_part<F, 1>(block, scales, activations, stride, totals);
  add_part<F, 2>(block, scales, activations, stride, totals);
  add_part<F, 3>(block, scales, activations, stride, totals);
#pragma GCC unroll 4
  for (int m = 0; m < kM; m++) {
    const PackedActivations& packed = activations[m * stride];
    sums[m] = vfmaq_n_f32(sums[m], vcvtq_f32_s32(totals[m]), scales.factor * packed.scale[0]);
    if constexpr (F::kMinima)
      sums[m] = vfmsq_n_f32(sums[m], vcvtq_f32_s32(dot_of_minima<F>(scales.min_codes, packed)),
                            scales.min_factor * packed.scale[0]);
  }
}

// ---- Blocks of 32

template <class F, int kM>
LLAMA3_INLINE void add_blocks_of_32(const uint8_t* blocks, int count, const PackedActivations* activations,
                                    int64_t stride, float32x4_t* sums) {
  float32x4_t parts[kM];  // separate sums, so super-blocks do not wait for each other
  for (float32x4_t& part : parts) part = vdupq_n_f32(0);
  float minima[8] = {};
#pragma GCC unroll 8
  for (int j = 0; j < 8; j++) {
    if (32 * j >= count) break;  // known at compile time, except at a row's end
    const Block w = F::load(blocks + j * kBlockBytes<F>);
    if constexpr (F::kMinima) minima[j] = w.min;
#pragma GCC unroll 4
    for (int m = 0; m < kM; m++) {
      const PackedActivations& packed = activations[m * stride];
      const int8x16x2_t a = vld1q_s8_x2(packed.q + 32 * j);
      const float32x4_t products = vcvtq_f32_s32(dot(w.low, a.val[0], w.high, a.val[1]));
      parts[m] = vfmaq_n_f32(parts[m], products, w.scale * packed.scale[j]);
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < kM; m++) {
    if constexpr (F::kMinima)
      for (int j = 0; j < 8; j += 4)
        parts[m] = vfmsq_f32(parts[m], vld1q_f32(minima + j), vld1q_f32(activations[m * stride].sums_32 + j));
    sums[m] = vaddq_f32(sums[m], parts[m]);
  }
}

// The `Dot` of format F for kernels/gemv.h.
template <class F>
struct GemvDot {
  using Simd = neon::Simd;
  using GemvActivations = PackedActivations;
  static constexpr size_t kSuperBlockBytes = super_block_bytes(F::kFormat);

  template <bool kTail, int kM>
  LLAMA3_INLINE void add(const uint8_t* blocks, int count, const PackedActivations* activations, int64_t stride,
                         float32x4_t* sums) {
    if constexpr (kIntegerScales<F>)
      add_super_block<F, kM>(blocks, activations, stride, sums);
    else
      add_blocks_of_32<F, kM>(blocks, count, activations, stride, sums);
  }
};

}  // namespace llama3::neon
