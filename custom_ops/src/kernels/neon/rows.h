// Few rows of A: every weight is read once, in the file's order, unpacked in registers and multiplied with each row.
#pragma once

#include "kernels/neon/columns.h"
#include "kernels/neon/formats.h"

namespace llama3::neon {

inline constexpr int kMaxColumns = 4;  // rows of A that a row kernel takes at once: columns of the product's transpose

// A call's operands: weight rows of row_bytes each against columns of A, block b of column c at A[b * stride + c].
struct RowsCall {
  Format format;
  const uint8_t* rows;
  size_t row_bytes;
  int64_t K;
  const Column* A;
  int64_t stride;
  const float* bias;  // of the first row, or null
  float* output;      // column c of row r at output[c * output_stride + r]
  int64_t output_stride;

  const uint8_t* row(int64_t r) const { return rows + static_cast<size_t>(r) * row_bytes; }
  void set(int64_t r, int column, float product) const {
    output[column * output_stride + r] = product + (bias ? bias[r] : 0.0f);
  }
};
using RowsKernel = void(const RowsCall& call, int64_t count);

LLAMA3_INLINE int32x4_t dot(int8x16_t w, int8x16_t a) { return vdotq_s32(vdupq_n_s32(0), w, a); }
LLAMA3_INLINE int32x4_t dot(int8x16_t w0, int8x16_t a0, int8x16_t w1, int8x16_t a1) {
  return vdotq_s32(dot(w0, a0), w1, a1);
}

// ---- Super-blocks

// totals[r][c] += code * w * a over 64 weights, spread over the lanes.
template <class F, int kPart, int kRows, int kColumns>
LLAMA3_INLINE void add_part(const uint8_t* const (&blocks)[kRows], const ScaleCodes (&scales)[kRows],
                            const Column* columns, int32x4_t (&totals)[kRows][kColumns]) {
  int8x16x4_t w[kRows];
#pragma GCC unroll 2
  for (int r = 0; r < kRows; r++) w[r] = F::template weights<kPart>(blocks[r]);
#pragma GCC unroll 4
  for (int c = 0; c < kColumns; c++) {
    const int8x16x4_t a = vld1q_s8_x4(columns[c].q + 64 * kPart);
#pragma GCC unroll 2
    for (int r = 0; r < kRows; r++) {
      int32x4_t& total = totals[r][c];
      if constexpr (F::kSubBlock == 32) {
        const int32x4_t codes = scales[r].codes[kPart / 2];
        total = vmlaq_laneq_s32(total, dot(w[r].val[0], a.val[0], w[r].val[1], a.val[1]), codes, kPart % 2 * 2);
        total = vmlaq_laneq_s32(total, dot(w[r].val[2], a.val[2], w[r].val[3], a.val[3]), codes, kPart % 2 * 2 + 1);
      } else {
        const int32x4_t codes = scales[r].codes[kPart];
        total = vmlaq_laneq_s32(total, dot(w[r].val[0], a.val[0]), codes, 0);
        total = vmlaq_laneq_s32(total, dot(w[r].val[1], a.val[1]), codes, 1);
        total = vmlaq_laneq_s32(total, dot(w[r].val[2], a.val[2]), codes, 2);
        total = vmlaq_laneq_s32(total, dot(w[r].val[3], a.val[3]), codes, 3);
      }
    }
  }
}

// The sum of minimum codes times the sums of their sub-blocks' activations, spread over the lanes.
template <class F>
LLAMA3_INLINE int32x4_t dot_of_minima(int8x16_t min_codes, const Column& column) {
  const SplitSums& sums = F::kSubBlock == 32 ? column.split_32 : column.split_16;
  const int32x4_t high = vshlq_n_s32(dot(min_codes, vld1q_s8(sums.high)), 7);
  return vdotq_s32(high, min_codes, vld1q_s8(sums.low));
}

template <class F, int kRows, int kColumns>
LLAMA3_INLINE void multiply_super_blocks(const RowsCall& call, int64_t first) {
  float32x4_t sums[kRows][kColumns];
  for (auto& row : sums)
    for (float32x4_t& sum : row) sum = vdupq_n_f32(0);
  for (int64_t b = 0; b < call.K / kSuperBlock; b++) {
    const Column* columns = call.A + b * call.stride;
    const uint8_t* blocks[kRows];
    ScaleCodes scales[kRows];
    int32x4_t totals[kRows][kColumns];
#pragma GCC unroll 2
    for (int r = 0; r < kRows; r++) {
      blocks[r] = call.row(first + r) + static_cast<size_t>(b) * kBlockBytes<F>;
      scales[r] = F::scales(blocks[r]);
      for (int32x4_t& total : totals[r]) total = vdupq_n_s32(0);
    }
    add_part<F, 0>(blocks, scales, columns, totals);
    add_part<F, 1>(blocks, scales, columns, totals);
    add_part<F, 2>(blocks, scales, columns, totals);
    add_part<F, 3>(blocks, scales, columns, totals);
#pragma GCC unroll 2
    for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; c++) {
        float32x4_t& sum = sums[r][c];
        const float scale = columns[c].scale[0];
        sum = vfmaq_n_f32(sum, vcvtq_f32_s32(totals[r][c]), scales[r].factor * scale);
        if constexpr (F::kMinima)
          sum = vfmsq_n_f32(sum, vcvtq_f32_s32(dot_of_minima<F>(scales[r].min_codes, columns[c])),
                            scales[r].min_factor * scale);
      }
  }
  for (int r = 0; r < kRows; r++)
    for (int c = 0; c < kColumns; c++) call.set(first + r, c, vaddvq_f32(sums[r][c]));
}

// ---- Blocks of 32

template <class F, int kRows, int kColumns>
LLAMA3_INLINE void multiply_blocks_of_32(const RowsCall& call, int64_t first) {
  float32x4_t sums[kRows][kColumns];
  float minima[kRows][kColumns] = {};
  const uint8_t* blocks[kRows];
  for (int r = 0; r < kRows; r++) {
    blocks[r] = call.row(first + r);
    for (float32x4_t& sum : sums[r]) sum = vdupq_n_f32(0);
  }
  const Column* columns = call.A;
  for (int64_t left = call.K / 32; left > 0; left -= 8, columns += call.stride)
    for (int j = 0; j < 8 && j < left; j++) {
      Block w[kRows];
#pragma GCC unroll 2
      for (int r = 0; r < kRows; r++) {
        w[r] = F::load(blocks[r]);
        blocks[r] += kBlockBytes<F>;
      }
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; c++) {
        const int8x16x2_t a = vld1q_s8_x2(columns[c].q + 32 * j);
#pragma GCC unroll 2
        for (int r = 0; r < kRows; r++) {
          const float32x4_t products = vcvtq_f32_s32(dot(w[r].low, a.val[0], w[r].high, a.val[1]));
          sums[r][c] = vfmaq_n_f32(sums[r][c], products, w[r].scale * columns[c].scale[j]);
          if constexpr (F::kMinima) minima[r][c] = __builtin_fmaf(w[r].min, columns[c].sums_32[j], minima[r][c]);
        }
      }
    }
  for (int r = 0; r < kRows; r++)
    for (int c = 0; c < kColumns; c++) call.set(first + r, c, vaddvq_f32(sums[r][c]) - minima[r][c]);
}

// Two rows at once, which share the loads of activations.
template <class F, int kColumns>
void multiply_rows(const RowsCall& call, int64_t count) {
  int64_t n = 0;
  if constexpr (kIntegerScales<F>) {
    for (; n + 2 <= count; n += 2) multiply_super_blocks<F, 2, kColumns>(call, n);
    if (n < count) multiply_super_blocks<F, 1, kColumns>(call, n);
  } else {
    for (; n + 2 <= count; n += 2) multiply_blocks_of_32<F, 2, kColumns>(call, n);
    if (n < count) multiply_blocks_of_32<F, 1, kColumns>(call, n);
  }
}

}  // namespace llama3::neon
