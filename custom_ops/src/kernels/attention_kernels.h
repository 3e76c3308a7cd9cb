// The kernels that an instruction set provides for attention.h, and the pieces of work that attention.cc passes to
// them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/attention.h"

namespace llama3 {

// Every query row is padded with zeros to a multiple of this many values, so kernels need no code for tails.
inline constexpr int64_t kDimMultiple = 32;
// Rows of states and of workspaces are padded to a multiple of the height of a register tile.
inline constexpr int64_t kTileRows = 6;
// Positions that a tile kernel repacks at a time.
inline constexpr int64_t kTilePositions = 64;

// The first step of a row: rotation and append.
struct AttentionStart {
  const AttentionShape& shape;
  const double* inv_freq;
  const AttentionRow& row;
  float* queries;  // [kv_heads, length, group, padded_dim]: rotated, times scale * log2(e)
  int64_t padded_dim;
};

// An online softmax over the positions so far: a row's weights are 2^(score - max), `sum` is their sum, and `output` is
// the weighted sum of the values. Partial states merge into the state of all their positions.
struct SoftmaxState {
  float* max;     // [padded_rows]
  float* sum;     // [padded_rows]
  float* output;  // [padded_rows, padded_dim]
};

// One work item: rows of queries that share a KV head, over a range of its positions.
struct AttentionBlock {
  // [rows, padded_dim]; row = query * group + head, so neighbors see the same positions. Up to padded_rows can be read.
  const float* queries;
  int64_t rows;
  int64_t group;
  int64_t head_dim;
  int64_t padded_dim;
  const void* keys;        // of this KV head, [capacity, head_dim]
  const void* values;      // of this KV head, [capacity, head_dim]
  int64_t first_position;  // of the first query, which sees the positions 0 to first_position
  int64_t begin, end;      // the range of positions, begin < end
  SoftmaxState state;      // in and out
  std::byte* workspace;    // workspace_bytes(rows, padded_dim), aligned to 64
};

constexpr int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Return enough bytes for every kernel: repacked queries, scores, and one block of repacked keys and values, all
// counted as float32.
constexpr size_t workspace_bytes(int64_t rows, int64_t padded_dim) {
  const int64_t padded_rows = round_up(rows, kTileRows);
  return sizeof(float) * static_cast<size_t>(padded_rows * (padded_dim + kTilePositions) +
                                             2 * kTilePositions * padded_dim + 2 * kTileRows * kTilePositions);
}

struct AttentionKernels {
  // Rotate the queries of the new tokens first to last - 1 into start.queries, and append their keys and values.
  void (*prepare)(const AttentionStart& start, int64_t first, int64_t last);
  // For a few rows: stream keys and values in the cache's layout.
  void (*attend_rows)(const AttentionBlock& block);
  // For many rows: repack keys and values for a matrix product.
  void (*attend_tiles)(const AttentionBlock& block);
  // Merge one row of `count` partial states into `target`, in this order; `stride` is the number of floats between
  // states.
  void (*merge)(const SoftmaxState& first, int64_t row, int64_t count, int64_t stride, int64_t padded_dim,
                int64_t head_dim, float* target);
};

// Each instruction set's kernels, indexed by CacheType.
namespace scalar {
extern const AttentionKernels kAttention[2];
}
namespace neon {
extern const AttentionKernels kAttention[2];
}
namespace avx2 {
extern const AttentionKernels kAttention[2];
}
namespace avx512 {
extern const AttentionKernels kAttention[2];
}
// AVX-512 with bfloat16 products of tiles over a float16 cache.
namespace avx512_bf16 {
extern const AttentionKernels kAttention[2];
}

// Run `attention` with the kernels of one instruction set, which the processor must support; for tests.
void attention_with(const AttentionKernels& kernels, const AttentionShape& shape, CacheType type,
                    const double* inv_freq, std::span<const AttentionRow> rows, Parallel& parallel, std::byte* scratch);

}  // namespace llama3
