// Activations as the integer kernels read them: int8 in blocks of 256 values, with the scales and sums that the formats
// need. A shorter last block is padded with zeros.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/formats.h"

namespace llama3 {

inline constexpr int kSuperBlock = 256;  // weights or activations that a kernel processes at once

inline int64_t super_blocks(int64_t K) { return (K + kSuperBlock - 1) / kSuperBlock; }

// Return the bytes of 256 weights.
constexpr size_t super_block_bytes(Format format) {
  return static_cast<size_t>(kSuperBlock / info(format).block_weights) * static_cast<size_t>(info(format).block_bytes);
}

// Return whether 32 activations share a scale, for formats whose own scales are as fine. For formats with super-blocks,
// 256 share one, as in llama.cpp.
constexpr bool scale_per_32(Format format) { return info(format).block_weights < kSuperBlock; }

// For the struct F that describes a format to its kernels.
template <class F>
inline constexpr bool kPer32 = scale_per_32(F::kFormat);
template <class F>
inline constexpr int kBlockBytes = info(F::kFormat).block_bytes;

struct alignas(64) ActivationBlock {
  int8_t q[kSuperBlock];  // in order, or in the order in which an instruction set unpacks weights
  // -128 times the sum of each four integers. Multiply instructions need one unsigned operand, so signed weights are
  // passed as w + 128, and a sum that starts here ends at the signed result.
  int32_t offset[64];
  float sums_32[16];  // the sum of each 32 values, for minima; only 8 are used, the rest are 0 to fill a register
  float sums_16[16];  // the sum of each 16 values
  float scale[16];    // per 32 values; only 8 are used
};

// Quantize `count` <= 256 values. A group with a NaN or an infinity gets NaN as its scale. A group whose largest
// magnitude is below 2^-120 becomes zero, because 127 / magnitude would overflow.
void quantize_activations(const float* values, int count, bool per_32, ActivationBlock& block);

}  // namespace llama3
