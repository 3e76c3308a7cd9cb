// Products with many rows of A. A tile of 8 weight rows x 256 is unpacked and interleaved once, stays in the
// first-level cache and is multiplied by every row of A. A register holds four consecutive weights of 8 rows, or two as
// int16.
#pragma once

#include <type_traits>

#include "kernels/avx2/dequantize.h"
#include "kernels/avx2/super_block.h"
#include "kernels/avx2/transpose.h"
#include "kernels/matmul_calls.h"

namespace llama3::avx2 {

inline constexpr int kTileRows = 8;
inline constexpr int kGroups = 2;    // tiles that a kernel multiplies at once
inline constexpr int kMaxGemmM = 3;  // rows of A at once: 2 x 3 integer and 2 x 3 scaled sums, and 4 operands

// How integers are multiplied.
enum class Dot {
  // vpmaddubsw multiplies bytes and adds pairs of products to int16; vpaddw adds these over a run of weights. One
  // operand is unsigned, so weights that may be negative are passed as w + 32, and sums start at -32 times the sum of
  // A's integers. A sum may wrap on the way, but a run is short enough for the final sum to fit.
  kPairs,
  // vpmaddwd multiplies int16 and adds pairs of products to int32. It is for int8 weights, whose vpmaddubsw products
  // are too large to add up.
  kWords,
  // vpdpbusd multiplies bytes and adds the products to int32. Weights that may be negative are passed as w + 128, and
  // sums start at -128 times the sum of A's integers.
  kVNNI,
};

enum class Minima { kNone, kIntegers, kFloats };

// The properties that select a format's kernels, one for each number of rows of A.
struct GemmTraits {
  Dot dot;
  int sub_block;
  int run;                      // weights that are summed before they are scaled
  bool shifted = false;         // negative weights, shifted into unsigned bytes
  bool integer_scales = false;  // sums are scaled as integers
  Minima minima = Minima::kNone;
  bool per_32 = false;
};

template <class F>
inline constexpr bool kHasIntegers = std::is_same_v<typename F::Scales, IntegerScales>;
template <class F>
inline constexpr GemmTraits kTraitsVNNI = {.dot = Dot::kVNNI,
                                           .sub_block = F::kSubBlock,
                                           .run = F::kSubBlock,
                                           .shifted = F::kZero != 0 || kInt8<F>,
                                           .minima = !F::kMinima       ? Minima::kNone
                                                     : kHasIntegers<F> ? Minima::kIntegers
                                                                       : Minima::kFloats,
                                           .per_32 = kPer32<F>};
template <class F>
inline constexpr GemmTraits kTraits = [] {
  GemmTraits traits = kTraitsVNNI<F>;
  traits.dot = kInt8<F> ? Dot::kWords : Dot::kPairs;
  traits.shifted = F::kZero != 0;
  traits.integer_scales = kHasIntegers<F> && !kInt8<F>;
  if constexpr (!kInt8<F>)  // an int16 sums half the products of a run
    if (traits.run / 2 * F::kLargest * 127 > 32767) traits.run = 16;
  return traits;
}();

struct alignas(64) Tile {
  uint8_t q[128][32];  // [step][row]: four bytes or two int16 per row
  union {
    float scale[16][8];          // [sub-block][row]
    int32_t scale_pairs[16][8];  // [sub-block][row], each int16 twice
  };
  float min[8][8];          // [sub-block][row]
  int32_t min_codes[8][8];  // pairs of int16 from neighboring sub-blocks
  float factor[8], min_factor[8];
};

// Packed activations: 256 values of one row of A, laid out for gemm, which reads 32 bits at a time.
struct alignas(64) GemmActivations {
  int32_t q[64];                   // four int8 each
  float scale[8];                  // of each 32 values
  float scaled_sums[8];            // scale times the sum of 32 integers
  int32_t pairs_16[8];             // the sums of 16 integers, two int16 each
  int32_t start_16[16];            // for Dot::kPairs: -32 times the sums of 8 integers, two int16 each
  int32_t start_32[8];             // the same for 16
  int32_t offset_16[16];           // for Dot::kVNNI: -128 times the sum of 16 integers
  int32_t offset_32[8];            // the same for 32
  int32_t pairs_32[4];             // the same as pairs_16, for 32
  alignas(64) int32_t words[128];  // for Dot::kWords: two int16 each
};

using GemmCall = llama3::GemmCall<Tile, GemmActivations>;
using GemmKernel = void(const GemmCall& call);

// Return the kernels for 1, 2, ... kMaxGemmM rows of A. Formats with the same traits share them. gemm.cc and
// gemm_vnni.cc compile them for the traits in use; others do not link.
template <GemmTraits T>
GemmKernel* const* gemm_kernels();

// Load into a separate register for each use. Otherwise gcc loads once and copies, or loads again for each
// multiplication, and both cost more here.
LLAMA3_INLINE __m256i own_broadcast(const int32_t* word) {
  __m256i value;
  __asm__ volatile("vpbroadcastd %1, %0" : "=x"(value) : "m"(*word));
  return value;
}
LLAMA3_INLINE __m256i own_load(const uint8_t* words) {
  __m256i value = _mm256_load_si256(reinterpret_cast<const __m256i*>(words));
  __asm__("" : "+x"(value));
  return value;
}
LLAMA3_INLINE __m256i load_words(const int32_t* words) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(words));
}

template <Dot dot>
LLAMA3_INLINE __m256i multiply_add(__m256i sum, __m256i weights, __m256i values) {
  if constexpr (dot == Dot::kPairs) sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, values));
  if constexpr (dot == Dot::kWords) sum = _mm256_add_epi32(sum, _mm256_madd_epi16(weights, values));
  if constexpr (dot == Dot::kVNNI) sum = _mm256_dpbusd_avx_epi32(sum, weights, values);
  __asm__("" : "+x"(sum));  // now: gcc would keep the products of a whole run in memory and add them at its end
  return sum;
}

// Return the value at which the sums of a run start.
template <GemmTraits T>
LLAMA3_INLINE __m256i start_of_run(const GemmActivations& packed, int run) {
  if constexpr (!T.shifted)
    return _mm256_setzero_si256();
  else if constexpr (T.dot == Dot::kVNNI)
    return own_broadcast(T.run == 32 ? &packed.offset_32[run] : &packed.offset_16[run]);
  else
    return own_broadcast(T.run == 32 ? &packed.start_32[run] : &packed.start_16[run]);
}

// Return the minima's share of the sums over one tile; if they are integers, before it is multiplied by A's scale.
template <GemmTraits T>
LLAMA3_INLINE __m256 sum_of_minima(const Tile& tile, const GemmActivations& packed) {
  if constexpr (T.minima == Minima::kFloats) {
    __m256 sum = _mm256_setzero_ps();
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++)
      sum = _mm256_fmadd_ps(_mm256_load_ps(tile.min[j]), _mm256_set1_ps(packed.scaled_sums[j]), sum);
    return sum;
  }
  const int32_t* pairs = T.sub_block == 32 ? packed.pairs_32 : packed.pairs_16;
  __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int p = 0; p < (T.sub_block == 32 ? 4 : 8); p++) {
    const __m256i codes = load_words(tile.min_codes[p]), sums = _mm256_set1_epi32(pairs[p]);
    if constexpr (T.dot == Dot::kVNNI)
      sum = _mm256_dpwssd_avx_epi32(sum, codes, sums);
    else
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(codes, sums));
  }
  return _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_load_ps(tile.min_factor));
}

template <GemmTraits T, int kM>
void gemm(const GemmCall& call) {
  constexpr int kSteps = T.run / (T.dot == Dot::kWords ? 2 : 4);
  const Tile* tiles = call.tiles;
  const GemmActivations* activations = call.activations;
  __m256 sums[kGroups][kM];     // for float scales
  __m256i totals[kGroups][kM];  // for integer scales
#pragma GCC unroll 2
  for (int g = 0; g < kGroups; g++)
#pragma GCC unroll 3
    for (int m = 0; m < kM; m++) {
      sums[g][m] = _mm256_setzero_ps();
      totals[g][m] = _mm256_setzero_si256();
    }

  const int runs = call.weights / T.run;
#pragma GCC unroll 1
  for (int run = 0; run < runs; run++) {
    __m256i dot[kGroups][kM];
#pragma GCC unroll 3
    for (int m = 0; m < kM; m++)
#pragma GCC unroll 2
      for (int g = 0; g < kGroups; g++) dot[g][m] = start_of_run<T>(activations[m], run);
#pragma GCC unroll 16
    for (int step = run * kSteps; step < (run + 1) * kSteps; step++) {
      const __m256i first = own_load(tiles[0].q[step]), second = own_load(tiles[1].q[step]);
#pragma GCC unroll 3
      for (int m = 0; m < kM; m++) {
        const __m256i a = own_broadcast((T.dot == Dot::kWords ? activations[m].words : activations[m].q) + step);
        dot[0][m] = multiply_add<T.dot>(dot[0][m], first, a);
        dot[1][m] = multiply_add<T.dot>(dot[1][m], second, a);
      }
    }
    const int sub_block = run * T.run / T.sub_block;
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; g++)
#pragma GCC unroll 3
      for (int m = 0; m < kM; m++) {
        if constexpr (T.integer_scales) {
          const __m256i scaled = _mm256_madd_epi16(dot[g][m], load_words(tiles[g].scale_pairs[sub_block]));
          totals[g][m] = _mm256_add_epi32(totals[g][m], scaled);
          continue;
        }
        if constexpr (T.dot == Dot::kPairs) dot[g][m] = _mm256_madd_epi16(dot[g][m], _mm256_set1_epi16(1));
        __m256 value = _mm256_cvtepi32_ps(dot[g][m]);
        if constexpr (T.per_32) value = _mm256_mul_ps(value, _mm256_set1_ps(activations[m].scale[run * T.run / 32]));
        sums[g][m] = _mm256_fmadd_ps(value, _mm256_load_ps(tiles[g].scale[sub_block]), sums[g][m]);
      }
  }
#pragma GCC unroll 3
  for (int m = 0; m < kM; m++)
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; g++) {
      __m256 sum = sums[g][m];
      if constexpr (T.integer_scales)
        sum = _mm256_mul_ps(_mm256_cvtepi32_ps(totals[g][m]), _mm256_load_ps(tiles[g].factor));
      if constexpr (T.minima != Minima::kNone) sum = _mm256_sub_ps(sum, sum_of_minima<T>(tiles[g], activations[m]));
      float* out = call.sums + m * call.stride + kTileRows * g;
      const __m256 before = _mm256_load_ps(out);
      if constexpr (T.per_32)
        _mm256_store_ps(out, _mm256_add_ps(before, sum));
      else
        _mm256_store_ps(out, _mm256_fmadd_ps(sum, _mm256_set1_ps(activations[m].scale[0]), before));
    }
}

// Transpose `words` words (a multiple of 4) of 8 rows in a buffer into a tile's rows of 8 words.
LLAMA3_INLINE void transpose_words(const void* rows, size_t stride, int words, void* out) {
  const auto* from = static_cast<const uint8_t*>(rows);
  auto* to = static_cast<__m256i*>(out);
  for (int i = 0; i < words; i += 4) {
    __m256i transposed[4];
    transpose_4_words(from + 4 * i, stride, transposed);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) _mm256_store_si256(to + i + k, transposed[k]);
  }
}

// Store one row's weights as operands of gemm.
template <class F, GemmTraits T>
LLAMA3_INLINE void store_operands(__m256i* q, uint8_t* out) {
  if constexpr (T.dot == Dot::kWords) {
    auto* to = reinterpret_cast<__m256i*>(out);
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++) {
      _mm256_store_si256(to + 2 * k, _mm256_cvtepi8_epi16(_mm256_castsi256_si128(q[k])));
      _mm256_store_si256(to + 2 * k + 1, _mm256_cvtepi8_epi16(_mm256_extracti128_si256(q[k], 1)));
    }
    return;
  }
  constexpr int kAdded = T.shifted ? (T.dot == Dot::kVNNI ? 128 : 32) - F::kZero : 0;
  if constexpr (kAdded != 0)
#pragma GCC unroll 8
    for (int k = 0; k < kParts; k++) q[k] = _mm256_add_epi8(q[k], _mm256_set1_epi8(static_cast<char>(kAdded)));
  store_in_order<F>(q, out);
}

// Store 16 int16 codes, each twice in a 32-bit lane.
LLAMA3_INLINE void store_pairs(__m256i codes, int32_t* out) {
  const auto double_up = [](__m128i words) {
    const __m256i wide = _mm256_cvtepu16_epi32(words);
    return _mm256_or_si256(wide, _mm256_slli_epi32(wide, 16));
  };
  auto* to = reinterpret_cast<__m256i*>(out);
  _mm256_store_si256(to, double_up(_mm256_castsi256_si128(codes)));
  _mm256_store_si256(to + 1, double_up(_mm256_extracti128_si256(codes, 1)));
}

// Fill a tile with 8 rows, each loaded by the format's `load`.
template <class F, GemmTraits T>
void pack_tile(const uint8_t* rows, size_t row_bytes, int valid_rows, int weights, Tile& tile) {
  constexpr int kWidth = T.dot == Dot::kWords ? 2 : 1;  // bytes per weight
  constexpr int kSubBlocks = kSuperBlock / T.sub_block;
  alignas(64) uint8_t q[kTileRows][kWidth * kSuperBlock];
  alignas(64) float scale[kTileRows][16], min[kTileRows][16];
  alignas(64) int32_t scale_pairs[kTileRows][16];
  alignas(64) int16_t min_codes[kTileRows][16];
  for (int r = 0; r < kTileRows; r++) {
    const uint8_t* row = rows + static_cast<size_t>(r < valid_rows ? r : valid_rows - 1) * row_bytes;
    __m256i w[kParts];
    typename F::Scales scales;
    if (weights == kSuperBlock)
      F::template load<false>(row, kSuperBlock, w, scales);
    else
      F::template load<true>(row, weights, w, scales);
    store_operands<F, T>(w, q[r]);
    if constexpr (T.integer_scales) {
      store_pairs(scales.codes, scale_pairs[r]);
      tile.factor[r] = scales.factor;
    } else {
      store_scales<F>(scales, scale[r], min[r]);
    }
    if constexpr (T.minima == Minima::kIntegers) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(min_codes[r]), scales.min_codes);
      tile.min_factor[r] = scales.min_factor;
    }
  }
  transpose_words(q, sizeof q[0], kWidth * weights / 4, tile.q);
  if constexpr (T.integer_scales)
    transpose_words(scale_pairs, sizeof scale_pairs[0], kSubBlocks, tile.scale_pairs);
  else
    transpose_words(scale, sizeof scale[0], kSubBlocks, tile.scale);
  if constexpr (T.minima == Minima::kFloats) transpose_words(min, sizeof min[0], kSubBlocks, tile.min);
  if constexpr (T.minima == Minima::kIntegers)
    transpose_words(min_codes, sizeof min_codes[0], kSubBlocks / 2, tile.min_codes);
}

}  // namespace llama3::avx2
