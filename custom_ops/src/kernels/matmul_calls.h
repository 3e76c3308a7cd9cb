// What a vector instruction set makes for one weight format, and the driver (matmul_driver.h) calls: kernels for few
// rows of A (gemv, up to kMaxGemvM of them at once) and for many (gemm). Packed activations are 256 values of a row of
// A, quantized and laid out as one of the two reads them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/formats.h"

namespace llama3 {

inline constexpr int kMaxGemvM = 4;  // rows of A

// Weight rows of row_bytes each times a few rows of A: block b of 256 values of row m is A[m * stride + b].
template <class GemvActivations>
struct GemvCall {
  const uint8_t* rows;
  size_t row_bytes;
  int64_t K;
  const GemvActivations* A;
  int64_t stride;
  const float* bias;  // of the first row, or null
  float* output;      // of row m of A and weight row r at output[m * output_stride + r]
  int64_t output_stride;
};

// A few tiles, each of some weight rows x 256, times the same 256 values of some rows of A.
template <class Tile, class GemmActivations>
struct GemmCall {
  const Tile* tiles;
  const GemmActivations* activations;  // as many as the kernel is for
  int weights;                         // 256, or fewer at a row's end: a multiple of 32
  float* sums;                         // [row of A][stride]: those of the tiles' rows are added to
  int64_t stride;
};

// `count` weights from the first block of `row` on. `out` has room for a whole number of 256 weights.
using Dequantize = void(const uint8_t* row, int64_t count, float* out);

template <class GemvActivations, class Tile, class GemmActivations>
struct FormatKernels {
  using Gemv = void(const GemvCall<GemvActivations>& call, int64_t count);
  // Rows past the last valid one repeat it.
  using PackTile = void(const uint8_t* rows, size_t row_bytes, int valid_rows, int weights, Tile& tile);
  using Gemm = void(const GemmCall<Tile, GemmActivations>& call);

  Dequantize* dequantize;
  // Of formats with blocks; f32, f16 and bf16 are multiplied as they are (matmul_floats.h).
  Gemv* gemv[kMaxGemvM] = {};  // for 1, 2, ... rows of A
  PackTile* pack_tile = nullptr;
  Gemm* const* gemm = nullptr;   // for 1, 2, ... rows of A, as many as fit the registers
  int64_t activation_bytes = 0;  // that gemm reads of each packed block, from its beginning
};

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of A cut into nearly equal blocks of at most max_width, the wider ones first.
struct RowBlocks {
  int64_t count, width, wider;
  RowBlocks(int64_t rows, int64_t max_width)
      : count(divide_up(rows, max_width)), width(rows / count), wider(rows % count) {}
  int64_t first(int64_t block) const { return block * width + std::min(block, wider); }
  int64_t width_of(int64_t block) const { return width + (block < wider); }
};

}  // namespace llama3
