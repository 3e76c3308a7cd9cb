#include "kernels/neon/tiles.h"

#include "kernels/neon/intrinsics.h"
#include "kernels/neon/simd.h"

namespace llama3::neon {
namespace {

constexpr int kVectors = kTileRows / 4;  // registers that hold a word of each row

// dot[g][c] += four weights of each row times word kWord of a[c].
template <int kWord, int kColumns>
LLAMA3_INLINE void add_words(const int8_t (&w)[kTileRows][4], const int8x16_t (&a)[kColumns],
                             int32x4_t (&dot)[kVectors][kColumns]) {
#pragma GCC unroll 2
  for (int g = 0; g < kVectors; g++) {
    const int8x16_t rows = vld1q_s8(w[4 * g]);
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; c++) dot[g][c] = vdotq_laneq_s32(dot[g][c], rows, a[c], kWord);
  }
}

template <int kColumns>
LLAMA3_INLINE void set_zero(int32x4_t (&v)[kVectors][kColumns]) {
  for (auto& group : v)
    for (int32x4_t& lanes : group) lanes = vdupq_n_s32(0);
}

// The integer products of sub-block j.
template <int kSubBlock, int kColumns>
LLAMA3_INLINE void dot_of_sub_block(const Tile& tile, const Column* columns, size_t j,
                                    int32x4_t (&dot)[kVectors][kColumns]) {
  set_zero(dot);
#pragma GCC unroll 2
  for (size_t part = 0; part < kSubBlock / 16; part++) {
    const size_t k = j * kSubBlock + 16 * part;
    int8x16_t a[kColumns];
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; c++) a[c] = vld1q_s8(columns[c].q + k);
    const auto* w = tile.q + k / 4;
    add_words<0>(w[0], a, dot);
    add_words<1>(w[1], a, dot);
    add_words<2>(w[2], a, dot);
    add_words<3>(w[3], a, dot);
  }
}

// The sum of minimum codes times the sums of their sub-blocks' activations.
template <int kSubBlock, int kColumns>
LLAMA3_INLINE void dot_of_minima(const Tile& tile, const Column* columns, int32x4_t (&dot)[kVectors][kColumns]) {
  const auto& codes = tile.min_codes;
  int8x16_t high[kColumns], low[kColumns];
#pragma GCC unroll 4
  for (int c = 0; c < kColumns; c++) {
    const SplitSums& sums = kSubBlock == 32 ? columns[c].split_32 : columns[c].split_16;
    high[c] = vld1q_s8(sums.high);
    low[c] = vld1q_s8(sums.low);
  }
  const auto add_all = [&](const int8x16_t(&sums)[kColumns]) {
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

// Scales are integers: the totals of 256 weights are, too.
template <int kSubBlock, bool kMinima, int kColumns>
void multiply_integers(const TileCall& call) {
  const auto [tiles, columns, weights, sums, stride] = call;
  const Tile& tile = *tiles;
  int32x4_t totals[kVectors][kColumns];
  set_zero(totals);
#pragma GCC unroll 1
  for (size_t j = 0; j < kSuperBlock / kSubBlock; j++) {
    int32x4_t dot[kVectors][kColumns];
    dot_of_sub_block<kSubBlock>(tile, columns, j, dot);
#pragma GCC unroll 2
    for (int g = 0; g < kVectors; g++) {
      const int32x4_t codes = vld1q_s32(tile.codes[j] + 4 * g);
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; c++) totals[g][c] = vmlaq_s32(totals[g][c], dot[g][c], codes);
    }
  }
  int32x4_t minima[kVectors][kColumns];
  if constexpr (kMinima) dot_of_minima<kSubBlock>(tile, columns, minima);
#pragma GCC unroll 2
  for (int g = 0; g < kVectors; g++) {
    const float32x4_t factor = vld1q_f32(tile.factor + 4 * g);
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; c++) {
      float32x4_t value = vmulq_f32(vcvtq_f32_s32(totals[g][c]), factor);
      if constexpr (kMinima) value = vfmsq_f32(value, vcvtq_f32_s32(minima[g][c]), vld1q_f32(tile.min_factor + 4 * g));
      float* sum = sums + c * stride + 4 * g;
      vst1q_f32(sum, vfmaq_n_f32(vld1q_f32(sum), value, columns[c].scale[0]));
    }
  }
}

// Each sub-block has a scale of its own in both operands.
template <int kSubBlock, bool kMinima, int kColumns>
void multiply_floats(const TileCall& call) {
  const auto [tiles, columns, weights, sums, stride] = call;
  const Tile& tile = *tiles;
  float32x4_t totals[kVectors][kColumns];
  for (auto& group : totals)
    for (float32x4_t& total : group) total = vdupq_n_f32(0);
#pragma GCC unroll 1
  for (size_t j = 0; j < static_cast<size_t>(weights) / kSubBlock; j++) {
    int32x4_t dot[kVectors][kColumns];
    dot_of_sub_block<kSubBlock>(tile, columns, j, dot);
#pragma GCC unroll 2
    for (int g = 0; g < kVectors; g++) {
      const float32x4_t scale = vld1q_f32(tile.scale[j] + 4 * g);
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; c++) {
        const float32x4_t both = vmulq_n_f32(scale, columns[c].scale[j * kSubBlock / 32]);
        totals[g][c] = vfmaq_f32(totals[g][c], vcvtq_f32_s32(dot[g][c]), both);
        if constexpr (kMinima)
          totals[g][c] = vfmsq_n_f32(totals[g][c], vld1q_f32(tile.min[j] + 4 * g), columns[c].sums_32[j]);
      }
    }
  }
#pragma GCC unroll 2
  for (int g = 0; g < kVectors; g++)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; c++) {
      float* sum = sums + c * stride + 4 * g;
      vst1q_f32(sum, vaddq_f32(vld1q_f32(sum), totals[g][c]));
    }
}

template <TileTraits T, int kColumns>
void multiply_tile(const TileCall& call) {
  if constexpr (T.integer_scales)
    multiply_integers<T.sub_block, T.minima, kColumns>(call);
  else
    multiply_floats<T.sub_block, T.minima, kColumns>(call);
}

}  // namespace

template <TileTraits T>
TileKernel* const* tile_kernels() {
  static constexpr TileKernel* kForColumns[kTileColumns] = {multiply_tile<T, 1>, multiply_tile<T, 2>,
                                                            multiply_tile<T, 3>, multiply_tile<T, 4>};
  return kForColumns;
}

template TileKernel* const* tile_kernels<TileTraits{.integer_scales = true, .sub_block = 32, .minima = true}>();
template TileKernel* const* tile_kernels<TileTraits{.integer_scales = true, .sub_block = 16, .minima = true}>();
template TileKernel* const* tile_kernels<TileTraits{.integer_scales = true, .sub_block = 16, .minima = false}>();
template TileKernel* const* tile_kernels<TileTraits{.integer_scales = true, .sub_block = 32, .minima = false}>();
template TileKernel* const* tile_kernels<TileTraits{.integer_scales = false, .sub_block = 32, .minima = false}>();
template TileKernel* const* tile_kernels<TileTraits{.integer_scales = false, .sub_block = 32, .minima = true}>();
template TileKernel* const* tile_kernels<TileTraits{.integer_scales = false, .sub_block = 16, .minima = false}>();

namespace {

// `words` words (a multiple of 4) of four rows, each `stride` bytes behind the other, to a tile's rows of eight words.
void transpose_words(const void* rows, size_t stride, int words, void* tile) {
  const auto* from = static_cast<const uint8_t*>(rows);
  auto* to = static_cast<uint8_t*>(tile);
  for (int i = 0; i < words; i += 4, from += 16) {
    float32x4_t columns[4];
    for (size_t r = 0; r < 4; r++) columns[r] = vreinterpretq_f32_u8(vld1q_u8(from + r * stride));
    Simd::transpose(columns);
    for (int k = 0; k < 4; k++, to += kTileRows * 4) vst1q_u8(to, vreinterpretq_u8_f32(columns[k]));
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
