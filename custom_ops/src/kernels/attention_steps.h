// The steps of attention around its products, in plain C++: rotation and append before them, the merge of partial
// softmaxes after them. Each instruction set's file includes this header and compiles its own copy, which the compiler
// vectorizes, so everything here has internal linkage.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/attention_kernels.h"

namespace llama3 {
namespace {

// Compute sine and cosine to 1e-11 for angles up to 2^20 quarter turns, without a branch or a call, so a loop over
// frequencies becomes vector code. Subtract the nearest multiple of pi/2, whose upper 33 bits make the product exact,
// and evaluate Taylor polynomials. The multiple tells which of the two results is the sine, and their signs.
inline void sine_and_cosine(double angle, float& sine, float& cosine) {
  constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
  constexpr double kHalfPiHigh = 0x1.921fb544p+0, kHalfPiLow = 0x1.0b4611a626331p-34;
  constexpr double kRounder = 0x1.8p+52;  // adding it leaves the nearest integer in the low bits
  const double shifted = angle * kTwoOverPi + kRounder;
  const double quarters = shifted - kRounder;
  const uint64_t quadrant = std::bit_cast<uint64_t>(shifted);
  const double r = (angle - quarters * kHalfPiHigh) - quarters * kHalfPiLow;
  const double z = r * r;
  const double s =
      r + r * z * (-1.0 / 6 + z * (1.0 / 120 + z * (-1.0 / 5040 + z * (1.0 / 362880 + z * (-1.0 / 39916800)))));
  const double c =
      1 + z * (-1.0 / 2 +
               z * (1.0 / 24 + z * (-1.0 / 720 + z * (1.0 / 40320 + z * (-1.0 / 3628800 + z * (1.0 / 479001600))))));
  const double sine_magnitude = quadrant & 1 ? c : s;
  const double cosine_magnitude = quadrant & 1 ? s : c;
  sine = static_cast<float>(quadrant & 2 ? -sine_magnitude : sine_magnitude);
  cosine = static_cast<float>((quadrant + 1) & 2 ? -cosine_magnitude : cosine_magnitude);
}

struct Rotation {
  float sine[128], cosine[128];  // up to rope_dim / 2

  Rotation(const AttentionShape& shape, const double* inv_freq, int64_t position) {
    for (int64_t i = 0; i < shape.rope_dim / 2; i++) {
      sine_and_cosine(static_cast<double>(position) * inv_freq[i], sine[i], cosine[i]);
    }
  }

  // Explicit fused operations, so every instruction set appends the same bits to the cache.
  void apply(const AttentionShape& shape, const float* head, float* rotated) const {
    const int64_t half = shape.rope_dim / 2;
    if (shape.interleaved) {
      for (int64_t i = 0; i < half; i++) {
        const float x = head[2 * i], y = head[2 * i + 1];
        rotated[2 * i] = std::fma(x, cosine[i], -(y * sine[i]));
        rotated[2 * i + 1] = std::fma(x, sine[i], y * cosine[i]);
      }
    } else {
      for (int64_t i = 0; i < half; i++) {
        const float x = head[i], y = head[i + half];
        rotated[i] = std::fma(x, cosine[i], -(y * sine[i]));
        rotated[i + half] = std::fma(x, sine[i], y * cosine[i]);
      }
    }
    for (int64_t i = shape.rope_dim; i < shape.head_dim; i++) rotated[i] = head[i];
  }
};

// Store `count` values, a multiple of 8, in the cache.
template <class Simd, class Element>
void store_values(const float* source, int64_t count, Element* target) {
  int64_t i = 0;
  for (; i + Simd::kWidth <= count; i += Simd::kWidth) Simd::store(target + i, Simd::load(source + i));
  if constexpr (Simd::kWidth > 8) {
    if (i < count) Simd::store_half(target + i, Simd::load_half(source + i));
  }
}

template <class Simd, class Element>
void prepare(const AttentionStart& start, int64_t first, int64_t last) {
  const AttentionShape& shape = start.shape;
  const AttentionRow& row = start.row;
  const int64_t head_dim = shape.head_dim, group = shape.num_heads / shape.kv_heads;
  const float score_scale = shape.scale * 1.44269504f;  // log2(e): the softmax uses powers of two
  for (int64_t s = first; s < last; s++) {
    const int64_t position = row.past + s;
    const Rotation rotation(shape, start.inv_freq, position);
    for (int64_t head = 0; head < shape.num_heads; head++) {
      const int64_t place = (head / group * row.length + s) * group + head % group;
      float* query = start.queries + place * start.padded_dim;
      rotation.apply(shape, row.q + (s * shape.num_heads + head) * head_dim, query);
      for (int64_t i = 0; i < head_dim; i++) query[i] *= score_scale;
      for (int64_t i = head_dim; i < start.padded_dim; i++) query[i] = 0;
    }
    for (int64_t head = 0; head < shape.kv_heads; head++) {
      const int64_t source = (s * shape.kv_heads + head) * head_dim;
      const int64_t target = (head * row.capacity + position) * head_dim;
      float key[256];
      rotation.apply(shape, row.k + source, key);
      store_values<Simd>(key, head_dim, static_cast<Element*>(row.keys) + target);
      store_values<Simd>(row.v + source, head_dim, static_cast<Element*>(row.values) + target);
    }
  }
}

inline void merge(const SoftmaxState& first, int64_t row, int64_t count, int64_t stride, int64_t padded_dim,
                  int64_t head_dim, float* target) {
  if (count == 1) {
    const float scale = 1 / first.sum[row];
    for (int64_t i = 0; i < head_dim; i++) target[i] = first.output[row * padded_dim + i] * scale;
    return;
  }
  float max = first.max[row];
  for (int64_t part = 1; part < count; part++) max = std::fmax(max, first.max[part * stride + row]);
  float sum = 0;
  for (int64_t part = 0; part < count; part++) {
    const float weight = std::exp2(first.max[part * stride + row] - max);
    const float* output = first.output + part * stride + row * padded_dim;
    sum = std::fma(weight, first.sum[part * stride + row], sum);
    for (int64_t i = 0; i < head_dim; i++) target[i] = std::fma(weight, output[i], part == 0 ? 0.0f : target[i]);
  }
  for (int64_t i = 0; i < head_dim; i++) target[i] /= sum;
}

}  // namespace
}  // namespace llama3
