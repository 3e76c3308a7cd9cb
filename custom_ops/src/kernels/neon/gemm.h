// Products with many rows of A. A tile of eight weight rows x 256 is unpacked and interleaved once, stays in the
// first-level cache and is multiplied by every row of A. A register holds four consecutive weights of four rows.
#pragma once

#include "kernels/matmul_calls.h"
#include "kernels/neon/formats.h"
#include "kernels/neon/quantize.h"

namespace llama3::neon {

inline constexpr int kTileRows = 8;
inline constexpr int kGroups = 1;    // tiles that a kernel multiplies at once
inline constexpr int kMaxGemmM = 4;  // rows of A at once: 8 integer sums and 8 totals, of 32 registers

// 256 weights of a row. Integer scales are `codes` times `factor`, and integer minima `min_codes` times `min_factor`.
struct alignas(64) UnpackedRow {
  int8_t q[kSuperBlock];
  union {
    int32_t codes[16];
    float scale[16];
  };
  union {
    int8_t min_codes[32];  // 8 or 16 of them
    float min[8];
  };
  float factor, min_factor;
};
using UnpackRow = void(const uint8_t* blocks, int weights, UnpackedRow& out);

// The same for eight rows.
struct alignas(64) Tile {
  int8_t q[64][kTileRows][4];
  union {
    int32_t codes[16][kTileRows];
    float scale[16][kTileRows];
  };
  union {
    int8_t min_codes[8][kTileRows][4];
    float min[8][kTileRows];
  };
  float factor[kTileRows], min_factor[kTileRows];
};

using GemmCall = llama3::GemmCall<Tile, PackedActivations>;
using GemmKernel = void(const GemmCall& call);

// The properties that select a format's kernels, one for each number of rows of A.
struct GemmTraits {
  bool integer_scales;
  int sub_block;
  bool minima;
};

// Return the kernels for 1, 2, ... kMaxGemmM rows of A. Formats with the same traits share them. gemm.cc compiles them
// for the traits in use; others do not link.
template <GemmTraits T>
GemmKernel* const* gemm_kernels();

// Transpose four rows into a group of four lanes of a tile, and copy their factors.
void pack_rows(const UnpackedRow (&rows)[4], int group, Tile& tile);

// Fill a tile with rows from `unpack`.
template <UnpackRow* unpack>
void pack_tile(const uint8_t* rows, size_t row_bytes, int valid_rows, int weights, Tile& tile) {
  UnpackedRow unpacked[4] = {};
  for (int r = 0; r < kTileRows; r++) {
    unpack(rows + static_cast<size_t>(r < valid_rows ? r : valid_rows - 1) * row_bytes, weights, unpacked[r % 4]);
    if (r % 4 == 3) pack_rows(unpacked, r / 4, tile);
  }
}

}  // namespace llama3::neon
