#include "kernels/neon/gemm.h"

#include "kernels/neon/intrinsics.h"
#include "kernels/neon/simd.h"

namespace llama3::neon {
namespace {

constexpr int kVectors = kTileRows / 4;  // registers that hold a word of each row

// dot[g][m] += four weights of each row times word kWord of a[m].
template <int kWord, int kM>
LLAMA3_INLINE void add_words(const int8_t (&w)[kTileRows][4], const int8x16_t (&a)[kM],
                             int32x4_t (&dot)[kVectors][kM]) {
#pragma GCC unroll 2
  for (int g = 0; g < kVectors; g++) {
    const int8x16_t rows = vld1q_s8(w[4 * g]);
#pragma GCC unroll 4
    for (int m = 0; m < kM; m++) dot[g][m] = vdotq_laneq_s32(dot[g][m], rows, a[m], kWord);
  }
}

template <int kM>
LLAMA3_INLINE void set_zero(int32x4_t (&v)[kVectors][kM]) {
  for (auto& group : v)
    for (int32x4_t& lanes : group) lanes = vdupq_n_s32(0);
}

// Compute the integer products of sub-block j.
template <int kSubBlock, int kM>
LLAMA3_INLINE void dot_of_sub_block(const Tile& tile, const PackedActivations* activations, size_t j,
                                    int32x4_t (&dot)[kVectors][kM]) {
  set_zero(dot);
#pragma GCC unroll 2
  for (size_t part = 0; part < kSubBlock / 16; part++) {
    const size_t k = j * kSubBlock + 16 * part;
    int8x16_t a[kM];
#pragma GCC unroll 4
    for (int m = 0; m < kM; m++) a[m] = vld1q_s8(activations[m].q + k);
    const auto* w = tile.q + k / 4;
    add_words<0>(w[0], a, dot);
    add_words<1>(w[1], a, dot);
    add_words<2>(w[2], a, dot);
    add_words<3>(w[3], a, dot);
  }
}

// Compute the sum of minimum codes times the sums of their sub-blocks' activations.
template <int kSubBlock, int kM>
LLAMA3_INLINE void dot_of_minima(const Tile& tile, const PackedActivations* activations,
                                 int32x4_t (&dot)[kVectors][kM]) {
  const auto& codes = tile.min_codes;
  int8x16_t high[kM], low[kM];
#pragma GCC unroll 4
  for (int m = 0; m < kM; m++) {
    const SplitSums& sums = kSubBlock == 32 ? activations[m].split_32 : activations[m].split_16;
    high[m] = vld1q_s8(sums.high);
    low[m] = vld1q_s8(sums.low);
  }
  const auto add_all = [&](const int8x16_t(&sums)[kM]) {
    add_words<0>(codes[0], sums, dot);
    add_words<1>(codes[1], sums, dot);
    if constexpr (kSubBlock == 16) {
      add_words<2>(codes[2], sums, dot);
      add_words<3>(codes[3], sums, dot);
    }
  };
  set_zero(dot);
  add_all(high);
  for (auto& group : dot)
    for (int32x4_t& lanes : group) lanes = vshlq_n_s32(lanes, 7);
  add_all(low);
}

// With integer scales, the totals of 256 weights are also integers.
template <int kSubBlock, bool kMinima, int kM>
void multiply_integers(const GemmCall& call) {
  const auto [tiles, activations, weights, sums, stride] = call;
  const Tile& tile = *tiles;
  int32x4_t totals[kVectors][kM];
  set_zero(totals);
#pragma GCC unroll 1
  for (size_t j = 0; j < kSuperBlock / kSubBlock; j++) {
    int32x4_t dot[kVectors][kM];
    dot_of_sub_block<kSubBlock>(tile, activations, j, dot);
#pragma GCC unroll 2
    for (int g = 0; g < kVectors; g++) {
      const int32x4_t codes = vld1q_s32(tile.codes[j] + 4 * g);
#pragma GCC unroll 4
      for (int m = 0; m < kM; m++) totals[g][m] = vmlaq_s32(totals[g][m], dot[g][m], codes);
    }
  }
  int32x4_t minima[kVectors][kM];
  if constexpr (kMinima) dot_of_minima<kSubBlock>(tile, activations, minima);
#pragma GCC unroll 2
  for (int g = 0; g < kVectors; g++) {
    const float32x4_t factor = vld1q_f32(tile.factor + 4 * g);
#pragma GCC unroll 4
    for (int m = 0; m < kM; m++) {
      float32x4_t value = vmulq_f32(vcvtq_f32_s32(totals[g][m]), factor);
      if constexpr (kMinima) value = vfmsq_f32(value, vcvtq_f32_s32(minima[g][m]), vld1q_f32(tile.min_factor + 4 * g));
      float* sum = sums + m * stride + 4 * g;
      vst1q_f32(sum, vfmaq_n_f32(vld1q_f32(sum), value, activations[m].scale[0]));
    }
  }
}

// With float scales, each sub-block has its own scale in both operands.
template <int kSubBlock, bool kMinima, int kM>
void multiply_floats(const GemmCall& call) {
  const auto [tiles, activations, weights, sums, stride] = call;
  const Tile& tile = *tiles;
  float32x4_t totals[kVectors][kM];
  for (auto& group : totals)
    for (float32x4_t& total : group) total = vdupq_n_f32(0);
#pragma GCC unroll 1
  for (size_t j = 0; j < static_cast<size_t>(weights) / kSubBlock; j++) {
    int32x4_t dot[kVectors][kM];
    dot_of_sub_block<kSubBlock>(tile, activations, j, dot);
#pragma GCC unroll 2
    for (int g = 0; g < kVectors; g++) {
      const float32x4_t scale = vld1q_f32(tile.scale[j] + 4 * g);
#pragma GCC unroll 4
      for (int m = 0; m < kM; m++) {
        const float32x4_t both = vmulq_n_f32(scale, activations[m].scale[j * kSubBlock / 32]);
        totals[g][m] = vfmaq_f32(totals[g][m], vcvtq_f32_s32(dot[g][m]), both);
        if constexpr (kMinima)
          totals[g][m] = vfmsq_n_f32(totals[g][m], vld1q_f32(tile.min[j] + 4 * g), activations[m].sums_32[j]);
      }
    }
  }
#pragma GCC unroll 2
  for (int g = 0; g < kVectors; g++)
#pragma GCC unroll 4
    for (int m = 0; m < kM; m++) {
      float* sum = sums + m * stride + 4 * g;
      vst1q_f32(sum, vaddq_f32(vld1q_f32(sum), totals[g][m]));
    }
}

template <GemmTraits T, int kM>
void gemm(const GemmCall& call) {
  if constexpr (T.integer_scales)
    multiply_integers<T.sub_block, T.minima, kM>(call);
  else
    multiply_floats<T.sub_block, T.minima, kM>(call);
}

}  // namespace

template <GemmTraits T>
GemmKernel* const* gemm_kernels() {
  static constexpr GemmKernel* kForM[kMaxGemmM] = {gemm<T, 1>, gemm<T, 2>, gemm<T, 3>, gemm<T, 4>};
  return kForM;
}

template GemmKernel* const* gemm_kernels<GemmTraits{.integer_scales = true, .sub_block = 32, .minima = true}>();
template GemmKernel* const* gemm_kernels<GemmTraits{.integer_scales = true, .sub_block = 16, .minima = true}>();
template GemmKernel* const* gemm_kernels<GemmTraits{.integer_scales = true, .sub_block = 16, .minima = false}>();
template GemmKernel* const* gemm_kernels<GemmTraits{.integer_scales = true, .sub_block = 32, .minima = false}>();
template GemmKernel* const* gemm_kernels<GemmTraits{.integer_scales = false, .sub_block = 32, .minima = false}>();
template GemmKernel* const* gemm_kernels<GemmTraits{.integer_scales = false, .sub_block = 32, .minima = true}>();
template GemmKernel* const* gemm_kernels<GemmTraits{.integer_scales = false, .sub_block = 16, .minima = false}>();

namespace {

// Transpose `words` words (a multiple of 4) of four rows, `stride` bytes apart, into a tile's rows of eight words.
void transpose_words(const void* rows, size_t stride, int words, void* tile) {
  const auto* from = static_cast<const uint8_t*>(rows);
  auto* to = static_cast<uint8_t*>(tile);
  for (int i = 0; i < words; i += 4, from += 16) {
    float32x4_t transposed[4];
    for (size_t r = 0; r < 4; r++) transposed[r] = vreinterpretq_f32_u8(vld1q_u8(from + r * stride));
    Simd::transpose(transposed);
    for (int k = 0; k < 4; k++, to += kTileRows * 4) vst1q_u8(to, vreinterpretq_u8_f32(transposed[k]));
  }
}

}  // namespace

void pack_rows(const UnpackedRow (&rows)[4], int group, Tile& tile) {
  constexpr size_t kStride = sizeof(UnpackedRow);
  const int first = 4 * group;
  for (int i = 0; i < 4; i++) {
    tile.factor[first + i] = rows[i].factor;
    tile.min_factor[first + i] = rows[i].min_factor;
  }
  transpose_words(rows[0].q, kStride, 64, tile.q[0][first]);
  transpose_words(rows[0].codes, kStride, 16, tile.codes[0] + first);
  transpose_words(rows[0].min_codes, kStride, 8, tile.min_codes[0][first]);
}

}  // namespace llama3::neon
