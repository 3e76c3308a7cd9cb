// Products with many rows of A. A tile of 16 weight rows x 256 is unpacked and interleaved once, stays in the
// first-level cache and is multiplied by every row of A. A register holds four consecutive weights of 16 rows.
#pragma once

#include "kernels/avx512/super_block.h"
#include "kernels/avx512/transpose.h"
#include "kernels/matmul_calls.h"

namespace llama3::avx512 {

inline constexpr int kTileRows = 16;
inline constexpr int kGroups = 2;    // tiles that a kernel multiplies at once
inline constexpr int kMaxGemmM = 6;  // rows of A at once: 2 x 6 integer and 2 x 6 float sums fill the registers

struct alignas(64) Tile {
  uint8_t q[64][64];         // [weight / 4][row][weight % 4]
  float scale[16][16];       // [sub-block][row]
  float min[8][16];          // [sub-block][row], for Minima::kFloat
  int32_t min_codes[8][16];  // pairs of int16 from neighboring sub-blocks, for Minima::kInteger
  float min_factor[16];
};

// Packed activations: 256 values of one row of A, laid out for gemm, which reads 32 bits at a time.
struct alignas(64) GemmActivations {
  int32_t q[64];          // four int8 each
  int32_t offset_16[16];  // -128 times the sum of each 16 integers, see ActivationBlock::offset
  int32_t offset_32[8];   // the same for each 32
  int32_t pairs_16[8];    // the sums of 16 integers, two int16 each
  int32_t pairs_32[4];    // the same for 32
  float sums_32[8];       // scale times the sum of 32
  float scale[8];         // of each 32 values
};

using GemmCall = llama3::GemmCall<Tile, GemmActivations>;

// The properties that select a format's kernels, one for each number of rows of A.
struct GemmTraits {
  int sub_block;
  bool is_signed = false;
  Minima minima = Minima::kNone;
  bool per_32 = false;
};

using GemmKernel = void(const GemmCall& call);

// Return the kernels for 1, 2, ... kMaxGemmM rows of A. Formats with the same traits share them. gemm.cc compiles them
// for the traits in use; others do not link.
template <GemmTraits T>
GemmKernel* const* gemm_kernels();

// Load into a separate register for each use. Otherwise gcc loads once and copies, or loads again for each
// multiplication, and both cost more here.
LLAMA3_INLINE __m512i own_broadcast(const int32_t* word) {
  __m512i value;
  __asm__ volatile("vpbroadcastd %1, %0" : "=v"(value) : "m"(*word));
  return value;
}
LLAMA3_INLINE __m512i own_load(const uint8_t* words) {
  __m512i value = _mm512_load_si512(words);
  __asm__("" : "+v"(value));
  return value;
}

// Return the minima's share of a sum over one tile, before it is multiplied by A's scale.
template <GemmTraits T>
LLAMA3_INLINE __m512 start_of_sum(const Tile& tile, const GemmActivations& packed) {
  if constexpr (T.minima != Minima::kInteger) return _mm512_setzero_ps();
  const int32_t* pairs = T.sub_block == 32 ? packed.pairs_32 : packed.pairs_16;
  __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int p = 0; p < (T.sub_block == 32 ? 4 : 8); p++)
    sum = _mm512_dpwssd_epi32(sum, _mm512_load_si512(tile.min_codes[p]), _mm512_set1_epi32(pairs[p]));
  return _mm512_fnmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_load_ps(tile.min_factor), _mm512_setzero_ps());
}

template <GemmTraits T, int kM>
void gemm(const GemmCall& call) {
  constexpr int kSteps = T.sub_block / 4;
  const Tile* tiles = call.tiles;
  const GemmActivations* activations = call.activations;
  __m512 sums[kGroups][kM];
#pragma GCC unroll 2
  for (int g = 0; g < kGroups; g++)
#pragma GCC unroll 6
    for (int m = 0; m < kM; m++) sums[g][m] = start_of_sum<T>(tiles[g], activations[m]);

  const int sub_blocks = call.weights / T.sub_block;
#pragma GCC unroll 1
  for (int j = 0; j < sub_blocks; j++) {
    __m512i dot[kGroups][kM];
#pragma GCC unroll 6
    for (int m = 0; m < kM; m++)
#pragma GCC unroll 2
      for (int g = 0; g < kGroups; g++)
        dot[g][m] = T.is_signed
                        ? own_broadcast(T.sub_block == 32 ? &activations[m].offset_32[j] : &activations[m].offset_16[j])
                        : _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int step = 0; step < kSteps; step++) {
      const __m512i low = own_load(tiles[0].q[j * kSteps + step]), high = own_load(tiles[1].q[j * kSteps + step]);
#pragma GCC unroll 6
      for (int m = 0; m < kM; m++) {
        const __m512i a = own_broadcast(&activations[m].q[j * kSteps + step]);
        dot[0][m] = _mm512_dpbusd_epi32(dot[0][m], low, a);
        dot[1][m] = _mm512_dpbusd_epi32(dot[1][m], high, a);
      }
    }
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; g++) {
      const __m512 weight_scale = _mm512_load_ps(tiles[g].scale[j]);
#pragma GCC unroll 6
      for (int m = 0; m < kM; m++) {
        __m512 value = _mm512_cvtepi32_ps(dot[g][m]);
        if constexpr (T.per_32)
          value = _mm512_mul_ps(value, _mm512_set1_ps(activations[m].scale[j * T.sub_block / 32]));
        sums[g][m] = _mm512_fmadd_ps(value, weight_scale, sums[g][m]);
        if constexpr (T.minima == Minima::kFloat)
          sums[g][m] =
              _mm512_fnmadd_ps(_mm512_load_ps(tiles[g].min[j]), _mm512_set1_ps(activations[m].sums_32[j]), sums[g][m]);
      }
    }
  }
#pragma GCC unroll 6
  for (int m = 0; m < kM; m++)
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; g++) {
      float* out = call.sums + m * call.stride + kTileRows * g;
      const __m512 before = _mm512_load_ps(out);
      if constexpr (T.per_32)
        _mm512_store_ps(out, _mm512_add_ps(before, sums[g][m]));
      else
        _mm512_store_ps(out, _mm512_fmadd_ps(sums[g][m], _mm512_set1_ps(activations[m].scale[0]), before));
    }
}

// Transpose `words` words (a multiple of 4) of 16 rows in a buffer into a tile's rows of 16 words. `place` returns
// where the buffer has a group of four words.
template <class Place>
LLAMA3_INLINE void transpose_words(const void* rows, size_t stride, int words, void* out, Place&& place) {
  const auto* from = static_cast<const uint8_t*>(rows);
  auto* to = static_cast<uint8_t*>(out);
  for (int i = 0; i < words / 4; i++) {
    __m512i transposed[4];
    transpose_4_words(from + 16 * place(i), stride, transposed);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) _mm512_store_si512(to + 64 * (4 * i + k), transposed[k]);
  }
}
LLAMA3_INLINE void transpose_words(const void* rows, size_t stride, int words, void* out) {
  transpose_words(rows, stride, words, out, [](int i) { return i; });
}

// Fill a tile with 16 rows, each loaded by the format's `load`.
template <class F>
void pack_tile(const uint8_t* rows, size_t row_bytes, int valid_rows, int weights, Tile& tile) {
  alignas(64) uint8_t q[16][256];
  alignas(64) float scale[16][16], min[16][16];
  alignas(64) int16_t min_codes[16][16];
  for (int r = 0; r < 16; r++) {
    const uint8_t* row = rows + static_cast<size_t>(r < valid_rows ? r : valid_rows - 1) * row_bytes;
    SuperBlock w;
    if (weights == kSuperBlock)
      F::template load<false>(row, kSuperBlock, w);
    else
      F::template load<true>(row, weights, w);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) _mm512_store_si512(q[r] + 64 * k, unsigned_operand<F>(w.q[k]));
    _mm512_store_ps(scale[r], w.scale);
    if constexpr (F::kMinima == Minima::kFloat) _mm512_store_ps(min[r], w.min);
    if constexpr (F::kMinima == Minima::kInteger) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(min_codes[r]), w.min_codes);
      tile.min_factor[r] = _mm512_cvtss_f32(w.min_factor);
    }
  }
  transpose_words(q, sizeof q[0], weights / 4, tile.q, [](int chunk) { return stored_chunk<F>(chunk); });
  transpose_words(scale, sizeof scale[0], F::kSubBlock == 32 ? 8 : 16, tile.scale);
  if constexpr (F::kMinima == Minima::kFloat) transpose_words(min, sizeof min[0], 8, tile.min);
  if constexpr (F::kMinima == Minima::kInteger)
    transpose_words(min_codes, sizeof min_codes[0], F::kSubBlock == 32 ? 4 : 8, tile.min_codes);
}

}  // namespace llama3::avx512
