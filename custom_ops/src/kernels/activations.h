// Activations as the integer kernels read them: int8, cut into blocks of 256 values with what the formats need beside
// the integers. A last, shorter block is filled up with zeros.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/formats.h"

namespace llama3 {

inline constexpr int kSuperBlock = 256;  // weights or activations that a kernel takes at once

inline int64_t super_blocks(int64_t K) { return (K + kSuperBlock - 1) / kSuperBlock; }

// Bytes that 256 weights take.
constexpr size_t super_block_bytes(Format format) {
  return static_cast<size_t>(kSuperBlock / info(format).block_weights) * static_cast<size_t>(info(format).block_bytes);
}

// How many activations share a scale: 256 for formats with super-blocks, as in llama.cpp; 32 for the others, whose own
// scales are as fine.
constexpr bool scale_per_32(Format format) { return info(format).block_weights < kSuperBlock; }

// Of the struct F that describes a format to its kernels.
template <class F>
inline constexpr bool kPer32 = scale_per_32(F::kFormat);
template <class F>
inline constexpr int kBlockBytes = info(F::kFormat).block_bytes;

struct alignas(64) ActivationBlock {
  int8_t q[kSuperBlock];  // in order, or in the order that an instruction set unpacks weights to
  // -128 times the sum of each four integers. Multiply instructions want one unsigned operand, so signed weights are
  // passed as w + 128; a sum that starts here ends at the signed result.
  int32_t offset[64];
  float sums_32[16];  // the sum of each 32 values, for minima; only 8 are used, the rest is 0 to fill a register
  float sums_16[16];  // the sum of each 16 values
  float scale[16];    // of each 32 values; only 8 are used
};

// Quantizes `count` <= 256 values. A group that holds a NaN or an infinity gets NaN for its scale; one whose largest
// magnitude is below 2^-120 becomes zero, because 127 / magnitude would overflow.
void quantize_activations(const float* values, int count, bool per_32, ActivationBlock& block);

}  // namespace llama3
