#include "kernels/activations.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace llama3 {

void quantize_activations(const float* values, int count, bool per_32, ActivationBlock& block) {
  block = {};
  const int group = per_32 ? 32 : kSuperBlock;
  for (int begin = 0; begin < count; begin += group) {
    const int end = std::min(begin + group, count);
    // Magnitudes compare like their bits, with NaN above all. Comparing floats would lose a NaN.
    uint32_t largest_bits = 0;
    for (int i = begin; i < end; i++)
      largest_bits = std::max(largest_bits, std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu);
    const float largest = std::bit_cast<float>(largest_bits);
    float scale = largest / 127.0f;
    if (largest_bits >= 0x7f800000u) {
      scale = std::numeric_limits<float>::quiet_NaN();
    } else if (largest < 0x1p-120f) {
      scale = 0.0f;
    } else {
      const float inverse = 127.0f / largest;
      for (int i = begin; i < end; i++) block.q[i] = static_cast<int8_t>(std::nearbyint(values[i] * inverse));
    }
    std::fill(block.scale + begin / 32, block.scale + (begin + group) / 32, scale);
  }
  for (int i = 0; i < 64; i++)
    block.offset[i] = -128 * (block.q[4 * i] + block.q[4 * i + 1] + block.q[4 * i + 2] + block.q[4 * i + 3]);
  for (int i = 0; i < 8; i++) {
    int halves[2] = {0, 0};
    for (int k = 0; k < 32; k++) halves[k / 16] += block.q[32 * i + k];
    block.sums_16[2 * i] = block.scale[i] * static_cast<float>(halves[0]);
    block.sums_16[2 * i + 1] = block.scale[i] * static_cast<float>(halves[1]);
    block.sums_32[i] = block.scale[i] * static_cast<float>(halves[0] + halves[1]);
  }
}

}  // namespace llama3
