// Attention in plain C++, with sums in double precision. Every other instruction set is tested against it, and it runs
// if none of them is supported.
#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/attention_kernels.h"
#include "kernels/attention_steps.h"
#include "kernels/half.h"

namespace llama3::scalar {
namespace {

// Convert to IEEE half precision, rounded to nearest even. The additions do the rounding: if the unit in the last place
// of a sum is that of the half, the bits below it are dropped.
uint16_t float_to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and above
  if (magnitude < 0x38800000) {                       // below 2^-14: subnormal, in units of 2^-24
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | ((rounded >> 13) - (112 << 10)));
}

// The vector of one value for attention_steps.h.
struct Simd {
  static constexpr int kWidth = 1;
  static float load(const float* source) { return *source; }
  static void store(float* target, float value) { *target = value; }
  static void store(uint16_t* target, float value) { *target = float_to_half(value); }
};

float decode(float value) { return value; }
float decode(uint16_t value) { return half_to_float(value); }

template <class Element>
void attend(const AttentionBlock& block) {
  for (int64_t row = 0; row < block.rows; row++) {
    const float* query = block.queries + row * block.padded_dim;
    const int64_t visible = block.first_position + row / block.group + 1;
    double max = block.state.max[row], sum = 0, output[256] = {};
    for (int64_t position = block.begin; position < std::min(block.end, visible); position++) {
      const Element* key = static_cast<const Element*>(block.keys) + position * block.head_dim;
      const Element* value = static_cast<const Element*>(block.values) + position * block.head_dim;
      double score = 0;
      for (int64_t i = 0; i < block.head_dim; i++) score += static_cast<double>(query[i]) * decode(key[i]);
      if (score > max) {
        const double rescale = std::exp2(max - score);
        sum *= rescale;
        for (int64_t i = 0; i < block.head_dim; i++) output[i] *= rescale;
        max = score;
      }
      const double weight = std::exp2(score - max);
      sum += weight;
      for (int64_t i = 0; i < block.head_dim; i++) output[i] += weight * decode(value[i]);
    }
    block.state.max[row] = static_cast<float>(max);
    // The state's maximum is rounded, so rescale the weights to it.
    const double rescale = std::exp2(max - block.state.max[row]);
    block.state.sum[row] = static_cast<float>(sum * rescale);
    for (int64_t i = 0; i < block.head_dim; i++) {
      block.state.output[row * block.padded_dim + i] = static_cast<float>(output[i] * rescale);
    }
  }
}

}  // namespace

const AttentionKernels kAttention[2] = {
    {prepare<Simd, uint16_t>, attend<uint16_t>, attend<uint16_t>, merge},
    {prepare<Simd, float>, attend<float>, attend<float>, merge},
};

}  // namespace llama3::scalar
