// Attention of a few query rows: keys and values stream from the cache once, in its own layout, for all rows that share
// them. The values of a block of positions are prefetched while its keys are read, and the next block's keys while the
// values are read. This keeps a second memory stream busy where the hardware's prefetchers stop, at each change.
// Compiled once per instruction set, with internal linkage.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/attention_common.h"
#include "kernels/attention_kernels.h"
#include "kernels/inline.h"

namespace llama3 {
namespace {

// Keys and values of this many positions (16 KB for heads of 128 float16) fit in the first-level cache together.
// Smaller blocks cost more in softmax, larger ones 5% in memory speed.
inline constexpr int64_t kRowPositions = 32;

// The dimension of a head. If it is fixed, the code is compiled for it, with every loop over it unrolled; 0 is any
// dimension.
template <int64_t FixedDim>
struct Dimensions {
  int64_t head, padded;  // padded: of queries and outputs
  explicit Dimensions(const AttentionBlock& block)
      : head(FixedDim ? FixedDim : block.head_dim), padded(FixedDim ? FixedDim : block.padded_dim) {}
};

// scores[h][p] = query row h times the key at position p, for 4 positions at a time. The last position is repeated past
// `count`.
template <class Simd, class Element, int Rows, class Dims>
inline void score_rows(Dims dims, const float* queries, const Element* keys, const Element* to_fetch, int64_t count,
                       float* scores) {
  using Vector = typename Simd::Vector;
  const int64_t head_dim = dims.head;
  for (int64_t position = 0; position < count; position += 4) {
    const Element* key[4];
    for (int64_t p = 0; p < 4; p++) key[p] = keys + std::min(position + p, count - 1) * head_dim;
    Vector sums[Rows][4];
    for (int row = 0; row < Rows; row++)
      for (int p = 0; p < 4; p++) sums[row][p] = Simd::zero();
    const auto step = [&](int64_t i, auto load) LLAMA3_ALWAYS_INLINE {
      // Prefetch a few lines per step, only into the second level: the first can handle 16 misses at a time.
      if (to_fetch) prefetch<2>(to_fetch + position * head_dim + 4 * i, 4 * Simd::kWidth * int64_t{sizeof(Element)});
      Vector k[4];
      for (int p = 0; p < 4; p++) k[p] = load(key[p] + i);
      for (int row = 0; row < Rows; row++) {
        const Vector q = Simd::load(queries + row * dims.padded + i);
        for (int p = 0; p < 4; p++) sums[row][p] = Simd::multiply_add(q, k[p], sums[row][p]);
      }
    };
    int64_t i = 0;
    for (; i + Simd::kWidth <= head_dim; i += Simd::kWidth) {
      step(i, [](const Element* at) LLAMA3_ALWAYS_INLINE { return Simd::load(at); });
    }
    if constexpr (Simd::kWidth > 8) {
      if (i < head_dim) step(i, [](const Element* at) LLAMA3_ALWAYS_INLINE { return Simd::load_half(at); });
    }
    for (int row = 0; row < Rows; row++) Simd::store_sums(scores + row * kRowPositions + position, sums[row]);
  }
}

// output[h] += weights[h][p] * value at p, over all positions, for `Vectors` vectors of each row.
template <class Simd, class Element, int Rows, int Vectors, class Dims>
inline void add_values(Dims dims, const float* weights, const Element* values, const Element* to_fetch, int64_t count,
                       float* output) {
  using Vector = typename Simd::Vector;
  Vector sums[Rows][Vectors];
  for (int row = 0; row < Rows; row++)
    for (int v = 0; v < Vectors; v++) sums[row][v] = Simd::load(output + row * dims.padded + v * Simd::kWidth);
  for (int64_t position = 0; position < count; position++) {
    const Element* value = values + position * dims.head;
    if (to_fetch) prefetch(to_fetch + position * dims.head, Vectors * Simd::kWidth * int64_t{sizeof(Element)});
    Vector loaded[Vectors];
    for (int v = 0; v < Vectors; v++) loaded[v] = Simd::load(value + v * Simd::kWidth);
    for (int row = 0; row < Rows; row++) {
      const Vector weight = Simd::broadcast(weights[row * kRowPositions + position]);
      for (int v = 0; v < Vectors; v++) sums[row][v] = Simd::multiply_add(weight, loaded[v], sums[row][v]);
    }
  }
  for (int row = 0; row < Rows; row++)
    for (int v = 0; v < Vectors; v++) Simd::store(output + row * dims.padded + v * Simd::kWidth, sums[row][v]);
}

// Add the last 8 values of a head that ends in half a vector.
template <class Simd, class Element, int Rows, class Dims>
inline void add_last_values(Dims dims, const float* weights, const Element* values, int64_t count, float* output) {
  for (int row = 0; row < Rows; row++) {
    typename Simd::Vector sum = Simd::load(output + row * dims.padded);
    for (int64_t position = 0; position < count; position++) {
      const auto weight = Simd::broadcast(weights[row * kRowPositions + position]);
      sum = Simd::multiply_add(weight, Simd::load_half(values + position * dims.head), sum);
    }
    Simd::store(output + row * dims.padded, sum);
  }
}

template <class Simd, class Element, int Rows, class Dims>
inline void add_value_rows(Dims dims, const float* weights, const Element* values, const Element* to_fetch,
                           int64_t count, float* output) {
  int64_t i = 0;
  const auto add = [&]<int Vectors>() {
    for (; i + Vectors * Simd::kWidth <= dims.head; i += Vectors * Simd::kWidth) {
      const Element* fetch = to_fetch ? to_fetch + i : nullptr;
      add_values<Simd, Element, Rows, Vectors>(dims, weights, values + i, fetch, count, output + i);
    }
  };
  add.template operator()<4>();
  add.template operator()<1>();
  if constexpr (Simd::kWidth > 8) {
    if (i < dims.head) add_last_values<Simd, Element, Rows>(dims, weights, values + i, count, output + i);
  }
}

// Call work<n>(first) for slices of n rows, with as many rows at a time as the registers hold.
template <int Rows, class Work>
inline void for_slices(int64_t rows, const Work& work) {
  int64_t row = 0;
  for (; row + Rows <= rows; row += Rows) work.template operator()<Rows>(row);
  if constexpr (Rows > 1) {
    for_slices<Rows / 2>(rows - row, [&]<int N>(int64_t slice) { work.template operator()<N>(row + slice); });
  }
}

template <class Simd, class Element, int64_t FixedDim>
void attend_rows_of(const AttentionBlock& block) {
  const Dimensions<FixedDim> dims(block);
  auto* weights = reinterpret_cast<float*>(block.workspace);  // [rows, kRowPositions]
  // No values come before the first keys to prefetch them.
  prefetch(static_cast<const Element*>(block.keys) + block.begin * dims.head,
           std::min(kRowPositions, block.end - block.begin) * dims.head * int64_t{sizeof(Element)});
  for (int64_t begin = block.begin; begin < block.end; begin += kRowPositions) {
    const int64_t count = std::min(kRowPositions, block.end - begin);
    const Element* keys = static_cast<const Element*>(block.keys) + begin * dims.head;
    const Element* values = static_cast<const Element*>(block.values) + begin * dims.head;
    const Element* next_keys = keys + kRowPositions * dims.head;
    for_slices<Simd::kRowsAtOnce>(block.rows, [&]<int Rows>(int64_t row) {
      score_rows<Simd, Element, Rows>(dims, block.queries + row * dims.padded, keys, row == 0 ? values : nullptr, count,
                                      weights + row * kRowPositions);
    });
    const int64_t padded_count = round_up(count, Simd::kWidth);
    for (int64_t row = 0; row < block.rows; row++) {
      const int64_t visible = block.first_position + row / block.group + 1 - begin;
      softmax_block<Simd>(weights + row * kRowPositions, std::min(visible, count), padded_count, row, block);
    }
    for_slices<Simd::kRowsAtOnce>(block.rows, [&]<int Rows>(int64_t row) {
      add_value_rows<Simd, Element, Rows>(dims, weights + row * kRowPositions, values, row == 0 ? next_keys : nullptr,
                                          count, block.state.output + row * dims.padded);
    });
  }
}

template <class Simd, class Element>
void attend_rows(const AttentionBlock& block) {
  switch (block.head_dim) {
    case 64:
      return attend_rows_of<Simd, Element, 64>(block);
    case 128:
      return attend_rows_of<Simd, Element, 128>(block);
    default:
      return attend_rows_of<Simd, Element, 0>(block);
  }
}

}  // namespace
}  // namespace llama3
