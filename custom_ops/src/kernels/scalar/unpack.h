// Blocks of every format in one common form: small integers with a scale and a minimum per 16 weights, weight[i] =
// scale[i / 16] * q[i] - min[i / 16]. Every scale and minimum is exact in float32. The vector kernels are tested
// against this, and formats without vector code go through it.
#pragma once

#include <cstdint>

#include "kernels/activations.h"
#include "kernels/formats.h"

namespace llama3::scalar {

// Write one block: q[block_weights], scale and min[block_weights / 16]. Formats without minima do not touch `min`.
using UnpackBlock = void(const uint8_t* block, int8_t* q, float* scale, float* min);

// Unpack a block of a format, but not f32, f16 or bf16. Defined in the file of the format's family.
template <Format format>
void unpack(const uint8_t* block, int8_t* q, float* scale, float* min);
#define LLAMA3_UNPACK(id, ...) \
  template <>                  \
  void unpack<Format::k##id>(const uint8_t* block, int8_t* q, float* scale, float* min);
LLAMA3_FORMATS(LLAMA3_UNPACK)
#undef LLAMA3_UNPACK

// 256 weights of a row, or its last few, padded with zeros.
struct alignas(64) Unpacked {
  int8_t q[kSuperBlock];
  float scale[16];
  float min[16];
};
void unpack_super_block(Format format, const uint8_t* blocks, int count, Unpacked& out);

// Dequantize `count` weights of a row, in any format, from its first block on.
void dequantize(Format format, const uint8_t* row, int64_t count, float* out);

}  // namespace llama3::scalar
