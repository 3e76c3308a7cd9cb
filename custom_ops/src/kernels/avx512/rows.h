// Few rows of A: every weight is read once, in the file's order, unpacked in registers and multiplied with each row.
#pragma once

#include "kernels/avx512/super_block.h"

namespace llama3::avx512 {

inline constexpr int kMaxColumns = 4;  // rows of A that a row kernel takes at once: columns of the product's transpose

// Lane i of part k (64 weights: 16 lanes of four) belongs to this sub-block.
template <int kSubBlock>
LLAMA3_INLINE __m512i sub_block_of_lane(int k) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_add_epi32(_mm512_srli_epi32(lane, kSubBlock == 32 ? 3 : 2), _mm512_set1_epi32(k * (64 / kSubBlock)));
}

template <class F>
LLAMA3_INLINE __m512i dot_part(const SuperBlock& w, const ActivationBlock& a, int k) {
  const __m512i start = F::kSigned ? _mm512_load_si512(a.offset + 16 * k) : _mm512_setzero_si512();
  return _mm512_dpbusd_epi32(start, w.q[k], _mm512_load_si512(a.q + 64 * k));
}

// The scales of A, lane by lane those of the format's sub-blocks.
template <class F>
LLAMA3_INLINE __m512 activation_scales(const ActivationBlock& a) {
  const __m512 scales = _mm512_load_ps(a.scale);
  if constexpr (F::kSubBlock == 32) return scales;
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), scales);
}

// sums[c] += 256 weights times block a[c * stride], spread over the lanes.
template <class F, int kColumns>
LLAMA3_INLINE void accumulate(const SuperBlock& w, const ActivationBlock* a, int64_t stride, __m512* sums) {
  __m512 scales[4];
  if constexpr (!kPer32<F>)
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) scales[k] = _mm512_permutexvar_ps(sub_block_of_lane<F::kSubBlock>(k), w.scale);
#pragma GCC unroll 4
  for (int c = 0; c < kColumns; c++) {
    const ActivationBlock& block = a[c * stride];
    if constexpr (kPer32<F>) {
      const __m512 products = _mm512_mul_ps(w.scale, activation_scales<F>(block));
#pragma GCC unroll 4
      for (int k = 0; k < 4; k++) {
        const __m512 scale = _mm512_permutexvar_ps(sub_block_of_lane<F::kSubBlock>(k), products);
        sums[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot_part<F>(w, block, k)), scale, sums[c]);
      }
    } else {
      __m512 part = _mm512_setzero_ps();
#pragma GCC unroll 4
      for (int k = 0; k < 4; k++)
        part = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot_part<F>(w, block, k)), scales[k], part);
      sums[c] = _mm512_fmadd_ps(part, _mm512_set1_ps(block.scale[0]), sums[c]);
    }
    if constexpr (F::kMinima != Minima::kNone)
      sums[c] = _mm512_fnmadd_ps(w.min, _mm512_load_ps(F::kSubBlock == 32 ? block.sums_32 : block.sums_16), sums[c]);
  }
}

// Bytes ahead of the weight that is read. Rows follow each other in memory, so this runs into the rows to come.
inline constexpr size_t kPrefetchAhead = 4096;
inline constexpr size_t kShortRow = 1024;  // bytes

// A call's operands: weight rows of row_bytes each against columns of A, block b of column c at A[c * stride + b].
struct RowsCall {
  const uint8_t* rows;
  size_t row_bytes;
  int64_t K;
  const ActivationBlock* A;
  int64_t stride;
  const float* bias;  // of the first row, or null
  float* output;      // column c of row r at output[c * output_stride + r]
  int64_t output_stride;
};

template <class F, int kRows, int kColumns>
LLAMA3_INLINE void multiply_row_group(const RowsCall& call, int64_t first) {
  __m512 sums[kRows][kColumns];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; c++) sums[r][c] = _mm512_setzero_ps();
  const size_t block_bytes = super_block_bytes<F>();
  const uint8_t* rows = call.rows + static_cast<size_t>(first) * call.row_bytes;
  const int64_t whole = call.K / kSuperBlock;
  for (int64_t b = 0; b < whole; b++)
#pragma GCC unroll 4
    for (int r = 0; r < kRows; r++) {
      const uint8_t* block = rows + static_cast<size_t>(r) * call.row_bytes + static_cast<size_t>(b) * block_bytes;
      for (size_t line = 0; line < block_bytes; line += 64) _mm_prefetch(block + kPrefetchAhead + line, _MM_HINT_T0);
      SuperBlock w;
      F::template load<false>(block, kSuperBlock, w);
      accumulate<F, kColumns>(w, call.A + b, call.stride, sums[r]);
    }
  if (const int rest = static_cast<int>(call.K % kSuperBlock))
    for (int r = 0; r < kRows; r++) {
      SuperBlock w;
      F::template load<true>(rows + static_cast<size_t>(r) * call.row_bytes + static_cast<size_t>(whole) * block_bytes,
                             rest, w);
      accumulate<F, kColumns>(w, call.A + whole, call.stride, sums[r]);
    }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; c++)
      call.output[c * call.output_stride + first + r] =
          _mm512_reduce_add_ps(sums[r][c]) + (call.bias ? call.bias[first + r] : 0.0f);
}

// Long rows one at a time, so that memory is read in one stream, and prefetched along it; short ones in groups, whose
// sums over the lanes overlap.
template <class F, int kColumns>
void multiply_rows(const RowsCall& call, int64_t count) {
  constexpr int kGroup = kColumns == 1 ? 4 : 2;
  int64_t n = 0;
  if (call.row_bytes <= kShortRow)
    for (; n + kGroup <= count; n += kGroup) multiply_row_group<F, kGroup, kColumns>(call, n);
  for (; n < count; n++) multiply_row_group<F, 1, kColumns>(call, n);
}

using RowsKernel = void(const RowsCall& call, int64_t count);

}  // namespace llama3::avx512
