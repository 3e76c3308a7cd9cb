// Few rows of A: every weight is read once, in the file's order, unpacked in registers and multiplied with each row.
#pragma once

#include "kernels/avx512/super_block.h"

namespace llama3::avx512 {

inline constexpr int kMaxColumns = 4;  // rows of A that a row kernel takes at once: columns of the product's transpose

// The sub-block of each lane of a SuperBlock's four parts; a lane has four weights.
struct LaneTable {
  alignas(64) int32_t sub_block[4][16];
};
template <class F>
inline constexpr LaneTable kLanes = [] {
  LaneTable table{};
  for (int chunk = 0; chunk < 16; chunk++)
    for (int i = 0; i < 4; i++) {
      const int lane = 4 * stored_chunk<F>(chunk) + i;
      table.sub_block[lane / 16][lane % 16] = chunk * 16 / F::kSubBlock;
    }
  return table;
}();

// Each lane's scale, from those of the sub-blocks.
template <class F>
LLAMA3_INLINE __m512 scales_of_part(__m512 scales, int k) {
  return _mm512_permutexvar_ps(_mm512_load_si512(kLanes<F>.sub_block[k]), scales);
}

LLAMA3_INLINE __m512i load_q(const ActivationBlock& a, int k) { return _mm512_load_si512(a.q + 64 * k); }
LLAMA3_INLINE __m512i load_offset(const ActivationBlock& a, int k) { return _mm512_load_si512(a.offset + 16 * k); }

template <class F>
LLAMA3_INLINE __m512 dot_of_part(const SuperBlock& w, const ActivationBlock& a, int k) {
  const __m512i start = kSigned<F> ? load_offset(a, k) : _mm512_setzero_si512();
  return _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start, unsigned_operand<F>(w.q[k]), load_q(a, k)));
}

// The even and the odd part of 128 weights in blocks of 32 together.
template <class F>
LLAMA3_INLINE __m512 dot_of_two_parts(const SuperBlock& w, const ActivationBlock& a, int k) {
  __m512i dot = kSigned<F> ? _mm512_add_epi32(load_offset(a, k), load_offset(a, k + 1)) : _mm512_setzero_si512();
  dot = _mm512_dpbusd_epi32(dot, unsigned_operand<F>(w.q[k]), load_q(a, k));
  return _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(dot, unsigned_operand<F>(w.q[k + 1]), load_q(a, k + 1)));
}

// The scales of A, lane by lane those of the format's sub-blocks.
template <class F>
LLAMA3_INLINE __m512 activation_scales(const ActivationBlock& a) {
  const __m512 scales = _mm512_load_ps(a.scale);
  if constexpr (F::kSubBlock == 32) return scales;
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), scales);
}

// sums[c] += 256 weights times block a[c * stride], spread over the lanes.
//
// Blocks of 32, each with scales of its own in both operands. The first `count` weights count.
template <class F, int kColumns>
LLAMA3_INLINE void accumulate_per_32(const SuperBlock& w, int count, const ActivationBlock* a, int64_t stride,
                                     __m512* sums) {
  constexpr bool kTogether = F::kSubBlock == 32;
#pragma GCC unroll 4
  for (int c = 0; c < kColumns; c++) {
    const ActivationBlock& block = a[c * stride];
    const __m512 products = _mm512_mul_ps(w.scale, activation_scales<F>(block));
#pragma GCC unroll 4
    for (int k = 0; k < 4; k += kTogether ? 2 : 1) {
      if (k / 2 * 128 >= count) break;  // known when this is compiled, but for a row's end
      const __m512 dot = kTogether ? dot_of_two_parts<F>(w, block, k) : dot_of_part<F>(w, block, k);
      sums[c] = _mm512_fmadd_ps(dot, scales_of_part<F>(products, k), sums[c]);
    }
    if constexpr (F::kMinima != Minima::kNone)
      sums[c] = _mm512_fnmadd_ps(w.min, _mm512_load_ps(block.sums_32), sums[c]);
  }
}

// Super-blocks: sub-blocks with scales, and one scale of A.
template <class F, int kColumns>
LLAMA3_INLINE void accumulate_per_256(const SuperBlock& w, const ActivationBlock* a, int64_t stride, __m512* sums) {
  __m512 scales[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; k++) scales[k] = scales_of_part<F>(w.scale, k);
#pragma GCC unroll 4
  for (int c = 0; c < kColumns; c++) {
    const ActivationBlock& block = a[c * stride];
    __m512 part = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) part = _mm512_fmadd_ps(dot_of_part<F>(w, block, k), scales[k], part);
    sums[c] = _mm512_fmadd_ps(part, _mm512_set1_ps(block.scale[0]), sums[c]);
    if constexpr (F::kMinima != Minima::kNone)
      sums[c] = _mm512_fnmadd_ps(w.min, _mm512_load_ps(F::kSubBlock == 32 ? block.sums_32 : block.sums_16), sums[c]);
  }
}

template <class F, int kColumns>
LLAMA3_INLINE void accumulate(const SuperBlock& w, int count, const ActivationBlock* a, int64_t stride, __m512* sums) {
  if constexpr (kPer32<F>)
    accumulate_per_32<F, kColumns>(w, count, a, stride, sums);
  else
    accumulate_per_256<F, kColumns>(w, a, stride, sums);
}

// Bytes ahead of the weight that is read, to the second cache and to the first. Rows follow each other in memory, so
// this runs into the rows to come.
inline constexpr size_t kFarAhead = 4096, kNearAhead = 512;
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
  constexpr size_t kBytes = kSuperBlockBytes<F>;
  const uint8_t* rows = call.rows + static_cast<size_t>(first) * call.row_bytes;
  const int64_t whole = call.K / kSuperBlock;
  for (int64_t b = 0; b < whole; b++)
#pragma GCC unroll 4
    for (int r = 0; r < kRows; r++) {
      const uint8_t* block = rows + static_cast<size_t>(r) * call.row_bytes + static_cast<size_t>(b) * kBytes;
      for (size_t line = 0; line < kBytes; line += 64) {
        _mm_prefetch(block + kFarAhead + line, _MM_HINT_T1);
        _mm_prefetch(block + kNearAhead + line, _MM_HINT_T0);
      }
      SuperBlock w;
      F::template load<false>(block, kSuperBlock, w);
      accumulate<F, kColumns>(w, kSuperBlock, call.A + b, call.stride, sums[r]);
    }
  if (const int rest = static_cast<int>(call.K % kSuperBlock))
    for (int r = 0; r < kRows; r++) {
      SuperBlock w;
      F::template load<true>(rows + static_cast<size_t>(r) * call.row_bytes + static_cast<size_t>(whole) * kBytes, rest,
                             w);
      accumulate<F, kColumns>(w, rest, call.A + whole, call.stride, sums[r]);
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
