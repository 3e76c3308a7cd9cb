#include "kernels/scalar/unpack.h"

#include <algorithm>

#include "kernels/half.h"

namespace llama3::scalar {

UnpackBlock* unpack_block(Format format) {
  switch (format) {
    case Format::kF32:
    case Format::kF16:
    case Format::kBF16:
      return nullptr;
    case Format::kQ4_0:
      return unpack_q4_0;
    case Format::kQ4_1:
      return unpack_q4_1;
    case Format::kQ5_0:
      return unpack_q5_0;
    case Format::kQ5_1:
      return unpack_q5_1;
    case Format::kQ8_0:
      return unpack_q8_0;
    case Format::kQ2_K:
      return unpack_q2_k;
    case Format::kQ3_K:
      return unpack_q3_k;
    case Format::kQ4_K:
      return unpack_q4_k;
    case Format::kQ5_K:
      return unpack_q5_k;
    case Format::kQ6_K:
      return unpack_q6_k;
    case Format::kIQ4_NL:
      return unpack_iq4_nl;
    case Format::kIQ4_XS:
      return unpack_iq4_xs;
    case Format::kMXFP4:
      return unpack_mxfp4;
    case Format::kIQ1_S:
      return unpack_iq1_s;
    case Format::kIQ1_M:
      return unpack_iq1_m;
    case Format::kIQ2_XXS:
      return unpack_iq2_xxs;
    case Format::kIQ2_XS:
      return unpack_iq2_xs;
    case Format::kIQ2_S:
      return unpack_iq2_s;
    case Format::kIQ3_XXS:
      return unpack_iq3_xxs;
    case Format::kIQ3_S:
      return unpack_iq3_s;
    case Format::kNVFP4:
      return unpack_nvfp4;
    case Format::kTQ1_0:
      return unpack_tq1_0;
    case Format::kTQ2_0:
      return unpack_tq2_0;
  }
  return nullptr;
}

void unpack_super_block(Format format, const uint8_t* blocks, int count, Unpacked& out) {
  const FormatInfo& row = info(format);
  UnpackBlock* unpack = unpack_block(format);
  out = {};
  for (int begin = 0; begin < count; begin += row.block_weights, blocks += row.block_bytes)
    unpack(blocks, out.q + begin, out.scale + begin / 16, out.min + begin / 16);
}

namespace {

float float_at(Format format, const uint8_t* row, int64_t i) {
  if (format == Format::kF32) return load<float>(row + 4 * i);
  if (format == Format::kF16) return half_at(row + 2 * i);
  return bfloat_to_float(load<uint16_t>(row + 2 * i));
}

}  // namespace

void dequantize(Format format, const uint8_t* row, int64_t count, float* out) {
  if (is_float(format)) {
    for (int64_t i = 0; i < count; i++) out[i] = float_at(format, row, i);
    return;
  }
  const size_t super_bytes = super_block_bytes(format);
  for (int64_t begin = 0; begin < count; begin += kSuperBlock, row += super_bytes) {
    const int n = static_cast<int>(std::min<int64_t>(kSuperBlock, count - begin));
    Unpacked weights;
    unpack_super_block(format, row, n, weights);
    for (int i = 0; i < n; i++)
      out[begin + i] = weights.scale[i / 16] * static_cast<float>(weights.q[i]) - weights.min[i / 16];
  }
}

}  // namespace llama3::scalar
