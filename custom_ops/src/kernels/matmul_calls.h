// What a vector instruction set makes for one weight format, and the driver (matmul_driver.h) calls: kernels for few
// rows of A and for many. A row of A is a column here, because the kernels compute the product's transpose: weight rows
// times columns.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/formats.h"

namespace llama3 {

inline constexpr int kMaxStreamedColumns = 4;  // columns that a kernel for few rows takes at once

// Weight rows of row_bytes each against columns of A, whose block b of 256 values is A[c * stride + b].
template <class RowBlock>
struct RowsCall {
  const uint8_t* rows;
  size_t row_bytes;
  int64_t K;
  const RowBlock* A;
  int64_t stride;
  const float* bias;  // of the first row, or null
  float* output;      // column c of row r at output[c * output_stride + r]
  int64_t output_stride;
};

// A few tiles, each of some weight rows x 256, against block b of some columns.
template <class Tile, class Column>
struct TileCall {
  const Tile* tiles;
  const Column* columns;  // as many as the kernel is for
  int weights;            // 256, or fewer at a row's end: a multiple of 32
  float* sums;            // [column][stride]: those of the tiles' rows are added to
  int64_t stride;
};

// `count` weights from the first block of `row` on. `out` has room for a whole number of 256 weights.
using Dequantize = void(const uint8_t* row, int64_t count, float* out);

template <class RowBlock, class Tile, class Column>
struct FormatKernels {
  using Rows = void(const RowsCall<RowBlock>& call, int64_t count);
  // Rows past the last valid one repeat it.
  using PackTile = void(const uint8_t* rows, size_t row_bytes, int valid_rows, int weights, Tile& tile);
  using Tiles = void(const TileCall<Tile, Column>& call);

  Dequantize* dequantize;
  // Of formats with blocks; f32, f16 and bf16 are multiplied as they are (matmul_floats.h).
  Rows* rows[kMaxStreamedColumns] = {};  // for 1, 2, ... columns
  PackTile* pack_tile = nullptr;
  Tiles* const* tiles = nullptr;  // for 1, 2, ... columns, as many as fit the registers
  int64_t column_bytes = 0;       // that they read of each column, from its beginning
};

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of A cut into nearly equal blocks of at most max_width, the wider ones first.
struct ColumnBlocks {
  int64_t count, width, wider;
  ColumnBlocks(int64_t rows, int64_t max_width)
      : count(divide_up(rows, max_width)), width(rows / count), wider(rows % count) {}
  int64_t first(int64_t block) const { return block * width + std::min(block, wider); }
  int64_t width_of(int64_t block) const { return width + (block < wider); }
};

}  // namespace llama3
