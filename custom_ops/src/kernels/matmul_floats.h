// Products in float32: of f32, f16 and bf16 weights, and of dequantized weights if activations stay float32. Compiled
// once per instruction set, with internal linkage. `Simd` is a class of static functions on one vector of floats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/activations.h"
#include "kernels/gemv.h"
#include "kernels/matmul.h"
#include "kernels/matmul_calls.h"

namespace llama3 {
namespace {

inline constexpr int kMaxFloatM = 6;  // rows of A in a register tile

// How to load a vector of weights from an address.
template <Format format>
struct FloatWeights;
template <>
struct FloatWeights<Format::kF32> {
  static constexpr int kBytes = 4;
  template <class Simd>
  static typename Simd::Vector load(const uint8_t* at) {
    return Simd::load(reinterpret_cast<const float*>(at));
  }
};
template <>
struct FloatWeights<Format::kF16> {
  static constexpr int kBytes = 2;
  template <class Simd>
  static typename Simd::Vector load(const uint8_t* at) {
    return Simd::load(reinterpret_cast<const uint16_t*>(at));
  }
};
template <>
struct FloatWeights<Format::kBF16> {
  static constexpr int kBytes = 2;
  template <class Simd>
  static typename Simd::Vector load(const uint8_t* at) {
    return Simd::load_bfloat(reinterpret_cast<const uint16_t*>(at));
  }
};

using F32Weights = FloatWeights<Format::kF32>;

// Load the last weights of a row, fewer than a vector, padded with zeros.
template <class Simd, class Weights>
inline typename Simd::Vector load_tail(const uint8_t* at, int64_t count) {
  uint8_t padded[Simd::kWidth * Weights::kBytes] = {};
  std::memcpy(padded, at, static_cast<size_t>(count) * Weights::kBytes);
  return Weights::template load<Simd>(padded);
}

// Implement Dequantize for a format without blocks.
template <class Simd, class Weights>
inline void to_floats(const uint8_t* row, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + Simd::kWidth <= count; i += Simd::kWidth)
    Simd::store(out + i, Weights::template load<Simd>(row + Weights::kBytes * i));
  if (i < count) Simd::store(out + i, load_tail<Simd, Weights>(row + Weights::kBytes * i, count - i));
}

// Multiply one weight row by kM rows of A. Each product goes to output[m * stride].
template <class Simd, class Weights, int kM>
inline void dot_row(const uint8_t* row, int64_t K, const float* A, float bias, float* output, int64_t stride) {
  using Vector = typename Simd::Vector;
  // Independent sums, always the same number, so a row's result does not depend on other rows.
  constexpr int kChains = Simd::kRowsAtOnce;
  constexpr int64_t kStep = kChains * Simd::kWidth;
  Vector sums[kM][kChains];
#pragma GCC unroll 4
  for (int m = 0; m < kM; m++)
#pragma GCC unroll 4
    for (int i = 0; i < kChains; i++) sums[m][i] = Simd::zero();
  int64_t k = 0;
  for (; k + kStep <= K; k += kStep)
#pragma GCC unroll 4
    for (int i = 0; i < kChains; i++) {
      const int64_t first = k + i * Simd::kWidth;
      const uint8_t* at = row + Weights::kBytes * first;
      __builtin_prefetch(at + kFarAhead, 0, 2);
      __builtin_prefetch(at + kNearAhead);
      const Vector w = Weights::template load<Simd>(at);
#pragma GCC unroll 4
      for (int m = 0; m < kM; m++) sums[m][i] = Simd::multiply_add(w, Simd::load(A + m * K + first), sums[m][i]);
    }
  for (; k < K; k += Simd::kWidth) {
    const int64_t count = K - k < Simd::kWidth ? K - k : Simd::kWidth;
    const Vector w = load_tail<Simd, Weights>(row + Weights::kBytes * k, count);
#pragma GCC unroll 4
    for (int m = 0; m < kM; m++) {
      const Vector a = load_tail<Simd, F32Weights>(reinterpret_cast<const uint8_t*>(A + m * K + k), count);
      sums[m][0] = Simd::multiply_add(w, a, sums[m][0]);
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < kM; m++) {
#pragma GCC unroll 4
    for (int i = 1; i < kChains; i++) sums[m][0] = Simd::add(sums[m][0], sums[m][i]);
    output[m * stride] = Simd::sum_of(sums[m][0]) + bias;
  }
}

template <class Simd, class Weights>
inline void dot_rows(const uint8_t* row, int64_t K, const float* A, int64_t M, float bias, float* output,
                     int64_t stride) {
  int64_t m = 0;
  for (; m + 4 <= M; m += 4) dot_row<Simd, Weights, 4>(row, K, A + m * K, bias, output + m * stride, stride);
  for (; m < M; m++) dot_row<Simd, Weights, 1>(row, K, A + m * K, bias, output + m * stride, stride);
}

// Return the bytes of scratch memory for multiply_float_rows: a dequantized row.
inline size_t float_row_scratch_bytes(int64_t K) {
  return static_cast<size_t>(super_blocks(K)) * kSuperBlock * sizeof(float);
}

// Compute rows first to first + count - 1 of the product for few rows of A. Each weight is read once.
template <class Simd>
inline void multiply_float_rows(const Product& product, Dequantize* dequantize, int64_t first, int64_t count,
                                const float* A, int64_t M, std::byte* scratch) {
  const Matrix& weight = product.weight;
  const int64_t K = weight.cols;
  for (int64_t n = first; n < first + count; n++) {
    const uint8_t* row = weight.data + static_cast<size_t>(n) * weight.row_bytes();
    const float bias = product.bias ? product.bias[n] : 0.0f;
    float* output = product.output + n;
    if (weight.format == Format::kF16) {
      dot_rows<Simd, FloatWeights<Format::kF16>>(row, K, A, M, bias, output, weight.rows);
    } else if (weight.format == Format::kBF16) {
      dot_rows<Simd, FloatWeights<Format::kBF16>>(row, K, A, M, bias, output, weight.rows);
    } else if (weight.format == Format::kF32) {
      dot_rows<Simd, F32Weights>(row, K, A, M, bias, output, weight.rows);
    } else {
      dequantize(row, K, reinterpret_cast<float*>(scratch));
      dot_rows<Simd, F32Weights>(reinterpret_cast<const uint8_t*>(scratch), K, A, M, bias, output, weight.rows);
    }
  }
}

// A tile of weight rows x 256: `rows` has a vector's width of them as they are, `weights` has all of them transposed.
template <class Simd>
struct alignas(64) FloatTile {
  static constexpr int kRows = Simd::kWeightVectors * Simd::kWidth;
  float rows[Simd::kWidth][kSuperBlock];
  float weights[kSuperBlock][kRows];
};

// Add the products of `count` weights to sums [row of A][kRows].
template <class Simd, int kM>
inline void multiply_float_block(const FloatTile<Simd>& tile, const float* A, int64_t K, int count, float* sums) {
  using Vector = typename Simd::Vector;
  constexpr int kVectors = Simd::kWeightVectors, kRows = FloatTile<Simd>::kRows;
  Vector totals[kM][kVectors];
#pragma GCC unroll 6
  for (int m = 0; m < kM; m++)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) totals[m][v] = Simd::load(sums + m * kRows + v * Simd::kWidth);
  for (int k = 0; k < count; k++) {
    Vector w[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) w[v] = Simd::load(tile.weights[k] + v * Simd::kWidth);
#pragma GCC unroll 6
    for (int m = 0; m < kM; m++) {
      const Vector a = Simd::broadcast(A[m * K + k]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) totals[m][v] = Simd::multiply_add(w[v], a, totals[m][v]);
    }
  }
#pragma GCC unroll 6
  for (int m = 0; m < kM; m++)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) Simd::store(sums + m * kRows + v * Simd::kWidth, totals[m][v]);
}

// Return the bytes of scratch memory for multiply_float_tile: a tile and its sums.
template <class Simd>
inline size_t float_tile_scratch_bytes(int64_t M) {
  return sizeof(FloatTile<Simd>) + static_cast<size_t>(M) * FloatTile<Simd>::kRows * sizeof(float);
}

// Compute rows first to first + count - 1 of the product for many rows of A; count <= FloatTile::kRows.
template <class Simd>
inline void multiply_float_tile(const Product& product, Dequantize* dequantize, int64_t first, int64_t count,
                                const float* A, int64_t M, std::byte* scratch) {
  using Vector = typename Simd::Vector;
  constexpr int kWidth = Simd::kWidth, kRows = FloatTile<Simd>::kRows;
  auto& tile = *reinterpret_cast<FloatTile<Simd>*>(scratch);
  auto* sums = reinterpret_cast<float*>(scratch + sizeof tile);
  const Matrix& weight = product.weight;
  const FormatInfo& layout = info(weight.format);
  const int64_t K = weight.cols;
  const RowBlocks blocks(M, kMaxFloatM);
  constexpr decltype(&multiply_float_block<Simd, 1>) kMultiply[kMaxFloatM] = {
      multiply_float_block<Simd, 1>, multiply_float_block<Simd, 2>, multiply_float_block<Simd, 3>,
      multiply_float_block<Simd, 4>, multiply_float_block<Simd, 5>, multiply_float_block<Simd, 6>};
  std::memset(sums, 0, static_cast<size_t>(M) * kRows * sizeof(float));
  for (int64_t begin = 0; begin < K; begin += kSuperBlock) {
    const int length = static_cast<int>(K - begin < kSuperBlock ? K - begin : kSuperBlock);
    for (int row = 0; row < kRows; row += kWidth) {
      for (int r = 0; r < kWidth; r++) {
        const int64_t n = row + r < count ? first + row + r : first;  // past the end: any row
        const uint8_t* from = weight.data + static_cast<size_t>(n) * weight.row_bytes();
        dequantize(from + begin / layout.block_weights * layout.block_bytes, length, tile.rows[r]);
      }
      for (int k = 0; k < length; k += 4) {
        Vector transposed[4];
        Simd::transpose_4(tile.rows[0] + k, kSuperBlock, transposed);
        for (int i = 0; i < 4; i++) Simd::store(tile.weights[k + i] + row, transposed[i]);
      }
    }
    for (int64_t block = 0; block < blocks.count; block++) {
      const int64_t m = blocks.first(block);
      kMultiply[blocks.width_of(block) - 1](tile, A + m * K + begin, K, length, sums + m * kRows);
    }
  }
  for (int64_t m = 0; m < M; m++)
    for (int64_t r = 0; r < count; r++)
      product.output[m * weight.rows + first + r] =
          sums[m * kRows + r] + (product.bias ? product.bias[first + r] : 0.0f);
}

}  // namespace
}  // namespace llama3
