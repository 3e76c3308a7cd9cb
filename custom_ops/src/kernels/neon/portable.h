// Formats without their own NEON code: the portable code unpacks 256 weights of a row into a buffer, with a scale for
// every 16 weights. None of these formats has minima.
#pragma once

#include "kernels/neon/format_kernels.h"

namespace llama3::neon {
namespace {

template <Format kFormat>
struct PortableGemvDot {
  using Simd = neon::Simd;
  using GemvActivations = PackedActivations;
  static constexpr size_t kSuperBlockBytes = super_block_bytes(kFormat);

  template <bool kTail, int kM>
  LLAMA3_INLINE void add(const uint8_t* blocks, int count, const PackedActivations* activations, int64_t stride,
                         float32x4_t* sums) {
    scalar::Unpacked w;
    scalar::unpack_super_block(kFormat, blocks, count, w);
    for (int i = 0; i < count / 16; i++) {
      const int8x16_t q = vld1q_s8(w.q + 16 * i);
#pragma GCC unroll 4
      for (int m = 0; m < kM; m++) {
        const PackedActivations& packed = activations[m * stride];
        const float32x4_t products = vcvtq_f32_s32(dot(q, vld1q_s8(packed.q + 16 * i)));
        sums[m] = vfmaq_n_f32(sums[m], products, w.scale[i] * packed.scale[i / 2]);
      }
    }
  }
};

template <Format kFormat>
void unpack_row(const uint8_t* blocks, int weights, UnpackedRow& out) {
  scalar::Unpacked w;
  scalar::unpack_super_block(kFormat, blocks, weights, w);
  std::copy_n(w.q, kSuperBlock, out.q);
  std::copy_n(w.scale, 16, out.scale);
}

template <Format kFormat>
void dequantize_row(const uint8_t* row, int64_t count, float* out) {
  scalar::dequantize(kFormat, row, count, out);
}

template <Format kFormat>
FormatKernels portable_kernels() {
  using Dot = PortableGemvDot<kFormat>;
  return {dequantize_row<kFormat>,
          {gemv<Dot, 1>, gemv<Dot, 2>, gemv<Dot, 3>, gemv<Dot, 4>},
          pack_tile<unpack_row<kFormat>>,
          gemm_kernels<GemmTraits{.integer_scales = false, .sub_block = 16, .minima = false}>(),
          sizeof(PackedActivations)};
}

}  // namespace
}  // namespace llama3::neon
