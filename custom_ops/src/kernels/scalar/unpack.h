// What a block of each format says, in one common form: small integers with a scale and a minimum for every 16 weights,
// weight[i] = scale[i / 16] * q[i] - min[i / 16]. Every scale and minimum is exact in float32. This is the truth that
// the vector kernels are tested against, and the way in for formats that have no vector code of their own.
#pragma once

#include <cstdint>

#include "kernels/activations.h"
#include "kernels/formats.h"

namespace llama3::scalar {

// Writes one block: q[block_weights], scale and min[block_weights / 16]. Formats without minima leave `min` alone.
using UnpackBlock = void(const uint8_t* block, int8_t* q, float* scale, float* min);

// Of each format with blocks, not f32, f16, bf16: defined in the file of the format's family.
template <Format format>
void unpack(const uint8_t* block, int8_t* q, float* scale, float* min);
#define LLAMA3_UNPACK(id, ...) \
  template <>                  \
  void unpack<Format::k##id>(const uint8_t* block, int8_t* q, float* scale, float* min);
LLAMA3_FORMATS(LLAMA3_UNPACK)
#undef LLAMA3_UNPACK

// 256 weights of a row, or the last few of it, filled up with zeros.
struct alignas(64) Unpacked {
  int8_t q[kSuperBlock];
  float scale[16];
  float min[16];
};
void unpack_super_block(Format format, const uint8_t* blocks, int count, Unpacked& out);

// `count` weights of a row from its first block on as float32, of any format.
void dequantize(Format format, const uint8_t* row, int64_t count, float* out);

}  // namespace llama3::scalar
