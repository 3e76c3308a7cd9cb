// Formats without NEON code of their own: the portable code unpacks 256 weights of a row to a buffer, with a scale for
// every 16 weights. None of them has minima.
#include "kernels/neon/format_kernels.h"

namespace llama3::neon {
namespace {

template <int kColumns>
void multiply_row(const RowsCall& call, int64_t n) {
  const FormatInfo& layout = info(call.format);
  const auto super_bytes = static_cast<size_t>(kSuperBlock / layout.block_weights * layout.block_bytes);
  const uint8_t* blocks = call.row(n);
  const Column* columns = call.A;
  float32x4_t sums[kColumns];
  for (float32x4_t& sum : sums) sum = vdupq_n_f32(0);
  for (int64_t begin = 0; begin < call.K; begin += kSuperBlock, blocks += super_bytes, columns += call.stride) {
    const int weights = static_cast<int>(std::min<int64_t>(kSuperBlock, call.K - begin));
    scalar::Unpacked w;
    scalar::unpack_super_block(call.format, blocks, weights, w);
    for (int i = 0; i < weights / 16; i++) {
      const int8x16_t q = vld1q_s8(w.q + 16 * i);
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; c++) {
        const float32x4_t products = vcvtq_f32_s32(dot(q, vld1q_s8(columns[c].q + 16 * i)));
        sums[c] = vfmaq_n_f32(sums[c], products, w.scale[i] * columns[c].scale[i / 2]);
      }
    }
  }
  for (int c = 0; c < kColumns; c++) call.set(n, c, vaddvq_f32(sums[c]));
}

template <int kColumns>
void multiply_rows(const RowsCall& call, int64_t count) {
  for (int64_t n = 0; n < count; n++) multiply_row<kColumns>(call, n);
}

void unpack_row(Format format, const uint8_t* blocks, int weights, UnpackedRow& out) {
  scalar::Unpacked w;
  scalar::unpack_super_block(format, blocks, weights, w);
  std::copy_n(w.q, kSuperBlock, out.q);
  std::copy_n(w.scale, 16, out.scale);
}

}  // namespace

FormatKernels portable_kernels() {
  return {{multiply_rows<1>, multiply_rows<2>, multiply_rows<3>, multiply_rows<4>},
          unpack_row,
          TileKernels<false, 16, false>::for_columns,
          scalar::dequantize};
}

}  // namespace llama3::neon
