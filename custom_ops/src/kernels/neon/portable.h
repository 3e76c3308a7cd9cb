// Formats without NEON code of their own: the portable code unpacks 256 weights of a row to a buffer, with a scale for
// every 16 weights. None of them has minima.
#pragma once

#include "kernels/neon/format_kernels.h"

namespace llama3::neon {
namespace {

template <Format kFormat>
struct PortableDot {
  using Simd = neon::Simd;
  using RowBlock = Column;
  static constexpr size_t kSuperBlockBytes = super_block_bytes(kFormat);

  template <bool kTail, int kColumns>
  LLAMA3_INLINE void add(const uint8_t* blocks, int count, const Column* columns, int64_t stride, float32x4_t* sums) {
    scalar::Unpacked w;
    scalar::unpack_super_block(kFormat, blocks, count, w);
    for (int i = 0; i < count / 16; i++) {
      const int8x16_t q = vld1q_s8(w.q + 16 * i);
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; c++) {
        const Column& column = columns[c * stride];
        const float32x4_t products = vcvtq_f32_s32(dot(q, vld1q_s8(column.q + 16 * i)));
        sums[c] = vfmaq_n_f32(sums[c], products, w.scale[i] * column.scale[i / 2]);
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
  using Dot = PortableDot<kFormat>;
  return {dequantize_row<kFormat>,
          {multiply_rows<Dot, 1>, multiply_rows<Dot, 2>, multiply_rows<Dot, 3>, multiply_rows<Dot, 4>},
          pack_tile<unpack_row<kFormat>>,
          tile_kernels<TileTraits{.integer_scales = false, .sub_block = 16, .minima = false}>(),
          sizeof(Column)};
}

}  // namespace
}  // namespace llama3::neon
