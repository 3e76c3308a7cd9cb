#include "kernels/scalar/unpack.h"

#include <algorithm>

#include "kernels/half.h"

namespace llama3::scalar {
namespace {

UnpackBlock* unpack_block(Format format) {
  static constexpr auto kTable = for_each_format([]<Format of>() -> UnpackBlock* {
    if constexpr (is_float(of))
      return nullptr;
    else
      return unpack<of>;
  });
  return kTable[static_cast<size_t>(format)];
}

float float_at(Format format, const uint8_t* row, int64_t i) {
  if (format == Format::kF32) return load<float>(row + 4 * i);
  if (format == Format::kF16) return half_at(row + 2 * i);
  return bfloat_to_float(load<uint16_t>(row + 2 * i));
}

}  // namespace

void unpack_super_block(Format format, const uint8_t* blocks, int count, Unpacked& out) {
  const FormatInfo& row = info(format);
  UnpackBlock* unpack_one = unpack_block(format);
  out = {};
  for (int begin = 0; begin < count; begin += row.block_weights, blocks += row.block_bytes)
    unpack_one(blocks, out.q + begin, out.scale + begin / 16, out.min + begin / 16);
}

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
