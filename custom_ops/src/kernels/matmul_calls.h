// The kernels of a vector instruction set for one weight format, called by the driver (matmul_driver.h): gemv for few
// rows of A (up to kMaxGemvM at once) and gemm for many. Packed activations are 256 values of a row of A, quantized and
// in the layout that gemv or gemm reads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/formats.h"

namespace llama3 {

inline constexpr int kMaxGemvM = 4;  // rows of A

// A product of weight rows, each of row_bytes, and a few rows of A. Block b of 256 values of row m is A[m * stride +
// b].
template <class GemvActivations>
struct GemvCall {
  const uint8_t* rows;
  size_t row_bytes;
  int64_t K;
  const GemvActivations* A;
  int64_t stride;
  const float* bias;  // of the first row, or null
  float* output;      // row m of A times weight row r goes to output[m * output_stride + r]
  int64_t output_stride;
};

// A product of a few tiles, each of some weight rows x 256, and the same 256 values of some rows of A.
template <class Tile, class GemmActivations>
struct GemmCall {
  const Tile* tiles;
  const GemmActivations* activations;  // of as many rows of A as the kernel is for
  int weights;                         // 256, or fewer at a row's end: a multiple of 32
  float* sums;                         // [row of A][stride]; the kernel adds to those of the tiles' rows
  int64_t stride;
};

// Dequantize `count` weights from the first block of `row` on. `out` has room for a whole multiple of 256 weights.
using Dequantize = void(const uint8_t* row, int64_t count, float* out);

template <class GemvActivations, class Tile, class GemmActivations>
struct FormatKernels {
  using Gemv = void(const GemvCall<GemvActivations>& call, int64_t count);
  // Rows past the last valid one repeat it.
  using PackTile = void(const uint8_t* rows, size_t row_bytes, int valid_rows, int weights, Tile& tile);
  using Gemm = void(const GemmCall<Tile, GemmActivations>& call);

  Dequantize* dequantize;
  // Only for formats with blocks; f32, f16 and bf16 are multiplied as they are (matmul_floats.h).
  Gemv* gemv[kMaxGemvM] = {};  // for 1, 2, ... rows of A
  PackTile* pack_tile = nullptr;
  Gemm* const* gemm = nullptr;   // for 1, 2, ... rows of A, as many as fit in the registers
  int64_t activation_bytes = 0;  // at the start of each packed block, read by gemm
};

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of A in nearly equal blocks of at most max_width, the wider ones first.
struct RowBlocks {
  int64_t count, width, wider;
  RowBlocks(int64_t rows, int64_t max_width)
      : count(divide_up(rows, max_width)), width(rows / count), wider(rows % count) {}
  int64_t first(int64_t block) const { return block * width + std::min(block, wider); }
  int64_t width_of(int64_t block) const { return width + (block < wider); }
};

}  // namespace llama3
