// Products with few rows of A (see kernels/gemv.h): 256 weights are unpacked in registers and multiplied by each row.
#pragma once

#include "kernels/avx512/simd.h"
#include "kernels/avx512/super_block.h"

namespace llama3::avx512 {

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

// Return the scale of each lane from the scales of the sub-blocks.
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

// Multiply the even and the odd part of 128 weights in blocks of 32, and add the products.
template <class F>
LLAMA3_INLINE __m512 dot_of_two_parts(const SuperBlock& w, const ActivationBlock& a, int k) {
  __m512i dot = kSigned<F> ? _mm512_add_epi32(load_offset(a, k), load_offset(a, k + 1)) : _mm512_setzero_si512();
  dot = _mm512_dpbusd_epi32(dot, unsigned_operand<F>(w.q[k]), load_q(a, k));
  return _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(dot, unsigned_operand<F>(w.q[k + 1]), load_q(a, k + 1)));
}

// Return the scales of A, one lane per sub-block of the format.
template <class F>
LLAMA3_INLINE __m512 activation_scales(const ActivationBlock& a) {
  const __m512 scales = _mm512_load_ps(a.scale);
  if constexpr (F::kSubBlock == 32) return scales;
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), scales);
}

// sums[m] += 256 weights times block a[m * stride], spread over the lanes.
//
// For blocks of 32, which have their own scale in both operands. Only the first `count` weights are used.
template <class F, int kM>
LLAMA3_INLINE void accumulate_per_32(const SuperBlock& w, int count, const ActivationBlock* a, int64_t stride,
                                     __m512* sums) {
  constexpr bool kTogether = F::kSubBlock == 32;
#pragma GCC unroll 4
  for (int m = 0; m < kM; m++) {
    const ActivationBlock& block = a[m * stride];
    const __m512 products = _mm512_mul_ps(w.scale, activation_scales<F>(block));
#pragma GCC unroll 4
    for (int k = 0; k < 4; k += kTogether ? 2 : 1) {
      if (k / 2 * 128 >= count) break;  // known at compile time, except at a row's end
      const __m512 dot = kTogether ? dot_of_two_parts<F>(w, block, k) : dot_of_part<F>(w, block, k);
      sums[m] = _mm512_fmadd_ps(dot, scales_of_part<F>(products, k), sums[m]);
    }
    if constexpr (F::kMinima != Minima::kNone)
      sums[m] = _mm512_fnmadd_ps(w.min, _mm512_load_ps(block.sums_32), sums[m]);
  }
}

// For super-blocks, with one scale per sub-block and one scale of A.
template <class F, int kM>
LLAMA3_INLINE void accumulate_per_256(const SuperBlock& w, const ActivationBlock* a, int64_t stride, __m512* sums) {
  __m512 scales[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; k++) scales[k] = scales_of_part<F>(w.scale, k);
#pragma GCC unroll 4
  for (int m = 0; m < kM; m++) {
    const ActivationBlock& block = a[m * stride];
    __m512 part = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) part = _mm512_fmadd_ps(dot_of_part<F>(w, block, k), scales[k], part);
    sums[m] = _mm512_fmadd_ps(part, _mm512_set1_ps(block.scale[0]), sums[m]);
    if constexpr (F::kMinima != Minima::kNone)
      sums[m] = _mm512_fnmadd_ps(w.min, _mm512_load_ps(F::kSubBlock == 32 ? block.sums_32 : block.sums_16), sums[m]);
  }
}

// The `Dot` of format F for kernels/gemv.h.
template <class F>
struct GemvDot {
  using Simd = avx512::Simd;
  using GemvActivations = ActivationBlock;
  static constexpr size_t kSuperBlockBytes = super_block_bytes(F::kFormat);

  template <bool kTail, int kM>
  LLAMA3_INLINE void add(const uint8_t* blocks, int count, const ActivationBlock* a, int64_t stride, __m512* sums) {
    SuperBlock w;
    F::template load<kTail>(blocks, count, w);
    if constexpr (kPer32<F>)
      accumulate_per_32<F, kM>(w, count, a, stride, sums);
    else
      accumulate_per_256<F, kM>(w, a, stride, sums);
  }
};

}  // namespace llama3::avx512
