// Products with few rows of A: each weight is read once, in the file's order, unpacked in registers and multiplied by
// each row. Compiled once per instruction set, with internal linkage. A `Dot` says how to multiply a format:
//
//   Simd, GemvActivations, kSuperBlockBytes, and
//   add<kTail, kM>(const uint8_t* blocks, int count, const GemvActivations* a, int64_t stride, Simd::Vector* sums):
//     sums[m] += `count` weights, 256 unless kTail, times block a[m * stride], spread over the lanes
#pragma once

#include "kernels/activations.h"
#include "kernels/matmul_calls.h"

namespace llama3 {
namespace {

// How many bytes ahead of the current weight to prefetch, into the second-level cache and the first. Rows follow each
// other in memory, so this reaches into the next rows.
inline constexpr size_t kFarAhead = 4096, kNearAhead = 512;
inline constexpr size_t kShortRow = 1024;  // bytes

template <class Dot, int kRows, int kM>
inline void gemv_group(const GemvCall<typename Dot::GemvActivations>& call, int64_t first) {
  using Simd = typename Dot::Simd;
  typename Simd::Vector sums[kRows][kM];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
    for (int m = 0; m < kM; m++) sums[r][m] = Simd::zero();
  constexpr size_t kBytes = Dot::kSuperBlockBytes;
  const uint8_t* rows = call.rows + static_cast<size_t>(first) * call.row_bytes;
  const int64_t whole = call.K / kSuperBlock;
  for (int64_t b = 0; b < whole; b++)
#pragma GCC unroll 4
    for (int r = 0; r < kRows; r++) {
      const uint8_t* blocks = rows + static_cast<size_t>(r) * call.row_bytes + static_cast<size_t>(b) * kBytes;
      for (size_t line = 0; line < kBytes; line += 64) {
        __builtin_prefetch(blocks + kFarAhead + line, 0, 2);
        __builtin_prefetch(blocks + kNearAhead + line);
      }
      Dot::template add<false, kM>(blocks, kSuperBlock, call.A + b, call.stride, sums[r]);
    }
  if (const int rest = static_cast<int>(call.K % kSuperBlock))
    for (int r = 0; r < kRows; r++)
      Dot::template add<true, kM>(rows + static_cast<size_t>(r) * call.row_bytes + static_cast<size_t>(whole) * kBytes,
                                  rest, call.A + whole, call.stride, sums[r]);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
    for (int m = 0; m < kM; m++)
      call.output[m * call.output_stride + first + r] =
          Simd::sum_of(sums[r][m]) + (call.bias ? call.bias[first + r] : 0.0f);
}

// Multiply long rows one at a time, to read and prefetch memory in one stream. Multiply short rows in groups, to
// overlap their sums over the lanes.
template <class Dot, int kM>
void gemv(const GemvCall<typename Dot::GemvActivations>& call, int64_t count) {
  constexpr int kGroup = kM == 1 ? 4 : 2;
  int64_t n = 0;
  if (call.row_bytes <= kShortRow)
    for (; n + kGroup <= count; n += kGroup) gemv_group<Dot, kGroup, kM>(call, n);
  for (; n < count; n++) gemv_group<Dot, 1, kM>(call, n);
}

}  // namespace
}  // namespace llama3
