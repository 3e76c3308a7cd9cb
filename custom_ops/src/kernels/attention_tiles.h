// Attention of many query rows as a pair of matrix products. 64 positions at a time are repacked to let vectors run
// along the positions (scores) or along the head (outputs). Then 6 query rows at a time go through scores, softmax and
// outputs while the repacked block stays in the cache. Compiled once per instruction set, with internal linkage.
//
// A `Products` class defines the multiplication. Its Word is one broadcast operand: a float or a pair of bfloat16.
// Pairs are packed from queries and weights (`pack_row`); floats are used in place.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/attention_common.h"
#include "kernels/attention_kernels.h"
#include "kernels/inline.h"

namespace llama3 {
namespace {

// Products of two float32.
template <class SimdType>
struct FloatProducts {
  using Simd = SimdType;
  using Vector = typename Simd::Vector;
  using Word = float;
  using Operand = Vector;
  static constexpr int64_t kValuesPerWord = 1;

  static Operand load(const Word* words) { return Simd::load(words); }
  static Operand broadcast(const Word* word) { return Simd::broadcast(*word); }
  static Vector multiply_add(Operand a, Operand b, Vector sum) { return Simd::multiply_add(a, b, sum); }

  // words[i][p] = value i of the key at position p; [padded_dim, kTilePositions].
  template <class Element>
  static void pack_keys(const Element* keys, int64_t count, int64_t head_dim, int64_t padded_dim, Word* words) {
    constexpr int64_t kWidth = Simd::kWidth;
    for (int64_t position = 0; position < kTilePositions; position += kWidth) {
      for (int64_t i = 0; i < padded_dim; i += kWidth) {
        Vector square[kWidth];
        for (int64_t p = 0; p < kWidth; p++) {
          const bool exists = position + p < count;
          square[p] = exists ? load_padded<Simd>(keys + (position + p) * head_dim, i, head_dim) : Simd::zero();
        }
        Simd::transpose(square);
        for (int64_t p = 0; p < kWidth; p++) Simd::store(words + (i + p) * kTilePositions + position, square[p]);
      }
    }
  }

  // words[p][i] = value i at position p; [kTilePositions, padded_dim].
  template <class Element>
  static void pack_values(const Element* values, int64_t count, int64_t head_dim, int64_t padded_dim, Word* words) {
    for (int64_t position = 0; position < kTilePositions; position++) {
      for (int64_t i = 0; i < padded_dim; i += Simd::kWidth) {
        const bool exists = position < count;
        Simd::store(words + position * padded_dim + i,
                    exists ? load_padded<Simd>(values + position * head_dim, i, head_dim) : Simd::zero());
      }
    }
  }
};

// c[r][0 to Vectors * kWidth) (+)= sum over w of a[r][w] * b[w], for kTileRows rows.
template <class Products, int Vectors, bool Accumulate>
inline void multiply_tile(const typename Products::Word* a, int64_t a_stride, const typename Products::Word* b,
                          int64_t b_stride, int64_t words, float* c, int64_t c_stride) {
  using Simd = typename Products::Simd;
  typename Simd::Vector sums[kTileRows][Vectors];
  for (int row = 0; row < kTileRows; row++)
    for (int v = 0; v < Vectors; v++)
      sums[row][v] = Accumulate ? Simd::load(c + row * c_stride + v * Simd::kWidth) : Simd::zero();
  for (int64_t w = 0; w < words; w++) {
    typename Products::Operand operands[Vectors];
    for (int v = 0; v < Vectors; v++) operands[v] = Products::load(b + w * b_stride + v * Simd::kWidth);
    for (int row = 0; row < kTileRows; row++) {
      const auto broadcast = Products::broadcast(a + row * a_stride + w);
      for (int v = 0; v < Vectors; v++) sums[row][v] = Products::multiply_add(broadcast, operands[v], sums[row][v]);
    }
  }
  for (int row = 0; row < kTileRows; row++)
    for (int v = 0; v < Vectors; v++) Simd::store(c + row * c_stride + v * Simd::kWidth, sums[row][v]);
}

// The same for any number of columns that is a multiple of the vector's width.
template <class Products, bool Accumulate>
inline void multiply(const typename Products::Word* a, int64_t a_stride, const typename Products::Word* b,
                     int64_t b_stride, int64_t words, float* c, int64_t c_stride, int64_t columns) {
  constexpr int64_t kWidth = Products::Simd::kWidth;
  int64_t column = 0;
  const auto sweep = [&]<int Vectors>() {
    for (; column + Vectors * kWidth <= columns; column += Vectors * kWidth) {
      multiply_tile<Products, Vectors, Accumulate>(a, a_stride, b + column, b_stride, words, c + column, c_stride);
    }
  };
  sweep.template operator()<Products::Simd::kTileVectors>();
  if constexpr (Products::Simd::kTileVectors > 2) sweep.template operator()<2>();
  sweep.template operator()<1>();
}

template <class Products, class Element>
void attend_tiles(const AttentionBlock& block) {
  using Simd = typename Products::Simd;
  using Word = typename Products::Word;
  constexpr int64_t kPack = Products::kValuesPerWord;
  const int64_t head_dim = block.head_dim, padded_dim = block.padded_dim;
  const int64_t dim_words = padded_dim / kPack, position_words = kTilePositions / kPack;
  const int64_t padded_rows = round_up(block.rows, kTileRows);

  auto* scores = reinterpret_cast<float*>(block.workspace);        // [kTileRows, kTilePositions]
  Word* weights = reinterpret_cast<Word*>(scores);                 // [kTileRows, position_words]
  if constexpr (kPack > 1) weights += kTileRows * kTilePositions;  // otherwise weights replace scores
  Word* keys = weights + kTileRows * position_words;               // [dim_words, kTilePositions]
  Word* values = keys + dim_words * kTilePositions;                // [position_words, padded_dim]
  const Word* queries;                                             // [padded_rows, dim_words]
  if constexpr (kPack > 1) {
    Word* packed = values + position_words * padded_dim;
    Products::pack_row(block.queries, padded_rows * padded_dim, packed);
    queries = packed;
  } else {
    queries = block.queries;
  }

  for (int64_t begin = block.begin; begin < block.end; begin += kTilePositions) {
    const int64_t count = std::min(kTilePositions, block.end - begin);
    const Element* cached_keys = static_cast<const Element*>(block.keys) + begin * head_dim;
    const Element* cached_values = static_cast<const Element*>(block.values) + begin * head_dim;
    Products::pack_keys(cached_keys, count, head_dim, padded_dim, keys);
    Products::pack_values(cached_values, count, head_dim, padded_dim, values);
    const int64_t next = std::clamp<int64_t>(block.end - begin - kTilePositions, 0, kTilePositions) * head_dim;
    for (int64_t tile = 0; tile < padded_rows; tile += kTileRows) {
      // Prefetch the next block's keys and values, in equal parts.
      const int64_t from = next * tile / padded_rows, to = next * (tile + kTileRows) / padded_rows;
      for (const Element* part : {cached_keys, cached_values}) {
        prefetch<2>(part + kTilePositions * head_dim + from, (to - from) * int64_t{sizeof(Element)});
      }
      const auto visible_to = [&](int64_t row) {
        return std::min(count, block.first_position + std::min(row, block.rows - 1) / block.group + 1 - begin);
      };
      const int64_t visible = visible_to(tile + kTileRows - 1);  // for the last row, which sees the most
      if (visible <= 0) continue;
      const int64_t columns = round_up(visible, Simd::kWidth);
      multiply<Products, false>(queries + tile * dim_words, dim_words, keys, kTilePositions, dim_words, scores,
                                kTilePositions, columns);
      const auto softmax = [&](int64_t positions) LLAMA3_ALWAYS_INLINE {
        for (int64_t row = 0; row < kTileRows; row++) {
          float* row_scores = scores + row * kTilePositions;
          softmax_block<Simd>(row_scores, visible_to(tile + row), positions, tile + row, block);
          if constexpr (kPack > 1) Products::pack_row(row_scores, positions, weights + row * position_words);
        }
      };
      // Nearly every tile sees the whole block, so let the compiler know the number of positions for these.
      if (columns == kTilePositions) {
        softmax(kTilePositions);
      } else {
        softmax(columns);
      }
      multiply<Products, true>(weights, position_words, values, padded_dim, (visible + kPack - 1) / kPack,
                               block.state.output + tile * padded_dim, padded_dim, padded_dim);
    }
  }
}

}  // namespace
}  // namespace llama3
