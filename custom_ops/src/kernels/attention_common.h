// Shared code of attention_rows.h and attention_tiles.h, mainly one block of an online softmax. Compiled once per
// instruction set, with internal linkage. A `Simd` is a class of static functions on one vector of floats: see
// avx512/simd.h.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/attention_kernels.h"
#include "kernels/inline.h"

namespace llama3 {
namespace {

// The minimax polynomial of degree 5 for 2^f, f in [-0.5, 0.5]. Its relative error is 2e-7, including float32's
// rounding. `exp2` of each Simd adds the integer part.
inline constexpr float kExp2[6] = {1.0f, 0.693147004f, 0.240222424f, 0.0555073358f, 0.00967151299f, 0.00132647273f};

// Set the scores from index `visible` on to -infinity, in whole vectors: loading a vector right after storing a part of
// it waits until the store reaches the cache.
template <class Simd>
inline void hide(float* scores, int64_t visible, int64_t count) {
  for (int64_t i = count - Simd::kWidth; i >= 0 && i + Simd::kWidth > visible; i -= Simd::kWidth) {
    Simd::store(scores + i, Simd::keep_first(Simd::load(scores + i), visible - i, -INFINITY));
  }
}

// Turn a row's scores for `count` positions into weights, and add them to the row's state. Scores from index `visible`
// on count as -infinity. `count` is a multiple of the vector's width. The maximum ignores a NaN score, but its weight
// is NaN and so is the sum from then on.
template <class Simd>
inline void softmax_block(float* scores, int64_t visible, int64_t count, int64_t row, const AttentionBlock& block) {
  using Vector = typename Simd::Vector;
  hide<Simd>(scores, visible, count);
  Vector maxima = Simd::load(scores);
  for (int64_t i = Simd::kWidth; i < count; i += Simd::kWidth) maxima = Simd::max(Simd::load(scores + i), maxima);
  const float max = Simd::max_of(maxima);
  float& max_so_far = block.state.max[row];
  float& sum = block.state.sum[row];
  if (max > max_so_far) {
    const Vector rescale = Simd::exp2(Simd::broadcast(max_so_far - max));
    max_so_far = max;
    sum *= Simd::first(rescale);
    float* output = block.state.output + row * block.padded_dim;
    for (int64_t i = 0; i < block.padded_dim; i += Simd::kWidth) {
      Simd::store(output + i, Simd::multiply(Simd::load(output + i), rescale));
    }
  }
  const Vector subtrahend = Simd::broadcast(max_so_far);
  Vector sums = Simd::zero();
  for (int64_t i = 0; i < count; i += Simd::kWidth) {
    const Vector weights = Simd::exp2(Simd::subtract(Simd::load(scores + i), subtrahend));
    Simd::store(scores + i, weights);
    sums = Simd::add(sums, weights);
  }
  sum += Simd::sum_of(sums);
}

// Load kWidth values of a head from index i on as float32, with zeros past the head's end. `head_dim` is a multiple of
// 8.
template <class Simd, class Element>
inline typename Simd::Vector load_padded(const Element* head, int64_t i, int64_t head_dim) {
  if (i + Simd::kWidth <= head_dim) return Simd::load(head + i);
  if constexpr (Simd::kWidth > 8) {
    if (i < head_dim) return Simd::load_half(head + i);
  }
  return Simd::zero();
}

// Prefetch memory into the first-level cache, or into the second-level cache with Locality 2.
template <int Locality = 3>
LLAMA3_INLINE void prefetch(const void* begin, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(begin) + i, 0, Locality);
}

}  // namespace
}  // namespace llama3
